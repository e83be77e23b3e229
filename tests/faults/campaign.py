"""`python -m tests.faults.campaign`: a sweep killed again and again, and what was left at every stop."""

import argparse
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from hired_eval.records.folder import RunFolder, read_record
from hired_eval.records.record import Record
from hired_eval.records.store import Store
from hired_eval.reporting.write import write
from tests.faults.child import Conditions, Key, journal_of, start

SWEEP = ["model=mini", "method=full,hired,prumerge_plus", "task=docvqa,pope", "limit=36", "batch_size=9"]
SLOW_DISK = 0.2
KILLS_A_SWEEP = 6
"""Attempts that one sweep would need if each ended as late as a kill may come."""
START_UP = 2.0
"""Seconds from a child's start to its first answer, about."""
POLL = 0.002
DIFFERS_BETWEEN_ATTEMPTS = ("finished", "timings", "config")
START, END = "<!-- made by python -m tests.faults.campaign: start -->", "<!-- end -->"


@dataclass
class Campaign:
    """What happened.

    Attributes:
        runs: of one sweep.
        questions: of one sweep.
        sweeps: killed until they were complete.
        kills: processes ended by SIGKILL.
        moments: what was on disk at the kill -> kills.
        most_repeated: questions of one attempt that an earlier one had begun, at most.
        checks: records read at the stops.
        faults: what was wrong, in words; none: nothing was.
    """

    runs: int = 0
    questions: int = 0
    sweeps: int = 0
    kills: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    most_repeated: int = 0
    checks: int = 0
    faults: list[str] = field(default_factory=list)


class Sweep:
    """One sweep in a folder of its own.

    Args:
        arguments: of the command line, behind -m.
        folder: for everything it leaves.
        slow_disk: seconds a flush takes.
    """

    def __init__(self, arguments: list[str], folder: Path, slow_disk: float) -> None:
        self.runs, self.journal = folder / "runs", folder / "journal"
        self.arguments = ["-m", *arguments, f"runs_dir={self.runs}"]
        self.output = folder / "output"
        self.conditions = Conditions(folder / "datasets", self.journal, slow_disk)
        folder.mkdir(parents=True)

    def attempt(self, moment: tuple[float, bool] | None) -> bool:
        """Start it; whether it was killed. How long it took is in `seconds`.

        Args:
            moment: of the kill: seconds, and whether from the start or from the first batch; None: no kill.

        Raises:
            AssertionError: it ended by itself with an error.
        """
        before, begun = _size(self.journal), time.monotonic()
        child = start(self.arguments, self.output, self.conditions)
        if moment is not None:
            seconds, from_start = moment
            while child.process.is_alive() and not from_start and _size(self.journal) == before:
                time.sleep(POLL)
            child.process.join(seconds)
            child.send(signal.SIGKILL)
        status = child.wait()
        self.seconds = time.monotonic() - begun
        assert status in (0, -signal.SIGKILL), f"it ended with {status}: {child.printed()}"
        return status != 0

    def moment(self) -> str:
        """What the kill left on disk."""
        if list(self.runs.glob("*/.*")):
            return "while a file was put in place"
        replies = sum(file.read_bytes().count(b"\n") for file in self.runs.glob("*/replies*.jsonl"))
        return "in the middle of a run" if replies else "between runs, or before the first answer of one"

    def kept(self) -> set[Key]:
        """Every question of a run that is not finished whose answer is on disk."""
        found = set()
        for file in self.runs.glob("*/replies*.jsonl"):
            content = file.read_bytes()
            for line in content[: content.rfind(b"\n") + 1].splitlines():
                found.add((file.parent.name, *json.loads(line)[0]))
        return found

    def finished(self) -> dict[str, tuple[Any, ...]]:
        """Identity of every finished record and its samples: inode, time of writing, content.

        Raises:
            UserError: a record or its samples cannot be read.
        """
        identities = {}
        for record in sorted(self.runs.glob("*/record.json")):
            if RunFolder(self.runs, record.parent.name).record() is None:
                continue
            for file in (record, record.parent / "samples.parquet"):
                status, content = file.stat(), hashlib.sha256(file.read_bytes()).hexdigest()
                identities[str(file)] = (status.st_ino, status.st_mtime_ns, content)
        return identities

    def table(self, out: Path) -> str:
        """Table 3 of the records, as Markdown and CSV."""
        list(write(Store(self.runs), ["table3"], out))
        return (out / "table3.md").read_text() + (out / "table3.csv").read_text()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def campaign(
    undisturbed: Sweep, arguments: list[str], folder: Path, kills: int, seed: int, slow_disk: float
) -> Campaign:
    """Run a sweep again and again with kills at random moments, and compare each time.

    Args:
        undisturbed: the same sweep, complete.
        arguments: of the command line, behind -m.
        folder: empty.
        kills: after as many, the sweep that is under way runs to its end.
        seed: of the moments.
        slow_disk: seconds a flush takes.
    """
    said, dice = Campaign(), random.Random(seed)
    batches = journal_of(undisturbed.journal)
    said.questions, largest = sum(map(len, batches)), max(map(len, batches))
    said.runs = len(undisturbed.finished()) // 2
    while said.kills < kills:
        said.sweeps += 1
        sweep = Sweep(arguments, folder / f"killed-{said.sweeps}", slow_disk)
        while _killed_once(
            sweep, said, largest, None if said.kills >= kills else _moment(dice, undisturbed.seconds)
        ):
            said.kills += 1
            said.moments[sweep.moment()] += 1
        said.faults += differences(undisturbed, sweep)
    return said


