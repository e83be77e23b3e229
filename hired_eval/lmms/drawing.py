"""The random order in which a part of a benchmark is answered: pictures, or pairs of questions."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from datasets import Dataset, Image
from lmms_eval.api.task import Task

from hired_eval.records.record import Drawing
from hired_eval.records.scores import Scorer

MOST = 8
"""Questions drawn together; a picture with more is drawn in parts, since large units widen intervals."""
PICTURE_COLUMNS = ("image_id", "image_source")
"""Columns that name a document's picture; without one, pictures with the same file are the same."""


@dataclass(frozen=True)
class Order:
    """Units of a benchmark in random order.

    Attributes:
        units: numbers of the documents of each.
        strata: category of each; '' where there are none.
        drawing: what a record keeps of it.
    """

    units: Sequence[Sequence[int]]
    strata: Sequence[str]
    drawing: Drawing

    def part(self, limit: int) -> dict[int, tuple[int, str]]:
        """The first documents, whole units, `limit` at least: number -> place of its unit, and category."""
        answered = accumulate(map(len, self.units))
        last = next((i for i, n in enumerate(answered) if n >= limit), len(self.units) - 1)
        return {
            document: (place, self.strata[place])
            for place in range(last + 1)
            for document in self.units[place]
        }


def draw_order(task: Task, scorer: Scorer, seed: int) -> Order:
    """The units of a task in the random order of a seed, which is the same for every method and model.

    Where scores are made of categories, one unit of each comes first, so that every part has them all.

    Args:
        task: with all its documents.
        scorer: tells what belongs together.
        seed: of the order.
    """
    documents = task.eval_docs_no_media
    n = len(documents)
    known = scorer.categories and scorer.category in documents.column_names
    categories = [str(c) for c in documents[scorer.category]] if known else [""] * n
    if scorer.together:
        columns = zip(*(documents[c] for c in scorer.unit_columns), strict=True)
        keys: Sequence[Hashable] = [scorer.unit_of(values) for values in columns]
    else:
        keys = list(zip(_pictures(task), categories, strict=True))
    together: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        together.setdefault(key, []).append(i)
    units = [
        part for members in together.values() for part in _parts(members, whole=scorer.together is not None)
    ]
    units.sort(key=lambda unit: _lot(seed, unit[0]))
    of_category: dict[str, list[list[int]]] = {}
    for unit in units:
        of_category.setdefault(categories[unit[0]], []).append(unit)
    firsts: list[list[int]] = []
    if known:
        # drawn by a lot of their own: the order of the others is then as random as that of all
        firsts = [min(found, key=lambda unit: _lot(seed, unit[0], "first")) for found in of_category.values()]
        chosen = {unit[0] for unit in firsts}
        units = [*firsts, *(unit for unit in units if unit[0] not in chosen)]
    strata = {
        name: len(found) if scorer.together else sum(map(len, found))
        for name, found in sorted(of_category.items())
    }
    drawing = Drawing(seed, len(units), n, max(map(len, units)), len(firsts), strata)
    return Order(units, [categories[unit[0]] for unit in units], drawing)


@contextmanager
def narrowed(task: Task, chosen: Sequence[int] | None) -> Iterator[None]:
    """A task with some of its documents alone, numbered from 0; as it was before at the end.

    Args:
        task: with all its documents.
        chosen: their numbers; None for all.
    """
    if chosen is None:
        yield
        return
    split = task.config.test_split
    whole, without_media = task.dataset[split], task.dataset_no_image[split]
    task.dataset[split] = whole.select(chosen)
    task.dataset_no_image[split] = without_media.select(chosen)
    try:
        yield
    finally:
        task.dataset[split], task.dataset_no_image[split] = whole, without_media


def _lot(seed: int, document: int, purpose: str = "") -> bytes:
    """A lot that no version of a library changes."""
    return hashlib.sha256(f"{purpose}{seed} {document}".encode()).digest()


def _parts(members: list[int], whole: bool) -> list[list[int]]:
    """The questions of a picture in parts of at most `MOST`, as equal as can be."""
    count = 1 if whole else -(-len(members) // MOST)
    return [members[i::count] for i in range(count)]


def _pictures(task: Task) -> Sequence[Hashable]:
    """What tells the picture of each document from others; the document itself where it has none."""
    documents: Dataset = task.eval_docs_no_media
    for column in PICTURE_COLUMNS:
        if column in documents.column_names:
            named: Sequence[Hashable] = documents[column]
            return named
    shown: Dataset = task.eval_docs
    columns = [name for name, feature in shown.features.items() if isinstance(feature, Image)]
    encoded = shown.select_columns(columns).with_format(None)
    for column in columns:
        encoded = encoded.cast_column(column, Image(decode=False))
    return [
        tuple(_digest(row[c]) for c in columns) if any(row[c] for c in columns) else i
        for i, row in enumerate(encoded)
    ] if columns else range(len(documents))  # fmt: skip


def _digest(file: dict[str, Any] | None) -> bytes | str | None:
    """Of the file of a picture, as the data set has it."""
    if file is None:
        return None
    content: bytes | None = file["bytes"]
    return str(file["path"]) if content is None else hashlib.sha256(content).digest()
