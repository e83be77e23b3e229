"""Parts of a benchmark drawn at random: their intervals, what they are compared with, what reports say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hired_eval.errors import UserError
from hired_eval.records.folder import RunFolder
from hired_eval.records.goal import Goal, read_goal
from hired_eval.records.record import Drawing, Record
from hired_eval.records.scores import SCORERS, Part, UnboundedError, difference, score, scorer_of
from hired_eval.records.sequences import interval
from hired_eval.records.store import Store
from hired_eval.reporting import render
from hired_eval.reporting.comparison import compare, printed
from hired_eval.reporting.table import full_run_like, run_table, settled_line
from tests.reporting import synthetic
from tests.reporting.packaged import baselines, table3

DOCUMENTS, PICTURES = 400, 200


def part(runs: Path, method: str, documents: int, order: int = 0, **options: Any) -> Record:
    """A run on random pictures, two documents each."""
    config = options.pop("config", {})
    whole = synthetic.write_run(
        runs,
        method,
        "docvqa",
        documents=DOCUMENTS,
        pictures=PICTURES,
        name=f"{method}-{order}-{options}",
        **options,
    )
    store = Store(runs)
    samples = store.samples(whole)
    place = np.random.default_rng(order).permutation(PICTURES)
    samples["unit"] = place[samples["image"].str.removeprefix("picture").astype(int)]
    samples["stratum"] = ""
    samples = samples[samples["unit"] < documents // 2].reset_index(drop=True)
    drawing = Drawing(order, PICTURES, DOCUMENTS, 2, 0, {"": DOCUMENTS})
    record = replace(
        whole, samples=len(samples), partial=True, drawing=drawing, config={**whole.config, **config}
    )
    RunFolder(runs, whole.run).write(record, samples)
    return record


def test_a_part_has_the_interval_of_a_sequence_and_says_of_how_many(runs: Path) -> None:
    full = part(runs, "full", 200, accuracy=0.9)
    hired = part(runs, "hired", 200, accuracy=0.6, config={"decide": "equivalent:5"})
    store = Store(runs)
    found, other = store.difference([(hired, full)]), store.difference([(full, hired)])
    assert found is not None
    assert other is not None
    assert found.sequence
    assert found.low < found.value < found.high < -5
    assert found.beyond_noise
    text = render.markdown(table3(store))
    assert " 200 of 400 (100 pictures)" in text
    assert f"[{found.low:+.1f}, {found.high:+.1f}] !, more than 5 points below Full" in text
    assert "hold for the whole benchmark" in text
    assert "half of" not in render.latex(table3(store))
    assert "longer side of the 95" in render.latex(table3(store))
    line = settled_line(store, hired, full, read_goal(hired.config))
    assert line is not None
    assert line.startswith("HiRED 20 %: more than 5 points below Full, after 200 of 400 documents: ")


def test_a_part_of_few_pictures_has_its_interval_in_the_table_and_in_the_summary(runs: Path) -> None:
    full, hired = part(runs, "full", 16, accuracy=1.0), part(runs, "hired", 16, accuracy=0.0)
    store = Store(runs)
    score = store.score([hired])
    assert (score.clusters, score.sequence) == (8, True)
    summary, text = run_table([(store, hired)]), render.markdown(table3(store))
    assert f"| {score.low:.1f} to {score.high:.1f} " in summary
    assert f"[{score.low:.1f}, {score.high:.1f}]" in text
    assert "too small" not in summary + text
    found = store.difference([(hired, full)])
    assert found is not None
    assert found.beyond_noise
    assert "] !" in text
    assert "beyond noise" in printed(compare((store, full), (store, hired)))


def test_the_interval_holds_the_score_of_all_documents(runs: Path) -> None:
    """Of twenty orders, each on a quarter of the documents, two may miss."""
    whole = Store(runs).samples(synthetic.write_run(runs, "hired", "docvqa", documents=DOCUMENTS))
    pictures, drawing = whole["image"].nunique(), Drawing(0, 200, DOCUMENTS, 2, 0, {"": DOCUMENTS})
    assert pictures == drawing.units
    missed = 0
    for order in range(20):
        place = np.random.default_rng(order).permutation(pictures)
        unit = place[whole["image"].str.removeprefix("picture").astype(int)]
        drawn = SCORERS["mean"].drawn([whole.assign(unit=unit, stratum="")[unit < 50]], drawing)
        low, high = interval(drawn)
        missed += not low <= whole["score"].mean() <= high
    assert missed <= 2


def test_parts_of_different_sizes_meet_on_what_both_have_and_a_line_says_so(runs: Path) -> None:
    full, hired = part(runs, "full", 300, accuracy=0.9), part(runs, "hired", 100)
    store = Store(runs)
    found = store.difference([(hired, full)])
    assert found is not None
    assert (found.n, found.sequence) == (100, True)
    assert full_run_like(hired, store.records) == full
    assert "DocVQA (100 to 300 documents)" in render.markdown(table3(store))


def test_a_part_is_compared_with_the_whole(runs: Path) -> None:
    full = synthetic.write_run(runs, "full", "docvqa", documents=DOCUMENTS, pictures=PICTURES, accuracy=0.9)
    found = Store(runs).difference([(part(runs, "hired", 100), full)])
    assert found is not None
    assert (found.n, found.sequence) == (100, True)


@pytest.mark.parametrize("other", [1, None], ids=["another seed", "the first documents"])
def test_parts_in_different_orders_are_not_compared(runs: Path, other: int | None) -> None:
    hired = part(runs, "hired", 100)
    if other is None:
        full = synthetic.write_run(runs, "full", "docvqa", documents=DOCUMENTS, answered=100, accuracy=0.9)
    else:
        full = part(runs, "full", 100, other, accuracy=0.9)
    store = Store(runs)
    with pytest.raises(UserError, match=r"in different orders .* and are not compared"):
        store.difference([(hired, full)])
    assert full_run_like(hired, store.records) is None
    text = render.markdown(table3(store))
    assert "No difference: " in text
    assert "run both with the same order and order_seed" in text


def test_two_parts_are_compared_by_their_sequence_and_not_in_different_orders(runs: Path) -> None:
    hired, full = part(runs, "hired", 100, accuracy=0.6), part(runs, "full", 300, accuracy=0.9)
    other = part(runs, "full", 100, 1, accuracy=0.9)
    whole = synthetic.write_run(runs, "spatial", "docvqa", documents=DOCUMENTS, pictures=PICTURES)
    store = Store(runs)
    made = compare((store, full), (store, hired))
    assert made.difference == store.difference([(hired, full)])
    assert "p = " not in printed(made)
    assert "95 % interval for the whole benchmark" in printed(made)
    back = compare((store, hired), (store, whole)).difference
    assert (back.n, back.sequence) == (100, True)
    with pytest.raises(UserError, match="run both with the same order and order_seed"):
        compare((store, other), (store, hired))


def test_several_seeds_of_a_part_are_one_row_whose_interval_holds_both_sources(runs: Path) -> None:
    """Wider than that of the mean of the runs alone, by what a mean over three seeds may be off."""
    records = [part(runs, "random", 200, seed=s, accuracy=a) for s, a in enumerate((0.5, 0.6, 0.7))]
    part(runs, "full", 200, accuracy=0.9)
    store = Store(runs)
    found = store.score(records)
    assert found.seeds == tuple(store.score([r]).value for r in records)
    half = 4.303 * np.std(found.seeds, ddof=1) / 3**0.5
    assert found.low < max(0, found.value - half) + 0.5
    assert found.high > min(100, found.value + half) - 0.5
    assert "Random 20 %, seeds 0, 1, 2" in render.markdown(baselines(store))


def samples(scores: list[float | None], **columns: list[Any]) -> pd.DataFrame:
    n = len(scores)
    data = {"doc_id": range(n), "score": scores, "image": [f"i{i}" for i in range(n)], "unit": range(n)}
    return pd.DataFrame(data | {"stratum": [""] * n} | columns)


def test_pairs_of_mme_are_weighed_by_their_category() -> None:
    """Two of four pairs of one category and the only one of another, all right: 300 to 400 of 400."""
    names = {
        "category": list("aaaabb"),
        "pair": list("vvwwxx"),
        "unit": [0, 0, 2, 2, 1, 1],
        "stratum": list("aaaabb"),
    }
    drawn = SCORERS["mme"].drawn(
        [samples([1.0] * 6, **names)], Drawing(0, 7, 14, 2, 3, {"a": 4, "b": 1, "code": 2})
    )
    assert list(drawn.values) == [50, 200, 50]
    assert list(drawn.weights) == [0.25, 1, 0.25]
    assert drawn.possible == (300, 400)
    assert (drawn.units, drawn.largest, list(drawn.strata)) == (7, 1, [0, 1, 0])


def test_categories_without_a_score_weigh_nothing() -> None:
    """MME's cognition questions have none of its perception score."""
    names = {
        "category": ["a", "a", None, None],
        "pair": ["v", "v", None, None],
        "unit": [0, 0, 1, 1],
        "stratum": list("aacc"),
    }
    drawn = SCORERS["mme"].drawn(
        [samples([1.0, 0.0, None, None], **names)], Drawing(0, 4, 8, 2, 2, {"a": 2, "c": 2})
    )
    assert drawn.possible == (25, 125)
    assert list(drawn.weights) == [0.5, 0]


