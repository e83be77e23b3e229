"""Scores and their intervals, against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from hired_eval.records.scores import SCORERS, score

MEAN, MME, POINTS = SCORERS["mean"], SCORERS["mme"], SCORERS["ocrbench"]


def samples(scores: list[float | None], images: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({"doc_id": range(len(scores)), "score": scores, "image": images})


def mme(rows: list[tuple[str, str, float | None]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["category", "pair", "score"])
    return frame.assign(doc_id=range(len(rows)), image=frame["pair"])


def test_a_mean_on_the_papers_scale() -> None:
    found = score([samples([1, 0, 1, 1], list("abcd"))], MEAN)
    assert (found.value, found.n, found.clusters) == (75, 4, 4)
    assert 0 <= found.low < 75 < found.high <= 100


def test_equal_scores_have_no_width() -> None:
    found = score([samples([0.5] * 6, list("aabbcc"))], POINTS)
    assert (found.low, found.value, found.high) == (500, 500, 500)


def test_no_score_is_no_unit() -> None:
    found = score([samples([1, None, 0], list("abc"))], MEAN)
    assert (found.value, found.n) == (50, 2)
    assert score([samples([None, None], ["a", "b"])], MEAN).n == 0


def test_documents_without_an_image_stand_for_themselves() -> None:
    assert score([samples([1, 0, 1], [None, None, "a"])], MEAN).clusters == 3


def test_the_interval_is_that_of_the_binomial_where_images_differ() -> None:
    scores = [float(i % 10 < 3) for i in range(400)]
    found = score([samples(scores, [str(i) for i in range(400)])], MEAN)
    deviation = 100 * np.sqrt(0.3 * 0.7 / 400)
    assert found.value == pytest.approx(30)
    assert found.low == pytest.approx(30 - 1.96 * deviation, abs=0.35)
    assert found.high == pytest.approx(30 + 1.96 * deviation, abs=0.35)


def test_questions_about_one_image_widen_the_interval() -> None:
    """Four questions an image, all right or all wrong: as uncertain as a quarter of the questions."""
    scores = [float(i // 4 % 10 < 3) for i in range(400)]
    found = score([samples(scores, [str(i // 4) for i in range(400)])], MEAN)
    deviation = 100 * np.sqrt(0.3 * 0.7 / 100)
    assert (found.n, found.clusters) == (400, 100)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_mme_adds_accuracy_and_pairs_over_categories() -> None:
    """color: pairs (right, right) and (right, wrong): mean of 200 and 50; count: (wrong, wrong)."""
    rows = [("color", "1", 1.0), ("color", "1", 1.0), ("color", "2", 1.0), ("color", "2", 0.0)]
    rows += [
        ("count", "3", 0.0),
        ("count", "3", 0.0),
        ("code_reasoning", "4", None),
        ("code_reasoning", "4", None),
    ]
    found = score([mme(rows)], MME)
    assert (found.value, found.n) == (125, 3)


def test_the_same_seed_gives_the_same_interval() -> None:
    table = samples([i**0.5 for i in range(30)], [str(i) for i in range(30)])
    assert score([table], MEAN, seed=3) == score([table], MEAN, seed=3)
    assert score([table], MEAN, seed=3) != score([table], MEAN, seed=4)
