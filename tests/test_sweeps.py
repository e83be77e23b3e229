"""The runs of a sweep over methods are answered in one pass over the pictures, and each is as it is alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hired_eval.models.answering import DroppingVLM
from hired_eval.models.family import Family
from hired_eval.records.folder import read_record
from hired_eval.records.record import Record, Timings
from hired_eval.runs import together
from tests.spine import command_line, held_elsewhere, run_quietly

METHODS = ("full", "hired", "prumerge")
PICTURES, QUESTIONS = 6, 12


@pytest.fixture(scope="module")
def alone(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each run in a process, or as good as one, of its own."""
    runs = tmp_path_factory.mktemp("alone")
    for method in METHODS:
        run_quietly(*tiny_run, f"method={method}", f"runs_dir={runs}")
    return runs


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many methods there are in each pass of the vision tower."""
    found: list[int] = []
    look = Family.look

    def counted(family: Family, pixels: Any, stages: Any, **options: Any) -> Any:
        found.append(len(stages))
        return look(family, pixels, stages, **options)

    monkeypatch.setattr(Family, "look", counted)
    return found


@pytest.fixture
def sweep(tiny_run: list[str], tmp_path: Path) -> list[str]:
    return ["-m", *tiny_run, f"method={','.join(METHODS)}", f"runs_dir={tmp_path}"]


def without_time(record: Record) -> Record:
    return replace(record, finished="", timings=Timings(), config={})


def check(runs: Path, alone: Path) -> dict[str, Record]:
    """That runs are those that were made alone; their records by method."""
    records = {}
    for folder in sorted(alone.glob("docvqa-*")):
        found, expected = read_record(runs / folder.name), read_record(folder)
        assert found is not None
        assert expected is not None
        assert without_time(found) == without_time(expected)
        samples = [pd.read_parquet(where / folder.name / "samples.parquet") for where in (runs, alone)]
        pd.testing.assert_frame_equal(*samples)
        assert not list((runs / folder.name).glob("replies*"))
        records[found.method_label] = found
    return records


def test_each_picture_is_encoded_once_and_records_are_as_alone(
    sweep: list[str],
    alone: Path,
    passes: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line(monkeypatch, *sweep) == 0
    assert passes == [3] * PICTURES
    records = check(tmp_path, alone)
    assert {record.timings.together for record in records.values()} == {3}
    timings = [record.timings for record in records.values()]
    assert [timing.questions_timed for timing in timings] == [QUESTIONS] * 3
    assert all(timing.questions_per_second * timing.seconds == pytest.approx(QUESTIONS) for timing in timings)
    lines = [line for line in capsys.readouterr().err.splitlines() if "run " in line]
    assert [line[line.index("run ") :][:10] for line in lines] == [f"run {i} of 3" for i in (1, 2, 3)]
    assert " s for 3 runs, under a minute left)" in lines[0]
    assert "for 3 runs" not in lines[1] + lines[2]
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("docvqa-*/*")}
    assert command_line(monkeypatch, *sweep) == 0
    assert "every run was complete already" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("docvqa-*/*")} == before
    passes.clear()
    assert command_line(monkeypatch, *sweep, "rerun=true") == 0
    assert passes == [3] * PICTURES
    check(tmp_path, alone)


def test_a_sweep_that_is_interrupted_goes_on_where_each_run_stopped(
    sweep: list[str], alone: Path, passes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = [*sweep, "batch_size=1"]
    answer, asked = DroppingVLM.answer, []

    def interrupted(llava: DroppingVLM, *arguments: Any) -> Any:
        asked.append(type(llava.dropper).__name__)
        if len(asked) == 30:
            raise KeyboardInterrupt
        return answer(llava, *arguments)

    monkeypatch.setattr(DroppingVLM, "answer", interrupted)
    assert command_line(monkeypatch, *sweep) == 130
    assert len(set(asked)) == 3
    assert not list(tmp_path.glob("*/record.json"))
    assert command_line(monkeypatch, *sweep) == 0
    assert len(asked) == 1 + 3 * QUESTIONS, "no question is answered twice"
    timed = [record.timings.questions_timed for record in check(tmp_path, alone).values()]
    assert sum(timed) == 3 * QUESTIONS - 29


def test_a_run_that_another_process_holds_is_left_to_it(
    sweep: list[str],
    alone: Path,
    passes: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (held,) = alone.glob("docvqa-*hired*")
    with held_elsewhere(tmp_path, held.name):
        assert command_line(monkeypatch, *sweep) == 1
    assert "another process is working on this run" in capsys.readouterr().err
    assert passes == [2] * PICTURES
    assert command_line(monkeypatch, *sweep) == 0
    check(tmp_path, alone)


def test_what_fails_is_told_in_its_own_turn(
    tiny_run: list[str],
    tmp_path: Path,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """FastV acts behind a layer that the tiny model does not have."""
    sweep = ["-m", *tiny_run, f"runs_dir={tmp_path}", "limit=2", "method=full,fastv,random"]
    assert command_line(monkeypatch, *sweep) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "run " in line]
    assert ["failed: FastV acts at layer 2" in line for line in lines[:3]] == [False, True, False]
    assert " s for 2 runs" in lines[0]
    assert passes == [2]


def test_so_many_are_answered_together_and_no_more(
    tiny_run: list[str], tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST_TOGETHER", 2)
    sweep = ["-m", *tiny_run, f"runs_dir={tmp_path}", "method=full,random", "budget=0.2,0.3", "limit=2"]
    assert command_line(monkeypatch, *sweep) == 0
    assert passes == [2, 1]
