"""The gallery: for chosen questions, what each method keeps and what the model answers."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from hired_eval.records.context import blocks_of
from hired_eval.records.record import Record
from hired_eval.records.store import Store
from hired_eval.reporting.configs import PACKAGED, Configs
from hired_eval.reporting.overlay import overlay
from hired_eval.reporting.rows import label_of, row_of, rows_of

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
        verdict: 'right', 'wrong' or what share of a right answer it counts; '' where it is not known.
        picture: the overlay as a file.
        kind: png or jpeg.
    """

    label: str
    kept: int
    full: int
    prediction: str
    picture: bytes
    kind: str
    verdict: str = ""


@dataclass(frozen=True)
class Entry:
    """One question with all methods that were run on it.

    Attributes:
        block: model, data and settings of the runs.
        benchmark: as printed.
        question: of the benchmark.
        target: the accepted answers.
        shown: each method.
    """

    block: str
    benchmark: str
    question: str
    target: str
    shown: list[Shown]


def entries(store: Store, configs: Configs = PACKAGED) -> list[Entry]:
    """All questions of the gallery, benchmark after benchmark; runs with other settings in entries apart."""
    found: dict[tuple[str, str, int, str], Entry] = {}
    for block in blocks_of(store.measuring("gallery")):
        for benchmark in configs.benchmarks_of(block.records):
            runs = [r for r in block.records if r.benchmark.name == benchmark]
            # in the order of the tables; of runs of one method, the newest first
            places = {row.label: i for i, row in enumerate(rows_of(runs))}
            runs.sort(key=lambda r: r.finished, reverse=True)
            for record in sorted(runs, key=lambda r: places.get(row_of(r).label, len(places))):
                _add(found, store, record, block.label, configs.benchmark_label(benchmark))
    return list(found.values())


def _add(
    found: dict[tuple[str, str, int, str], Entry],
    store: Store,
    record: Record,
    block: str,
    benchmark: str,
) -> None:
    """Put a run's pictures to their questions, where no newer run of its method is there."""
    samples, arrays = store.samples(record), store.arrays(record)
    label = label_of(record)
    for i, sample in enumerate(samples.to_dict("records")):
        question = str(sample["question"])
        key = (block, record.benchmark.name, int(sample["doc_id"]), question)
        entry = found.setdefault(key, Entry(block, benchmark, question, str(sample["target"]), []))
        if label in {s.label for s in entry.shown}:
            continue  # an older run of the same method
        counts = int(sample["kept"]), int(sample["full"])
        with Image.open(store.picture(record, f"{i}.png")) as picture:
            shown = show_kept(label, *counts, str(sample["prediction"]), picture.convert("RGB"), arrays, i)
        entry.shown.append(replace(shown, verdict=verdict_of(sample.get("score"))))


def verdict_of(score: float | None) -> str:
    """What a score says of an answer in words; '' where there is none."""
    if score is None or score != score:
        return ""
    return "right" if score >= 1 else "wrong" if score <= 0 else f"counts {score:.2f}"


def show_kept(
    label: str,
    kept: int,
    full: int,
    prediction: str,
    picture: Image.Image,
    arrays: dict[str, np.ndarray],
    i: int,
) -> Shown:
    """A method on a question, its kept tokens marked.

    Args:
        label: see `Shown`.
        kept: likewise.
        full: likewise.
        prediction: likewise.
        picture: its partitions side by side.
        arrays: of `measure=gallery`.
        i: the number of the picture there.
    """
    content, kind = _encoded(_drawn(picture, arrays, i))
    return Shown(label, kept, full, prediction, content, kind)


def marked(store: Store, record: Record, arrays: dict[str, np.ndarray], i: int) -> Image.Image:
    """The i-th picture of a gallery run with its kept tokens marked."""
    with Image.open(store.picture(record, f"{i}.png")) as picture:
        return _drawn(picture.convert("RGB"), arrays, i)


def _drawn(picture: Image.Image, arrays: dict[str, np.ndarray], i: int) -> Image.Image:
    """A picture's partitions, given side by side, with its kept tokens marked."""
    rows, cols, side = (int(v) for v in arrays[f"layout_{i}"])
    strip = np.asarray(picture)
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
