"""README and docs: links lead somewhere, code runs, commands exist, measured tables are up to date."""

import argparse
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from lmms_eval.utils import simple_parse_args_string
from PIL import Image

from hired_eval.cli.arguments import translate_for_hydra
from hired_eval.cli.compare import make_parser as compare_options
from hired_eval.cli.help import check_names
from hired_eval.cli.show import make_parser as show_options
from hired_eval.dropping.registry import build
from hired_eval.lmms.options import VLMOptions, read_typed
from hired_eval.models.configs import prompt_named
from hired_eval.paths import config_folder
from hired_eval.regression.chosen import read_set
from hired_eval.regression.command import make_parser as regression_options
from hired_eval.reporting.configs import PACKAGED
from hired_eval.reporting.rank import make_parser as rank_options
from hired_eval.reporting.rank import read_ranking
from hired_eval.reporting.spec import read_row
from hired_eval.reporting.write import reports
from hired_eval.runs.options import read_config
from hired_eval.typed import types_of
from tests.spine import command_line, config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NOT_RUN = {"", "bibtex", "json", "text", "toml"}
OTHER_PROGRAMS = {"cd", "clean/bin/pip", "git", "hf", "pip", "python3.11", "source"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of every bash block, continued lines joined."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    yield name_of(page), " ".join(line.split())


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_readme_links_every_page_of_the_navigation() -> None:
    found = set(re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text())) - {"index.md"}
    assert {"methods.md", "extending.md"} <= found
    assert not [page for page in found if f"(docs/{page})" not in (ROOT / "README.md").read_text()]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    build_site = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(build_site, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build" / "site" / "extending.html").is_file()
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write("[nowhere](nowhere.md)\n")
    broken = subprocess.run(build_site, cwd=tmp_path, capture_output=True, check=False)
    assert broken.returncode != 0


def test_every_block_has_a_language_that_is_tested() -> None:
    known = {"python", "yaml", "bash", *NOT_RUN}
    for page in PAGES:
        assert {language for language, _ in FENCE.findall(page.read_text())} <= known, page
        for block in blocks(page, "yaml"):
            assert yaml.safe_load(block), page


def checked_run(arguments: list[str]) -> None:
    """Names exist, and the config composes with the first of every option's values."""
    if "--config-dir" in arguments:
        return  # the examples of docs/extending.md, run below
    check_names(arguments)
    arguments = translate_for_hydra(arguments)
    overrides = [a for a in arguments if "=" in a and not a.startswith(("hydra/launcher=", "hydra.launcher"))]
    composed = config(
        *(re.sub(r",[\w./-]+", "", a) if re.fullmatch(r"\+*[\w.]+=[\w.,/-]+", a) else a for a in overrides)
    )
    if any(a.startswith("model.prompt=") for a in arguments):
        checked_prompt(read_config(composed).model.prompt)


def checked_lmms(arguments: list[str]) -> None:
    given = simple_parse_args_string(arguments[arguments.index("--model_args") + 1])
    assert arguments[arguments.index("--model") + 1] in ("hired_vlm", "hired_llava")
    build(given.pop("method"), budget=given.pop("budget"))
    typed = read_typed(VLMOptions, given)
    assert {"pretrained"} <= typed.keys() <= types_of(VLMOptions).keys()
    if "prompt" in typed:
        checked_prompt(prompt_named(typed["prompt"]))


def checked_prompt(prompt: str) -> None:
    """What is typed means line breaks, and no backslash or quote of the typing stays."""
    assert not re.search(r"[\\\"']", prompt.replace("user's", "users"))
    assert "{images}" in prompt
    assert "\n{question}" in prompt


def checked_make(arguments: list[str]) -> None:
    targets = [a for a in arguments if "=" not in a]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        name = "reproduce-%" if target.startswith("reproduce-") and target != "reproduce-all" else target
        assert re.search(rf"^(\$\(REPRODUCE\): )?{re.escape(name)}:", makefile, re.MULTILINE), target
        if name == "reproduce-%":
            assert (config_folder() / "experiment" / f"{target.removeprefix('reproduce-')}.yaml").is_file()
    for variable in (a.partition("=") for a in arguments if "=" in a):
        assert re.search(rf"^{variable[0]} [?]?=", makefile, re.MULTILINE), variable
        if variable[0] == "OVERRIDES":
            checked_run(variable[2].split())


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_commands_exist(page: str, command: str) -> None:
    words = shlex.split(command.removeprefix(".venv/bin/"), comments=True)
    if words[0] == "make":
        checked_make(words[1:])
    elif words[0] == "lmms-eval":
        checked_lmms(words)
    elif words[:2] == ["hired-eval", "compare"]:
        asked = compare_options().parse_args(words[2:])
        if asked.config_dir:
            return  # an example of docs/extending.md, run below
        for run in (run for run in (asked.before, asked.after) if "=" in run):
            checked_run(run.split())
    elif words[0] == "hired-eval" and words[1] == "show":
        _, given = show_options().parse_known_args(words[2:])
        checked_run(given[1:])
    elif "hired_eval.reporting" in words or words[:2] == ["hired-eval", "report"]:
        # the examples of docs/extending.md are run below
        if "--against" in words:
            PACKAGED.row(read_row(words.pop()))
            words.pop()
        assert words[-1] in reports() or "--config-dir" in words
    elif words[:2] == ["hired-eval", "rank"]:
        wanted = rank_options().parse_args(words[2:])
        PACKAGED.group([column.name for column in read_ranking(wanted.option).columns])
        PACKAGED.row(read_row(wanted.against or "hired"))
    elif words[:2] == ["hired-eval", "lmms-tasks"]:
        assert len(words) == 3
    elif words[0] == "hired-eval" and words[1] == "regress":
        regression = regression_options().parse_args(words[2:])
        if not regression.set.endswith(".yaml"):
            read_set(regression.set).part(regression.methods, regression.benchmarks, regression.samples)
    elif words[:2] == ["hired-eval", "plan"]:
        checked_run(words[2:])
    elif "hired_eval" in words:
        checked_run(words[words.index("hired_eval") + 1 :])
    elif words[0] == "python" and words[1].startswith("scripts/"):
        options = (ROOT / words[1]).read_text()
        assert all(f'"{a}"' in options for a in words[2:] if a.startswith("--"))
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2])
    elif words[0] == "python":
        assert any(f"# {words[1]}\n" in block for block in blocks(ROOT / page, "python"))
    else:
        assert words[0] in OTHER_PROGRAMS, f"{page}: nothing here checks {command}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python") and p.name != "extending.md"], ids=name_of
)
def test_python_runs(
    page: Path,
    llava_next: tuple[Any, Any],
    internvl: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Blocks of a page run one after another, with a tiny model where they speak of one."""
    monkeypatch.chdir(tmp_path)
    model, processor = internvl if page.name == "families.md" else llava_next
    names = {
        "model": model,
        "processor": processor,
        "image": Image.new("RGB", (90, 60)),
        "prompt": "<image>a",
    }
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for block in blocks(page, "python"):
        exec(compile(block, name_of(page), "exec"), names)
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    said = re.findall(r"^print\(.*\)  # (.*)$", "".join(blocks(page, "python")), re.MULTILINE)
    assert printed[len(printed) - len(said) :] == said


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The files of docs/extending.md in a folder of their own, and its command line there."""
    page = ROOT / "docs" / "extending.md"
    for block in chain(blocks(page, "python"), blocks(page, "yaml")):
        file = tmp_path / block.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block)
        assert len(block.splitlines()) < 30, "an example stays short"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda *arguments: command_line(monkeypatch, *arguments)
    sys.modules.pop("my_package", None)