def test_categories_weigh_alike_whatever_their_size() -> None:
    names = {"stratum": list("aab"), "category": list("aab")}
    drawn = SCORERS["category_mean"].drawn(
        [samples([1.0, 0.0, 1.0], **names)], Drawing(0, 9, 12, 2, 2, {"a": 10, "b": 2})
    )
    assert list(drawn.weights) == [0.05, 0.05, 0.25]
    assert drawn.values.sum() == pytest.approx(0.3)
    assert drawn.largest == 0.5
    assert drawn.possible == (pytest.approx(0.3), pytest.approx(0.3 + 0.65))


REFUSED = {
    "no bound": (scorer_of("mean", 1), [0.5], {"": 9}, "task.scale=1 sets no bound"),
    "out of bounds": (SCORERS["mean"], [3.0], {"": 9}, "a document scores 3, which is not from 0 to 1"),
    "not all": (SCORERS["mean"], [1.0, None], {"": 9}, "the metric counts 20 of 40 documents"),
    "no categories": (scorer_of("category_mean", None, "field"), [1.0], {"": 9}, "have no column field"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_says_nothing_of_the_rest_is_refused_and_has_the_interval_of_a_bootstrap(case: str) -> None:
    scorer, scores, strata, message = REFUSED[case]
    drawing, frame = Drawing(0, 9, 9, 1, 0, strata), samples(scores * 20, category=["x"] * 20 * len(scores))
    with pytest.raises(UnboundedError, match=message):
        scorer.drawn([frame], drawing)
    assert not score([frame], scorer, part=Part(drawing)).sequence


def test_no_interval_before_every_category_was_seen() -> None:
    names = {"category": ["a"] * 4, "pair": list("vvww"), "unit": [0, 0, 1, 1], "stratum": ["a"] * 4}
    found = score(
        [samples([1.0] * 4, **names)], SCORERS["mme"], part=Part(Drawing(0, 9, 18, 2, 3, {"a": 3, "b": 6}))
    )
    assert not found.sequence


def test_a_difference_of_pairs_may_go_both_ways() -> None:
    names = {"category": ["a"] * 4, "pair": list("vvww"), "unit": [0, 0, 1, 1], "stratum": ["a"] * 4}
    ours, theirs = samples([1.0, 1.0, 0.0, 0.0], **names), samples([0.0, 0.0, 1.0, 1.0], **names)
    found = difference([(ours, theirs)], SCORERS["mme"], part=Part(Drawing(0, 4, 8, 2, 1, {"a": 4})))
    assert found is not None
    assert (found.value, found.low, found.high) == (0, pytest.approx(-100), pytest.approx(100))


@pytest.mark.parametrize(
    ("goal", "low", "high", "said"),
    [
        (Goal(1), -0.9, 1.0, "difference to Full known to within 1 point"),
        (Goal(1), -1.1, 1.0, None),
        (Goal(margin=1), -1.0, 1.0, "within 1 point of Full"),
        (Goal(margin=1), -1.1, 1.0, None),
        (Goal(margin=1), 1.1, 9, "more than 1 point above Full"),
        (Goal(margin=2.5), -9, -2.6, "more than 2.5 points below Full"),
        (Goal(margin=1), 0.1, 9, None),
        (Goal(different=True), 0.1, 9, "different from Full"),
        (Goal(different=True), 0, 9, None),
        (Goal(2, margin=1), 0, 3, "difference to Full known to within 2 points"),
    ],
)
def test_what_an_interval_settles(goal: Goal, low: float, high: float, said: str | None) -> None:
    assert goal.reached(low, high) == said


def test_full_execution_has_nothing_to_decide() -> None:
    assert Goal(1).reached(70, 72, own=True) == "score known to within 1 point"
    assert Goal(1).reached(70, 73, own=True) is None
    assert Goal(margin=1).reached(10, 90, own=True) == "enough to begin with"


def test_a_goal_is_read_from_a_config() -> None:
    assert read_goal({}) is None
    assert read_goal({"precision": 2.0, "decide": None}) == Goal(2)
    assert read_goal({"precision": 2.0, "decide": "equivalent:1.5"}) == Goal(2, 1.5)
    assert read_goal({"decide": "different"}) == Goal(different=True)
    for wrong in ("equal", "equivalent", "equivalent:0", "equivalent:51", "equivalent:-1", "different:1"):
        with pytest.raises(UserError, match="decide must be different, or equivalent:POINTS"):
            read_goal({"decide": wrong})
