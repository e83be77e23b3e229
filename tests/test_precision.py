"""Runs that grow: whom they go on from, when they stop, and what they refuse."""

from pathlib import Path

import pandas as pd
import pytest

from hired_eval.errors import UserError
from hired_eval.records.store import Store
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import Outcome, measure
from tests.data import write_ocrbench
from tests.spine import run_config
from tests.test_runs import CountedAnswers, samples_of

QUESTIONS = 24


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture(scope="module")
def ocrbench(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Questions that every answer is right or wrong for: two methods never differ."""
    data = write_ocrbench(tmp_path_factory.mktemp("data"), right=16, wrong=8)
    return [f"model.path={tiny_checkpoint}", f"data.path={data}", "task=ocrbench"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hired_eval.runs.precision.FIRST_LOOK", 9)
    monkeypatch.setattr("hired_eval.runs.precision.GROWTH", 2)


def run(models: Models, *overrides: str, said: list[str] | None = None) -> Outcome:
    lines: list[str] = []
    return measure(run_config(*overrides), (lines if said is None else said).append, models)


def test_a_larger_part_goes_on_from_a_smaller_one_and_the_whole_from_both(
    ocrbench: list[str], models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*ocrbench, f"runs_dir={tmp_path}"]
    counted = CountedAnswers(monkeypatch)
    first = run(models, *options, "limit=5")
    documents = set(samples_of(first)["doc_id"])
    assert (counted.given, len(documents)) == (5, 5)
    assert documents != set(range(5)), "random ones"
    more = run(models, *options, "limit=9")
    assert (counted.given, more.folder) == (9, first.folder)
    assert documents < set(samples_of(more)["doc_id"])
    assert more.record.samples == 9
    fewer = run(models, *options, "limit=5")
    assert fewer.reused
    assert fewer.record == more.record
    whole = run(models, *options)
    assert (counted.given, whole.record.partial) == (QUESTIONS, False)
    assert whole.record.timings.questions_timed == QUESTIONS - 9
    assert "unit" not in samples_of(whole)
    again = run(models, *options, "limit=11")
    assert again.reused
    assert again.folder == whole.folder
    alone = run(models, *ocrbench, f"runs_dir={tmp_path / 'alone'}")
    assert alone.folder.name == whole.folder.name
    pd.testing.assert_frame_equal(samples_of(alone), samples_of(whole))


def test_a_method_stops_where_it_is_settled_and_full_answers_the_same_first(
    ocrbench: list[str], models: Models, tmp_path: Path
) -> None:
    said: list[str] = []
    options = [*ocrbench, f"runs_dir={tmp_path}", "decide=equivalent:20"]
    outcome = run(models, *options, said=said)
    assert outcome.record.partial
    assert outcome.record.samples == 18
    full = next(r for r in Store(tmp_path).records if r.method.target.endswith(".Full"))
    assert full.samples == outcome.record.samples
    assert full.drawing == outcome.record.drawing
    assert "Full has not answered these 9 documents of ocrbench: it answers them first" in said
    assert said[-1].endswith("]: within 20 points of Full")
    looks = [line for line in said if " documents: +0.00 [" in line]
    assert [line.split()[0] for line in looks] == ["9", "18"]
    again: list[str] = []
    assert run(models, *options, said=again).record == outcome.record
    assert not [line for line in again if "answers them first" in line]


def test_seeds_share_the_answers_of_full_execution(
    ocrbench: list[str], models: Models, tmp_path: Path
) -> None:
    options = [*ocrbench, f"runs_dir={tmp_path}"]
    run(models, *options, "method=full", "limit=9", "seed=1")
    for seed in (1, 2):
        run(models, *options, "method=random", "decide=equivalent:30", f"seed={seed}")
    records = Store(tmp_path).records
    assert sorted(r.seed for r in records if r.method.target.endswith(".Random")) == [1, 2]
    assert sorted(r.seed for r in records if r.method.target.endswith(".Full")) == [0, 1]


def test_what_is_never_settled_ends_with_the_whole_benchmark(
    ocrbench: list[str], models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = CountedAnswers(monkeypatch)
    options = [*ocrbench, f"runs_dir={tmp_path}"]
    outcome = run(models, *options, "decide=different")
    assert counted.given == 2 * QUESTIONS
    assert not outcome.record.partial
    assert outcome.folder.name == run(models, *options).folder.name


def test_full_execution_grows_until_its_own_score_is_known(
    ocrbench: list[str], models: Models, tmp_path: Path
) -> None:
    options = [*ocrbench, f"runs_dir={tmp_path}", "method=full"]
    record = run(models, *options, "precision=30").record
    assert record.partial
    found = Store(tmp_path).score([record])
    assert found.sequence
    assert found.high - found.low <= 60
    assert found.low <= found.value <= found.high
    assert record.score is not None
    assert (record.score.low, record.score.high) == pytest.approx((found.low, found.high))
    assert run(models, *options, "decide=different").record.samples == record.samples, "nothing to decide"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["limit=5"], "precision and decide choose how many documents are answered; leave limit out"),
        (["order=dataset"], "precision and decide need documents in random order"),
        (["measure=gallery"], "measure=gallery has no score; leave precision and decide out"),
        (["decide=equal"], "decide must be different, or equivalent:POINTS"),
        (["task.scoring=mean", "+task.scale=1"], "task.scale=1 sets no bound to what a document can score"),
    ],
)
def test_what_excludes_a_goal_is_refused(
    ocrbench: list[str], models: Models, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(models, *ocrbench, f"runs_dir={tmp_path}", "precision=5", *options)
    assert not list(tmp_path.glob("*/*.parquet"))
