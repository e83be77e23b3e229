"""`python -m tests.mutants.campaign`: each seeded fault in a copy of the code, and what sees it."""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutants.seeded import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
START, END = "<!-- made by python -m tests.mutants.campaign: start -->", "<!-- end -->"
CHECKPOINT = ROOT / "build/mutants.json"
"""What is done already, for the state of the code that it names."""
REGRESSION = [
    "--samples",
    "24",
    "--benchmarks",
    "docvqa,pope",
    "--methods",
    "full,hired,prumerge",
]


def copy_of_the_code(folder: Path) -> Path:
    """What version control would keep of the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A module of the copy, which stands before the installed package in the search path."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=root, capture_output=True, text=True, check=False
    )


def of_tests(root: Path, tests: Iterable[str]) -> str:
    """The first of the tests that fails; '' if none does."""
    outcome = run(root, "pytest", "-x", "-p", "no:cacheprovider", *tests)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?)(?:\[| |$)", outcome.stdout, re.MULTILINE)
    if outcome.returncode == 0:
        return ""
    return failed[1].removeprefix("tests/") if failed else f"pytest ended with {outcome.returncode}"


def of_regression(root: Path) -> str:
    """Why the regression is not the same; '' if it is."""
    outcome = run(root, "hired_eval", "regress", "--out", str(root / "out"), *REGRESSION)
    if outcome.returncode == 0:
        return ""
    if outcome.returncode == 1:
        verdict = re.search(r"^regression: different \((.+)\)$", outcome.stdout, re.MULTILINE)
        return verdict[1].partition(": ")[2] if verdict else "different"
    return "stopped: " + outcome.stderr.strip().splitlines()[-1].removeprefix("error: ")[:90]


def caught(mutant: Mutant | None) -> tuple[str, str]:
    """What tests and regression say of a copy with a mutant, or of one without."""
    with tempfile.TemporaryDirectory(prefix="hired-eval-mutant-") as folder:
        root = copy_of_the_code(Path(folder))
        if mutant:
            mutant.seed(root)
        tests = mutant.tests if mutant else sorted({name for each in MUTANTS for name in each.tests})
        return of_tests(root, tests), of_regression(root)


def state_of_the_code() -> str:
    """The commit, and what differs from it."""
    commands = ("rev-parse", "HEAD"), ("diff", "HEAD"), ("status", "--porcelain")
    said = [subprocess.run(["git", *c], cwd=ROOT, check=True, capture_output=True).stdout for c in commands]
    return hashlib.sha256(b"".join(said)).hexdigest()


def main() -> None:
    """Run all mutants, print the table, and put it into a file where one is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.campaign", description=__doc__)
    parser.add_argument("--write", type=Path, help="put the result between the marks in this file")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    chosen = parser.parse_args()
    state = state_of_the_code()
    done: dict[str, list[str]] = {}
    if CHECKPOINT.is_file() and (kept := json.loads(CHECKPOINT.read_text()))["state"] == state:
        done = kept["done"]
        print(f"{len(done)} of {len(MUTANTS)} are done already")
    elif any(said := caught(None)):
        sys.exit(
            f"error: without a mutant the tests say {said[0] or 'nothing'}, regression {said[1] or 'nothing'}"
        )
    CHECKPOINT.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        running = {pool.submit(caught, mutant): mutant for mutant in MUTANTS if mutant.name not in done}
        for future in as_completed(running):
            name = running[future].name
            done[name] = list(future.result())
            print(f"{len(done)}/{len(MUTANTS)} {line_of(name, done[name])}", flush=True)
            CHECKPOINT.write_text(json.dumps({"state": state, "done": done}))
    lines = ["| seeded fault | first test that fails | regression: 3 runs of 2 benchmarks |", "|---|---|---|"]
    lines += [line_of(mutant.name, done[mutant.name]) for mutant in MUTANTS]
    missed = sum(not any(done[mutant.name]) for mutant in MUTANTS)
    text = "\n".join([*lines, "", f"{len(MUTANTS) - missed} of {len(MUTANTS)} caught.", ""])
    if chosen.write:
        page = chosen.write.read_text()
        before, after = page.split(START)[0], page.split(END)[1]
        chosen.write.write_text(f"{before}{START}\n\n{text}\n{END}{after}")
    sys.exit(1 if missed else 0)


def line_of(name: str, said: Sequence[str]) -> str:
    """The row of a mutant."""
    tests, regression = said
    return f"| {name} | {f'`{tests}`' if tests else 'none'} | {regression or 'the same'} |"


if __name__ == "__main__":
    main()
