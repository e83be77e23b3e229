"""Scores and their intervals, against values worked out by hand and a slow reference."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval.errors import UserError
from hired_eval.records.scores import PERCENT, SCORERS, difference, score, scorer_of

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


def test_a_mean_of_categories_weighs_each_category_alike() -> None:
    """a: three of four right; b: none of one. The mean of documents would be 60."""
    table = samples([1, 1, 1, 0, 0], list("vwxyz")).assign(category=list("aaaab"))
    assert score([table], SCORERS["category_mean"]).value == pytest.approx(100 * (3 / 4 + 0) / 2)
    assert score([table], MEAN).value == 60


WITHIN = {
    # of 20 units as many right as a coin falls: from 6 to 14 in 95 of 100 draws; the other category has one
    "mme": (300, 260, 340),
    "category_mean": (75, 65, 85),
}


@pytest.mark.parametrize("scoring", WITHIN)
def test_an_interval_is_drawn_within_each_category(scoring: str) -> None:
    """Category a: 20 units, every second right; category b: one unit, right, and so in every draw."""
    each = 2 if scoring == "mme" else 1
    rows = [("a", f"a{i}", float(i % 2)) for i in range(20) for _ in range(each)] + [("b", "b", 1.0)] * each
    table, scorer = mme(rows), SCORERS[scoring]
    value, low, high = WITHIN[scoring]
    found = score([table], scorer)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high))
    lost = difference([(table, table.assign(score=1.0))], scorer)
    assert lost is not None
    right = 400 if scoring == "mme" else 100
    assert (lost.value, lost.low, lost.high) == pytest.approx((value - right, low - right, high - right))


def test_points_of_a_part_are_a_share() -> None:
    table = samples([1, 0, 1, 1], list("abcd"))
    assert score([table], POINTS).value == 750
    part = POINTS.of_part()
    assert (score([table], part).value, part.share, part.digits) == (75, True, 1)
    assert MEAN.of_part() == MEAN
    assert POINTS.agrees(table, 3 / 1000), "lmms-eval counts points out of 1000, however many were asked"
    assert not POINTS.agrees(table, 0.75)
    assert part.agrees(table, 0.75)


def test_a_task_may_say_what_its_scoring_leaves_open() -> None:
    assert scorer_of("mean", 1).scale == 1
    assert scorer_of("mean").scale == PERCENT
    assert scorer_of("category_mean", 1, "field").category == "field"
    assert scorer_of("mme", 1, "category") == SCORERS["mme"], "its own, written out"
    for asked in (("mme", 100), ("ocrbench", 100), ("mean", None, "field"), ("mme", None, "field")):
        with pytest.raises(UserError, match="takes no task"):
            scorer_of(*asked)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Answers:
    """Pairs of documents, each with its category, and the scores of two runs on them."""

    category: list[str]
    ours: list[tuple[float, float]]
    theirs: list[tuple[float, float]]

    def frame(self, pairs: list[tuple[float, float]], about: int) -> pd.DataFrame:
        """Documents of a run; pictures are shared by `about` pairs."""
        rows = [
            {"category": c, "pair": f"{c}/{i}", "image": f"picture{i // about}", "score": right}
            for i, (c, pair) in enumerate(zip(self.category, pairs, strict=True))
            for right in pair
        ]
        return pd.DataFrame(rows).assign(doc_id=range(len(rows)))


@st.composite
def answers(draw: st.DrawFn) -> Answers:
    n = draw(st.integers(1, 8))
    right = st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 1.0]))
    category = draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    return Answers(category, *(draw(st.lists(right, min_size=n, max_size=n)) for _ in range(2)))


def slowly(scoring: str, category: list[str], pairs: list[tuple[float, float]]) -> float:
    """A score as its definition has it, one document after the other."""
    of_category = defaultdict(list)
    for name, pair in zip(category, pairs, strict=True):
        units = [100 * sum(pair) / 2 + 100 * (pair == (1, 1))] if scoring == "mme" else [*pair]
        of_category[name] += units
    if scoring == "mmbench":
        return sum(min(pair) for pair in pairs) / len(pairs)
    if scoring in ("mean", "ocrbench"):
        documents = [right for group in of_category.values() for right in group]
        return {"mean": 100, "ocrbench": 1000}[scoring] * sum(documents) / len(documents)
    means = [sum(group) / len(group) for group in of_category.values()]
    return sum(means) if scoring == "mme" else 100 * sum(means) / len(means)


@pytest.mark.parametrize("scoring", SCORERS)
@given(given_answers=answers(), about=st.integers(1, 3), data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_holds_for_every_scorer(
    scoring: str, given_answers: Answers, about: int, data: st.DataObject
) -> None:
    scorer = SCORERS[scoring]
    a, b = (given_answers.frame(run, about) for run in (given_answers.ours, given_answers.theirs))
    found = score([a], scorer)
    assert found.value == pytest.approx(slowly(scoring, given_answers.category, given_answers.ours))
    assert found.low <= found.value + 1e-9
    assert found.value <= found.high + 1e-9

    shuffled = a.iloc[data.draw(st.permutations(range(len(a))))]
    again = score([shuffled], scorer)
    assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high))
    assert (again.n, again.clusters) == (found.n, found.clusters)

    there, back, nothing, mixed = (
        difference([pair], scorer) for pair in ((a, b), (b, a), (a, a), (shuffled, b))
    )
    assert there is not None
    assert back is not None
    assert nothing is not None
    assert mixed is not None
    expected = there.value, there.low, there.high
    assert there.value == pytest.approx(found.value - score([b], scorer).value, abs=1e-9)
    assert (-back.value, -back.high, -back.low) == pytest.approx(expected, abs=1e-9)
    assert back.p == there.p
    assert (nothing.value, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    assert (mixed.value, mixed.low, mixed.high) == pytest.approx(expected, abs=1e-9)
