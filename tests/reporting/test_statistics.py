"""Paired differences: exact where they can be known, and honest about noise."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval.reporting.statistics import estimate, paired_difference


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
    found = paired_difference(a, b, "mean", 100)
    assert found is not None
    expected = estimate(a, "mean", 100).value - estimate(b, "mean", 100).value
    assert abs(found.value - expected) < 1e-9
    assert found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high
    assert 0 < found.p <= 1


def test_a_run_does_not_differ_from_itself() -> None:
    a = frame([0.0, 1.0, 1.0, 0.0, 0.5])
    found = paired_difference(a, a, "mean", 100)
    assert found is not None
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_pairing_finds_what_separate_intervals_hide() -> None:
    """Every picture a little worse: far inside the spread of scores, and no noise at all."""
    rng = np.random.default_rng(0)
    base = rng.random(80)
    a, b = frame(list(base - 0.02)), frame(list(base))
    found = paired_difference(a, b, "mean", 100)
    assert found is not None
    assert found.beyond_noise
    mine, other = estimate(a, "mean", 100), estimate(b, "mean", 100)
    assert mine.low < other.value < mine.high


def test_questions_of_one_image_are_one_piece_of_evidence() -> None:
    """Sixty questions about two pictures are two pieces of evidence: no test can reject on them."""
    worse, better = [0.0] * 60, [1.0] * 60
    alone = paired_difference(frame(worse), frame(better), "mean", 100)
    together = paired_difference(
        frame(worse, ["a"] * 30 + ["b"] * 30), frame(better, ["a"] * 30 + ["b"] * 30), "mean", 100
    )
    assert alone is not None
    assert together is not None
    assert alone.beyond_noise
    assert not together.beyond_noise


def test_only_documents_that_both_answered_count() -> None:
    a, b = frame([1.0, 1.0, 0.0]), frame([0.0, 0.0, 0.0, 1.0])
    b["doc_id"] = [1, 2, 7, 8]
    found = paired_difference(a, b, "mean", 100)
    assert found is not None
    assert (found.n, found.value) == (2, 50)
    b["doc_id"] += 100
    assert paired_difference(a, b, "mean", 100) is None


def test_mme_pairs_count_as_in_the_score() -> None:
    """One pair right, one half right against both wrong: (200 + 50) / 2."""
    columns = {"pair": ["p", "p", "q", "q"], "category": ["color"] * 4}
    a, b = frame([1.0, 1.0, 1.0, 0.0], **columns), frame([0.0] * 4, **columns)
    found = paired_difference(a, b, "mme", 1)
    assert found is not None
    assert (found.value, found.n) == (125, 2)
