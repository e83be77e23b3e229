"""What is committed as measured results: whole tables and figures alone."""

import argparse
import re
import runpy
from pathlib import Path

import pytest

from hired_eval.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "copy_results.py"


@pytest.fixture(scope="module")
def script() -> argparse.Namespace:
    return argparse.Namespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture
def reports(tmp_path: Path, script: argparse.Namespace) -> Path:
    for name in script.FILES:
        (tmp_path / name).write_text("row,marks\nFull,#\n")
    return tmp_path


def test_whole_results_are_taken(script: argparse.Namespace, reports: Path) -> None:
    script.check(reports)


def test_what_is_asked_for_is_what_make_reproduce_all_makes(script: argparse.Namespace) -> None:
    makefile = (SCRIPT.parents[1] / "Makefile").read_text()
    (made,) = re.findall(r"^EXPERIMENTS := (.*)$", makefile, re.MULTILINE)
    assert {Path(file).stem for file in script.FILES} == {*made.split()} - {"gallery"}


@pytest.mark.parametrize("mark", ["*", "+", "*#"])
def test_partial_and_dummy_results_are_refused(script: argparse.Namespace, reports: Path, mark: str) -> None:
    (reports / "table5.csv").write_text(f"row,marks\nFull,\nHiRED,{mark}\n")
    with pytest.raises(UserError, match=r"table5 in .* is of a part of a benchmark or of dummy weights"):
        script.check(reports)


def test_a_missing_report_is_named(script: argparse.Namespace, everything: Path) -> None:
    with pytest.raises(UserError, match=r"has no table4\.md, .*table6\.csv; start with make reproduce-all"):
        script.check(everything)
