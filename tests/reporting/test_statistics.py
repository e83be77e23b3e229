"""Paired differences: exact where they can be known, and honest about noise."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval.records import statistics
from hired_eval.records.scores import SCORERS, difference, score, scorer_of

MEAN, MME, POINTS = SCORERS["mean"], SCORERS["mme"], SCORERS["ocrbench"]
AS_IT_IS = scorer_of("mean", 1)


def frame(scores: list[float], images: list[str] | None = None, **columns: list[str]) -> pd.DataFrame:
    n = len(scores)
    data = {"doc_id": range(n), "score": scores, "image": images or [f"i{i}" for i in range(n)], **columns}
    return pd.DataFrame(data)


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=20),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=20, max_size=20),
)
@settings(max_examples=25, deadline=None)
def test_the_difference_is_that_of_the_scores(ours: list[float], theirs: list[float]) -> None:
    a, b = frame(ours), frame(theirs[: len(ours)])
    found = difference([(a, b)], MEAN)
    assert found is not None
    expected = score([a], MEAN).value - score([b], MEAN).value
    assert abs(found.value - expected) < 1e-9
    assert found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high
    assert 0 < found.p <= 1


def test_the_test_is_two_sided() -> None:
    """Five pictures that all get worse: of 32 choices of signs, two lie as far from 0."""
    found = difference([(frame([0.0] * 5), frame([1.0] * 5))], MEAN)
    assert found is not None
    assert found.p == pytest.approx(2 / 32, abs=0.01)


def test_a_run_does_not_differ_from_itself() -> None:
    a = frame([0.0, 1.0, 1.0, 0.0, 0.5])
    found = difference([(a, a)], MEAN)
    assert found is not None
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_pairing_finds_what_separate_intervals_hide() -> None:
    """Every picture a little worse: far inside the spread of scores, and no noise at all."""
    rng = np.random.default_rng(0)
    base = rng.random(80)
    a, b = frame(list(base - 0.02)), frame(list(base))
    found = difference([(a, b)], MEAN)
    assert found is not None
    assert found.beyond_noise
    mine, other = score([a], MEAN), score([b], MEAN)
    assert mine.low < other.value < mine.high


def test_questions_of_one_image_are_one_piece_of_evidence() -> None:
    """Sixty questions about two pictures are two pieces of evidence: no test can reject on them."""
    worse, better = [0.0] * 60, [1.0] * 60
    alone = difference([(frame(worse), frame(better))], MEAN)
    together = difference(
        [(frame(worse, ["a"] * 30 + ["b"] * 30), frame(better, ["a"] * 30 + ["b"] * 30))], MEAN
    )
    assert alone is not None
    assert together is not None
    assert alone.beyond_noise
    assert not together.beyond_noise


def test_only_documents_that_both_answered_count() -> None:
    a, b = frame([1.0, 1.0, 0.0]), frame([0.0, 0.0, 0.0, 1.0])
    b["doc_id"] = [1, 2, 7, 8]
    found = difference([(a, b)], MEAN)
    assert found is not None
    assert (found.n, found.value) == (2, 50)
    b["doc_id"] += 100
    assert difference([(a, b)], MEAN) is None


def test_mme_pairs_count_as_in_the_score() -> None:
    """One pair right, one half right against both wrong: (200 + 50) / 2."""
    columns = {"pair": ["p", "p", "q", "q"], "category": ["color"] * 4}
    a, b = frame([1.0, 1.0, 1.0, 0.0], **columns), frame([0.0] * 4, **columns)
    found = difference([(a, b)], MME)
    assert found is not None
    assert (found.value, found.n) == (125, 2)


def pairs(*categories: tuple[str, int], score: float = 1.0) -> pd.DataFrame:
    """MME's samples: so many pairs of each category, every answer with this score."""
    names = [(c, f"{c}{i}") for c, n in categories for i in range(n) for _ in range(2)]
    columns = {"pair": [p for _, p in names], "category": [c for c, _ in names]}
    return frame([score] * len(names), columns["pair"], **columns)


def test_pairs_are_drawn_within_their_category() -> None:
    """A category of one pair is in every draw, and adds no spread that it has not."""
    found = score([pairs(("a", 30), ("b", 1))], MME)
    assert (found.value, found.low, found.high) == (400, 400, 400)
    varied = pairs(("a", 30), ("b", 1))
    varied.loc[:9, "score"] = 0.0
    alone = varied[varied["category"] == "a"]
    assert score([varied], MME).low == 200 + score([alone], MME).low
    found = difference([(varied, pairs(("a", 30), ("b", 1)))], MME)
    assert found is not None
    assert -100 < found.low < found.value < found.high < 0


def test_an_interval_shown_is_never_a_certainty() -> None:
    """Of 30 right answers of 30, at least 88.4 % are right in general (Clopper and Pearson)."""
    for n in (10, 30, 500):
        right, wrong = (score([frame([right] * n)], POINTS) for right in (1.0, 0.0))
        bound = 1000 * 0.025 ** (1 / n)
        assert (right.low, right.high) == (1000, 1000)
        assert (right.shown_low, right.shown_high) == (pytest.approx(bound), 1000)
        assert (wrong.shown_low, wrong.shown_high) == (0, pytest.approx(1000 - bound))
    one = score([pairs(("a", 30), ("b", 1))], MME)
    assert one.shown_low is not None
    assert one.shown_low < 210, "one pair tells nearly nothing of its category"
    assert one.shown_high == 400


