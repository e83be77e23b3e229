"""The random order of a benchmark: whole pictures and pairs, every category first, the same for all."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest

from hired_eval.lmms.drawing import MOST, Order, draw_order, narrowed
from hired_eval.records.scores import SCORERS


def task(media: list[str] | None = None, **columns: Sequence[Any]) -> Any:
    """A task whose documents have these columns, and pictures of these contents."""
    documents = datasets.Dataset.from_dict({k: list(v) for k, v in columns.items()})
    whole = documents
    if media is not None:
        files = [{"bytes": content.encode(), "path": None} for content in media]
        whole = documents.add_column("image", files).cast_column("image", datasets.Image())
    splits, without = {"test": whole}, {"test": documents}
    return SimpleNamespace(
        dataset=splits,
        dataset_no_image=without,
        eval_docs=whole,
        eval_docs_no_media=documents,
        config=SimpleNamespace(test_split="test"),
    )


def check_order(order: Order, documents: int) -> None:
    assert sorted(d for unit in order.units for d in unit) == list(range(documents))
    assert order.drawing.documents == documents
    assert order.drawing.units == len(order.units)
    assert order.drawing.largest == max(map(len, order.units))


@pytest.mark.parametrize("column", ["image_id", "image_source", None])
def test_questions_about_a_picture_stay_together(column: str | None) -> None:
    pictures = [f"p{i // 3}" for i in range(30)]
    columns = {"question": pictures} | ({column: pictures} if column else {})
    order = draw_order(task(None if column else pictures, **columns), SCORERS["mean"], 0)
    check_order(order, 30)
    assert sorted(map(tuple, order.units)) == [(3 * i, 3 * i + 1, 3 * i + 2) for i in range(10)]
    part = order.part(4)
    assert len(part) == 6
    assert set(part.values()) == {(0, ""), (1, "")}


def test_documents_without_a_picture_stand_for_themselves() -> None:
    order = draw_order(task(question=["q"] * 5), SCORERS["mean"], 0)
    assert sorted(map(tuple, order.units)) == [(i,) for i in range(5)]


def test_a_picture_with_many_questions_is_drawn_in_parts_alike() -> None:
    order = draw_order(task(image_id=["one"] * 18), SCORERS["mean"], 0)
    check_order(order, 18)
    assert [len(unit) for unit in order.units] == [6, 6, 6]
    assert order.drawing.largest <= MOST
    assert all(np.diff(sorted(unit)).tolist() == [3] * 5 for unit in order.units), (
        "POPE's three kinds in each"
    )


def test_pairs_are_whole_and_every_category_is_there_first() -> None:
    categories = [c for c in "aaaaaaab" for _ in range(2)]
    pairs = [str(i // 2) for i in range(16)]
    for seed in range(5):
        order = draw_order(task(category=categories, question_id=pairs), SCORERS["mme"], seed)
        check_order(order, 16)
        assert all(len(unit) == 2 and pairs[unit[0]] == pairs[unit[1]] for unit in order.units)
        assert set(order.strata[:2]) == {"a", "b"}
        assert (order.drawing.first, order.drawing.strata) == (2, {"a": 7, "b": 1})


def test_a_mean_of_categories_counts_documents() -> None:
    columns = {"category": list("aabbb"), "image_id": list("xyzzz")}
    order = draw_order(task(**columns), SCORERS["category_mean"], 0)
    assert order.drawing.strata == {"a": 2, "b": 3}
    without = draw_order(task(image_id=list("xyzzz")), SCORERS["category_mean"], 0)
    assert without.drawing.strata == {"": 5}


def test_the_order_is_that_of_its_seed_and_no_other() -> None:
    def first(seed: int, documents: int = 40) -> list[int]:
        return [unit[0] for unit in draw_order(task(image_id=range(documents)), SCORERS["mean"], seed).units]

    assert first(0) == first(0)
    assert first(0) != first(1)
    assert first(0)[:5] == [38, 6, 34, 14, 4], "as it was drawn when the first records were made"


def test_every_document_is_as_likely_at_every_place() -> None:
    """Chi-squared of 300 orders of eight documents: 49 degrees of freedom, 99.9 % are below 85.4."""
    documents = task(category=list("aaaaaaab"), image_id=range(8))
    counts: Counter[tuple[int, int]] = Counter()
    for seed in range(300):
        order = draw_order(documents, SCORERS["mean"], seed)
        counts.update((place, unit[0]) for place, unit in enumerate(order.units))
    assert sum((counts[p, d] - 37.5) ** 2 / 37.5 for p in range(8) for d in range(8)) < 85.4
    # behind the first of each category, the other documents of category a are as likely at every place
    counts.clear()
    for seed in range(300):
        units = draw_order(documents, SCORERS["category_mean"], seed).units[2:]
        counts.update((place, unit[0]) for place, unit in enumerate(units))
    assert sum((counts[p, d] - 300 / 7) ** 2 / (300 / 7) for p in range(6) for d in range(7)) < 85.4


def test_a_task_is_narrowed_and_as_it_was_again() -> None:
    whole = task(["x", "y", "z"], question=list("abc"))
    with narrowed(whole, [0, 2]):
        assert whole.dataset["test"]["question"] == ["a", "c"]
        assert whole.dataset_no_image["test"]["question"] == ["a", "c"]
    assert len(whole.dataset["test"]) == len(whole.dataset_no_image["test"]) == 3
    with narrowed(whole, None):
        assert len(whole.dataset["test"]) == 3
