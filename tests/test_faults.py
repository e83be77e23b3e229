"""Faults that come upon a running process: killed, interrupted, or not alone on the folder of results."""

import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.campaign import Sweep, campaign, differences
from tests.faults.child import Conditions, Key, journal_of, start

SLOW_DISK = 0.05


@pytest.fixture(scope="module")
def sweep(tiny_run: list[str]) -> list[str]:
    return [*tiny_run, "method=full,hired", "limit=8", "batch_size=2", "reading.workers=2"]


@pytest.fixture(scope="module")
def alone(sweep: list[str], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep, undisturbed."""
    done = Sweep(sweep, tmp_path_factory.mktemp("alone") / "sweep", SLOW_DISK)
    done.attempt(None)
    return done


def asked(journal: Path) -> list[Key]:
    """Every question that a model began to answer, as often as it did."""
    return [key for batch in journal_of(journal) for key in batch]


def test_a_sweep_killed_at_random_moments_is_that_of_an_undisturbed_one(
    alone: Sweep, sweep: list[str], tmp_path: Path
) -> None:
    said = campaign(alone, sweep, tmp_path / "sweeps", kills=3, seed=1, slow_disk=SLOW_DISK)
    assert not said.faults
    assert said.kills == 3
    assert (said.runs, said.questions) == (2, 16)
    assert said.most_repeated <= 2


def test_what_the_kills_would_have_changed_is_noticed(alone: Sweep, sweep: list[str], tmp_path: Path) -> None:
    other = Sweep(sweep, tmp_path / "other", 0)
    shutil.copytree(alone.runs, other.runs)
    assert differences(alone, other) == []
    samples, *_ = sorted(other.runs.glob("*/samples.parquet"))
    pd.read_parquet(samples).assign(score=1.0).to_parquet(samples, index=False)
    name = samples.parent.name
    assert differences(alone, other) == [f"{name}: the samples differ", "the tables differ"]
    (samples.parent / "record.json").unlink()
    assert differences(alone, other)[0].startswith("the runs are ")


def test_two_processes_share_a_folder_of_results(alone: Sweep, sweep: list[str], tmp_path: Path) -> None:
    shared = Sweep(sweep, tmp_path / "shared", SLOW_DISK)
    children = [start(shared.arguments, tmp_path / f"output-{i}", shared.conditions) for i in range(2)]
    for child in children:
        status = child.wait()
        lines = [line for line in child.printed().splitlines() if "failed: " in line or "error: " in line]
        assert status == (1 if lines else 0), child.printed()
        # the one that was first holds the runs that it answers together
        told = [line for line in lines if line != "error: 2 runs failed"]
        assert all("another process is working on this run" in line for line in told)
        assert "Traceback" not in child.printed()
    questions = asked(shared.journal)
    assert len(questions) == len(set(questions)) == 16
    assert differences(alone, shared) == []


def test_ctrl_c_is_one_line_and_the_next_start_goes_on(tiny_run: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_run, "batch_size=1", "reading.workers=2", f"runs_dir={tmp_path / 'runs'}"]
    conditions = Conditions(tmp_path / "datasets", tmp_path / "journal", slow_disk=0.4)
    child = start(arguments, tmp_path / "output", conditions)
    while len(asked(tmp_path / "journal")) < 4:
        assert child.process.is_alive(), child.printed()
        time.sleep(0.005)
    child.send(signal.SIGINT)
    assert child.wait() == 130
    assert child.printed().splitlines()[-1] == "error: interrupted; start it again to go on where it stopped"
    assert "Traceback" not in child.printed()
    assert not list(tmp_path.glob("runs/*/record.json"))
    begun = len(asked(tmp_path / "journal"))
    assert start(arguments, tmp_path / "output", replace(conditions, slow_disk=0)).wait() == 0
    assert len(asked(tmp_path / "journal")) - begun in (12 - begun, 13 - begun), "one batch again at most"
    assert len(list(tmp_path.glob("runs/*/record.json"))) == 1
