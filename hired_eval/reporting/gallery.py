"""The gallery: for chosen questions, what each method keeps and what the model answers."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hired_eval.reporting.overlay import overlay
from hired_eval.reporting.rows import LABELS, budget_of, label_of, target_of
from hired_eval.reporting.store import Record, Store
from hired_eval.reporting.tables import BENCHMARK_LABELS

WIDE = 112 * 2
LARGE = 400_000
"""Pixels from which a picture is written as JPEG, to keep the page small."""


@dataclass(frozen=True)
class Shown:
    """One method on one question.

    Attributes:
        label: the method with its budget.
        kept: visual tokens given to the LLM.
        full: of full execution.
        prediction: the model's answer.
        picture: the overlay as a file.
        kind: png or jpeg.
    """

    label: str
    kept: int
    full: int
    prediction: str
    picture: bytes
    kind: str


@dataclass(frozen=True)
class Entry:
    """One question with all methods that were run on it."""

    model: str
    benchmark: str
    question: str
    target: str
    shown: list[Shown]


def entries(store: Store) -> list[Entry]:
    """All questions of the gallery, benchmark after benchmark."""
    records = sorted(store.measuring("gallery"), key=_order)
    found: dict[tuple[str, str, int], Entry] = {}
    for record in records:
        samples, arrays = store.samples(record), store.arrays(record)
        for i, sample in enumerate(samples.to_dict("records")):
            key = (record["model"], record["benchmark"]["name"], int(sample["doc_id"]))
            entry = found.setdefault(
                key,
                Entry(key[0], BENCHMARK_LABELS[key[1]], str(sample["question"]), str(sample["target"]), []),
            )
            label = label_of(record)
            if label in {s.label for s in entry.shown}:
                continue  # an older run of the same method
            picture = marked(store, record, arrays, i)
            content, kind = _encoded(picture)
            entry.shown.append(
                Shown(
                    label, int(sample["kept"]), int(sample["full"]), str(sample["prediction"]), content, kind
                )
            )
    return list(found.values())


def _order(record: Record) -> tuple[object, ...]:
    names = list(LABELS)
    target = target_of(record)
    place = names.index(target) if target in names else len(names)
    benchmark = list(BENCHMARK_LABELS).index(record["benchmark"]["name"])
    # within a method: small budgets last, newest run first
    return (
        record["model"],
        benchmark,
        place,
        -(budget_of(record) or 0),
        [-ord(c) for c in str(record["finished"])],
    )


def marked(store: Store, record: Record, arrays: dict[str, np.ndarray], i: int) -> Image.Image:
    """The i-th picture of a gallery run with its kept tokens marked."""
    rows, cols, side = (int(v) for v in arrays[f"layout_{i}"])
    with Image.open(store.picture(record, f"{i}.png")) as picture:
        strip = np.asarray(picture.convert("RGB"))
    size = strip.shape[0]
    partitions = strip.reshape(size, -1, size, 3).transpose(1, 0, 2, 3)
    return overlay(partitions, (rows, cols), arrays[f"kept_{i}"], side, scale=max(1, round(WIDE / size)))


def _encoded(picture: Image.Image) -> tuple[bytes, str]:
    stream = io.BytesIO()
    if picture.width * picture.height > LARGE:
        picture.save(stream, "JPEG", quality=85)
        return stream.getvalue(), "jpeg"
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue(), "png"