def _moment(dice: random.Random, whole: float) -> tuple[float, bool]:
    """Seconds until a kill, and whether they count from the start: every fifth falls into the start-up."""
    starting = dice.random() < 0.2
    return dice.uniform(0, START_UP if starting else whole / KILLS_A_SWEEP), starting


def _killed_once(sweep: Sweep, said: Campaign, largest: int, moment: tuple[float, bool] | None) -> bool:
    """One attempt, and what is wrong after it; whether it was killed."""
    before, kept, finished = journal_of(sweep.journal), sweep.kept(), sweep.finished()
    killed = sweep.attempt(moment)
    now = sweep.finished()
    said.checks += len(now) // 2
    said.faults += [f"{f} was written again" for f, was in finished.items() if now.get(f) != was]
    asked = [key for batch in journal_of(sweep.journal)[len(before) :] for key in batch]
    known = [k for k in asked if k in kept or str(sweep.runs / k[0] / "record.json") in finished]
    if known:
        said.faults.append(f"{len(known)} questions were asked again though their answers were kept")
    begun_before = {key for batch in before for key in batch}
    twice = sum(key in begun_before for key in asked)
    said.most_repeated = max(said.most_repeated, twice)
    if twice > largest:
        said.faults.append(f"{twice} questions were answered twice, and a batch has {largest}")
    return killed


def differences(undisturbed: Sweep, sweep: Sweep) -> list[str]:
    """What the records and the tables of two sweeps differ in."""
    names = [sorted(f.parent.name for f in s.runs.glob("*/record.json")) for s in (undisturbed, sweep)]
    if names[0] != names[1]:
        return [f"the runs are {names[1]}, not {names[0]}"]
    faults = []
    for name in names[0]:
        one, other = (read_record(s.runs / name) for s in (undisturbed, sweep))
        same = sorted({f.name for f in fields(Record)} - set(DIFFERS_BETWEEN_ATTEMPTS))
        faults += [f"{name}: {k} differs" for k in same if getattr(one, k) != getattr(other, k)]
        samples = [pd.read_parquet(s.runs / name / "samples.parquet") for s in (undisturbed, sweep)]
        if not samples[0].equals(samples[1]):
            faults.append(f"{name}: the samples differ")
    if undisturbed.table(undisturbed.runs.parent) != sweep.table(sweep.runs.parent):
        faults.append("the tables differ")
    return faults


def report(said: Campaign, arguments: list[str], seed: int) -> str:
    """The campaign in Markdown."""
    moments = "\n".join(f"| killed {what} | {count} |" for what, count in sorted(said.moments.items()))
    found = "".join(f"\n- {fault}" for fault in said.faults) or " none"
    return f"""\
Sweep: `{" ".join(arguments)}`, seed {seed}.

| | |
|---|---|
| runs, questions of one sweep | {said.runs}, {said.questions} |
| sweeps killed until they were complete | {said.sweeps} |
| processes killed (SIGKILL) | {said.kills} |
{moments}
| finished records read at the stops | {said.checks} |
| finished records written again | {sum("written again" in fault for fault in said.faults)} |
| questions answered again after one kill, at most | {said.most_repeated} |

Faults found:{found}
"""


def main() -> None:
    """Run the campaign, print it, and put it into a file where one is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="put the result between the marks in this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Sweep(SWEEP, Path(folder) / "undisturbed", SLOW_DISK)
        undisturbed.attempt(None)
        said = campaign(undisturbed, SWEEP, Path(folder), chosen.kills, chosen.seed, SLOW_DISK)
    text = report(said, SWEEP, chosen.seed)
    print(text)
    if chosen.write:
        page = chosen.write.read_text()
        before, after = page.split(START)[0], page.split(END)[1]
        chosen.write.write_text(f"{before}{START}\n{text}{END}{after}")
    sys.exit(1 if said.faults else 0)


if __name__ == "__main__":
    main()