def test_the_examples_of_extending_run_as_written(
    examples: Callable[..., int],
    tiny_checkpoint: Path,
    docvqa_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A tiny model and a few documents stand for the bundled ones."""
    (tmp_path / "my_llava").symlink_to(tiny_checkpoint)
    runpy.run_path("test_my_package.py")
    runpy.run_path("my_questions.py")
    runpy.run_path("theirs.py")
    for command in (command for page, command in commands() if page == "docs/extending.md"):
        words = shlex.split(command)
        if "hired_eval.reporting" in words:
            assert examples("report", *words[3:]) == 0
        elif words[:2] == ["hired-eval", "report"]:
            assert examples(*words[1:]) == 0
        elif words[:2] == ["hired-eval", "compare"]:
            here = f" model.path={tiny_checkpoint} data.path={docvqa_folder}"
            runs = [word.replace("limit=60", "limit=2") + here for word in words[2:4]]
            assert examples("compare", *runs, *words[4:]) == 0, command
        elif "hired_eval" in words:
            model = [] if "model=my_llava" in words else [f"model.path={tiny_checkpoint}"]
            data = [] if "data.path=" in command else [f"data.path={docvqa_folder}"]
            kept = [w for w in words[3:] if w != "data=bundled" and not w.startswith("limit=")]
            assert examples(*kept, *model, *data, "limit=2") == 0, command
    printed = capsys.readouterr().out
    assert re.search(r"\| docvqa +\| Brightest 20 % +\|", printed), "the table of the run"
    assert re.search(r"Brightest 20 % .*HiRED 20 %", printed), "the comparison"
    assert re.search(r"^\| Brightest 20 % +\|", printed, re.MULTILINE), "the report"
    assert "|   vs HiRED at the same budget |" in printed, "the report with differences to HiRED"
    assert re.search(r"\| squares +\| HiRED 20 % +\|", printed)
    own = printed[printed.index("## My method beside HiRED") :]
    assert re.search(r"^\| method +\| tokens +\| DocVQA +\| Squares +\|", own, re.MULTILINE)
    assert re.search(r"^\| Brightest of all +\| \d+ %", own, re.MULTILINE)
    assert re.search(r"^\| Brightest 20 %, power=2.0 +\| - +\| - +\| - +\|$", own, re.MULTILINE)
    assert "| 60.8 " in own
    assert "| Random 20 % " in own


def test_measured_tables_are_those_of_the_committed_results() -> None:
    """After a change of results/mini: python scripts/fill_docs.py, or make measured."""
    script = argparse.Namespace(**runpy.run_path(str(ROOT / "scripts" / "fill_docs.py")))
    for name, (page, _) in script.TABLES.items():
        assert script.filled(name, page.read_text()) == page.read_text(), (
            f"{page.name}: {name} is out of date"
        )


def test_the_citation_file_names_what_it_must() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()
    paper = cited["preferred-citation"]
    assert paper["authors"][0]["family-names"] == "Arif"
    assert paper["title"].replace("HiRED: ", "") in " ".join((ROOT / "README.md").read_text().split())