def test_pictures_count_not_questions() -> None:
    images = [f"i{i // 4}" for i in range(40)]
    found = score([frame([1.0] * 40, images)], MEAN)
    assert found.shown_low == pytest.approx(100 * 0.025 ** (1 / 10))
    nine = score([frame([1.0, 0.0] * 18, [f"i{i // 4}" for i in range(36)])], MEAN)
    assert (nine.clusters, nine.shown_low, nine.shown_high) == (9, None, None)


def test_no_difference_on_any_picture_is_no_proof_of_none() -> None:
    a = frame([0.0, 1.0] * 20)
    found = difference([(a, a)], MEAN)
    assert found is not None
    bound = 100 * (1 - 0.025 ** (1 / 40))
    assert (found.shown_low, found.shown_high) == (pytest.approx(-bound), pytest.approx(bound))
    assert not found.beyond_noise
    all_worse = difference([(frame([0.0] * 9), frame([1.0] * 9))], MEAN)
    assert all_worse is not None
    assert all_worse.p < 0.05
    assert (all_worse.shown_low, all_worse.beyond_noise) == (None, False), "nine pictures"


def test_a_metric_without_bounds_has_no_exact_bound() -> None:
    found = score([frame([7.5] * 20)], AS_IT_IS)
    assert (found.value, found.shown_low) == (7.5, None)
    spread = score([frame([7.5, 3.0] * 10)], AS_IT_IS)
    assert spread.shown_low == spread.low < 5.25 < spread.high == spread.shown_high


def test_blocks_of_draws_are_the_draws_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by drawing in blocks; the numbers are those of all draws at once."""
    rng = np.random.default_rng(3)
    a, b = frame(list(rng.random(300))), frame(list(rng.random(300)))
    whole = score([a], MEAN), difference([(a, b)], MEAN)
    monkeypatch.setattr(statistics, "BLOCK", 300 * 7)
    assert _numbers(score([a], MEAN)) == pytest.approx(_numbers(whole[0]))
    found = difference([(a, b)], MEAN)
    assert found is not None
    assert whole[1] is not None
    assert (*_numbers(found), found.p) == pytest.approx((*_numbers(whole[1]), whole[1].p))


def test_many_pictures_take_little_memory_and_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal pictures are drawn together where there are many."""
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 2, 2000).astype(float)
    a, b = frame(list(scores)), frame(list(np.where(rng.random(2000) < 0.05, 1 - scores, scores)))
    each = score([a], MEAN), difference([(a, b)], MEAN)
    monkeypatch.setattr(statistics, "MANY", 100)
    together = score([a], MEAN), difference([(a, b)], MEAN)
    assert each[1] is not None
    assert together[1] is not None
    assert _numbers(together[0]) == pytest.approx(_numbers(each[0]), abs=0.25)
    assert _numbers(together[1]) == pytest.approx(_numbers(each[1]), abs=0.1)
    assert together[1].p == pytest.approx(each[1].p, abs=0.05)
    n = 40_504
    large = frame(list(rng.integers(0, 2, n).astype(float)))
    tracemalloc.start()
    assert score([large], MEAN).clusters == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize("kind", ["mean", "category_mean"])
def test_pictures_that_all_differ_take_little_memory_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pictures as VQAv2 has, no two alike: 2,000 draws of all of them at once would be 650 MB."""
    monkeypatch.setattr(statistics, "RESAMPLES", 250)  # five blocks of draws; more take no more memory
    rng, n = np.random.default_rng(6), 40_504
    category = [f"c{i % 18}" for i in range(n)]
    a, b = (frame(list(rng.random(n)), category=category) for _ in range(2))
    tracemalloc.start()
    assert score([a], SCORERS[kind]).clusters == n
    found = difference([(a, b)], SCORERS[kind])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert peak < 150e6


def _numbers(found: statistics.Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def test_seeds_are_one_score_with_the_spread_between_them() -> None:
    rng = np.random.default_rng(5)
    runs = [frame(list(rng.integers(0, 2, 50).astype(float))) for _ in range(3)]
    found = score(runs, MEAN)
    alone = [score([run], MEAN).value for run in runs]
    assert found.value == pytest.approx(np.mean(alone))
    assert found.seeds == pytest.approx(alone)
    same = score([runs[0]] * 3, MEAN)
    assert (same.low, same.high) == pytest.approx(_numbers(score([runs[0]], MEAN))[1:])
    apart = score([frame([0.0, 1.0] * 25), frame([1.0] * 50)], MEAN)
    assert (apart.value, apart.shown_low, apart.shown_high) == (75, 0, 100), (
        "two seeds so far apart tell nothing"
    )


def test_mme_pairs_of_several_seeds_are_scored_before_they_are_averaged() -> None:
    """A pair is right in one seed and wrong in the other: 100 on average, not two half right answers."""
    right, wrong = pairs(("a", 12)), pairs(("a", 12), score=0.0)
    assert score([right, wrong], MME).value == 100
