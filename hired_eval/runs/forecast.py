"""What a sweep will take: questions, encodings and arithmetic, from the records that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor

from hired_eval.dropping.layout import PartitionLayout
from hired_eval.lmms.local_data import find_data_source
from hired_eval.lmms.tasks import load_task
from hired_eval.method_configs import class_name_of
from hired_eval.models.checkpoint import call_loader, read_config
from hired_eval.models.dummy import dummy_processor
from hired_eval.models.families import FAMILIES, family_of
from hired_eval.models.family import Family
from hired_eval.models.published import published_config
from hired_eval.records.goal import Goal, read_goal
from hired_eval.records.record import Record
from hired_eval.records.scores import Scorer, scorer_for
from hired_eval.records.sequences import ALPHA, sizes
from hired_eval.records.store import Store, why_apart
from hired_eval.reporting.rows import FULL, label_with
from hired_eval.runs.efficiency.flops import Decoder, Tower
from hired_eval.runs.identity import default_options, effective_method
from hired_eval.runs.options import ModelOptions, RunConfig, build_dropper
from hired_eval.runs.plan import find_checkpoint
from hired_eval.runs.precision import full_method

CHANGED = 0.1
"""Share of the answers that are taken to change where no record tells."""
TFLOPS = 100.0
"""TFLOP a second that a recent data-centre GPU sustains in 16 bit, about."""
TEXT_TOKENS = 60
"""Of a question with its prompt, about."""
FULL_SIZE = (672, 672)
"""Height and width in pixels of a picture, where no record has counted tokens."""
DOCUMENTS = {
    "vqav2": 214_354, "scienceqa": 2_017, "textvqa": 5_000, "docvqa": 5_349, "ocrbench": 1_000, "mme": 2_374,
    "pope": 9_000, "chartqa": 2_500,
}  # fmt: skip
"""Of the benchmarks on the hub, where no record has counted them."""


@dataclass(frozen=True)
class Forecast:
    """What one run will take.

    Attributes:
        benchmark: its name.
        model: its name.
        method: as tables call it.
        documents: of the benchmark.
        questions: that will be answered.
        encodings: pictures that will be encoded.
        tflop: arithmetic of vision and prefill; None where the model's shapes are not known.
        known: whether records tell how scores spread, and not an assumption.
    """

    benchmark: str
    model: str
    method: str
    documents: int
    questions: int
    encodings: int
    tflop: float | None
    known: bool


def forecast(configs: Sequence[RunConfig]) -> list[Forecast]:
    """What each run of a sweep will take, those included that are complete already.

    A run that is asked for twice counts once. Full execution answers as many questions as the method that
    needs most of them.

    Args:
        configs: of the sweep.

    Raises:
        UserError: see `read_goal`, `build_dropper` and `find_checkpoint`.
    """
    configs = [config for i, config in enumerate(configs) if config not in configs[:i]]
    stores = {folder: Store(folder) for folder in {c.runs_dir for c in configs}}
    families = {model: _without_weights(model) for model in {c.model for c in configs}}
    found = [_of_run(c, stores[c.runs_dir], families[c.model]) for c in configs]
    full = full_method().target
    most: dict[tuple[str, str], int] = {}
    for f in found:
        most[f.model, f.benchmark] = max(f.questions, most.get((f.model, f.benchmark), 0))
    result = []
    for config, f in zip(configs, found, strict=True):
        more = most[f.model, f.benchmark] / f.questions if config.method.target == full else 1
        tflop = None if f.tflop is None else f.tflop * more
        result.append(
            replace(f, questions=round(f.questions * more), encodings=round(f.encodings * more), tflop=tflop)
        )
    return result


def _of_run(config: RunConfig, store: Store, family: Family | None) -> Forecast:
    dropper = build_dropper(config.method, config.of_method)
    method, benchmark = effective_method(dropper), config.task.name
    alike = [r for r in store.accuracy() if r.benchmark.name == benchmark and r.data == _data_of(config)]
    of_model = [r for r in alike if r.model == config.model.name]
    own = max((r for r in of_model if r.method == method), key=lambda r: r.samples, default=None)
    full = max(FULL.of(of_model), key=lambda r: r.samples, default=None)
    documents = max((r.documents for r in alike), default=0) or _count(config)
    is_full = config.method.target == full_method().target
    spread = _spread(store, own, None if is_full else full, is_full)
    clusters = [(r.score.n, r.score.clusters) for r in alike if r.score and r.score.clusters]
    about = max(n / c for n, c in clusters) if clusters else 1.0
    goal = read_goal({"precision": config.precision, "decide": config.decide})
    if goal is not None:
        variance, value = spread or (_most(scorer_for(config.task)) ** 2 * CHANGED / about, 0.0)
        questions = needed(goal, variance, value, documents, about, own=is_full)
    else:
        questions = min(config.limit or documents, documents)
    tflop = None
    if family is not None:
        tflop = _tflop(family, questions, round(questions / about), *_tokens(config, family, own, full))
    usual = {"seed": config.seed, **default_options(dropper)}
    special = {k: v for k, v in method.options.items() if k != "budget" and usual.get(k) != v}
    label = config.method.label or class_name_of(method.target)
    name = label_with(label, method.options.get("budget"), special)
    return Forecast(
        benchmark, config.model.name, name, documents, questions, round(questions / about), tflop,
        spread is not None or goal is None,
    )  # fmt: skip


def needed(
    goal: Goal, variance: float, value: float, documents: int, about: float, *, own: bool = False
) -> int:
    """Questions until a goal is reached, about: where bets win 1 / 0.025 on the average, at the next look.

    Args:
        goal: see `Goal`.
        variance: of a picture's mean, in squared points.
        value: the difference to full execution, in points, as far as it is known.
        documents: of the benchmark.
        about: questions a picture.
        own: it is full execution itself.
    """
    distances = [goal.precision] if goal.precision is not None else []
    if not own and goal.margin is not None:
        distances.append(abs(goal.margin - abs(value)))
    if not own and goal.different:
        distances.append(abs(value))
    looks = sizes(200, documents)
    if not distances:
        return looks[0]
    if max(distances) <= 0:
        return documents
    units = -2 * np.log(ALPHA / 2) * variance / max(distances) ** 2
    questions = units / (1 + units * about / documents) * about
    return next(size for size in looks if size >= min(questions, documents))


def _data_of(config: RunConfig) -> str:
    data = find_data_source(config.data.source, config.data.path, config.model.path, config.data.name)
    return data.source if data.path is None else "local copy"


def _count(config: RunConfig) -> int:
    """Documents of a benchmark: of the bundled and local ones counted, of those on the hub as they are known.

    Raises:
        UserError: nobody knows.
    """
    data = find_data_source(config.data.source, config.data.path, config.model.path, config.data.name)
    if data.source == "hub" and data.path is None and config.task.name in DOCUMENTS:
        return DOCUMENTS[config.task.name]
    return len(load_task(config.task, data).eval_docs)


def _spread(
    store: Store, own: Record | None, full: Record | None, is_full: bool
) -> tuple[float, float] | None:
    """Variance of a picture's mean and the difference itself, in points; None where no record tells."""
    if own is None or (full is None and not is_full) or (full is not None and why_apart(own, full)):
        return None
    most = _most(scorer_for(own.benchmark))
    samples = store.samples(own).set_index("doc_id")
    scores = samples["score"].astype(float)
    if full is not None:
        scores = (scores - store.samples(full).set_index("doc_id")["score"].astype(float)).dropna()
    if len(scores) < 2:
        return None
    centred = scores - scores.mean()
    pictures = samples["image"].reindex(scores.index).fillna("")
    per_picture = centred.groupby(pictures.to_numpy()).agg(["sum", "size"])
    variance = float((per_picture["sum"] ** 2).mean() / per_picture["size"].mean() ** 2)
    return variance * most**2, float(scores.mean()) * most


def _most(scorer: Scorer) -> float:
    """Points of all answers right; of MME as the paper has it, 200 for each of ten categories."""
    return 2000.0 if scorer.together == "pairs" else scorer.of_part().scale


def _tokens(
    config: RunConfig, family: Family, own: Record | None, full: Record | None
) -> tuple[float, float]:
    """Visual tokens that the language model gets, and those of the stock model, mean of a question."""
    counted = next((r.tokens.full for r in (full, own) if r is not None and r.tokens.full), None)
    whole = counted.mean if counted else float(family.layout(FULL_SIZE).stock_tokens)
    if own is not None and own.tokens.kept:
        return own.tokens.kept.mean, whole
    if config.tokens is not None:
        return min(float(config.tokens), whole), whole
    share = config.budget if config.budget is not None else config.method.options.get("budget")
    return whole * float(share or 1), whole


def _without_weights(model: ModelOptions) -> Family | None:
    """A model of these shapes; None where only the hub knows them.

    Raises:
        UserError: see `find_checkpoint`, `read_config`, `call_loader` and `Family`.
    """
    shapes = published_config(str(model.hub_id))
    if shapes is not None:
        processor: Any = dummy_processor(shapes)
    else:
        folder = find_checkpoint(model)
        if not Path(folder).is_dir():
            return None
        shapes = read_config(folder, None)
        if shapes.model_type not in FAMILIES:
            return None
        processor = call_loader(folder, AutoProcessor.from_pretrained, folder)
    return family_without_weights(shapes, processor)


def family_without_weights(shapes: Any, processor: Any) -> Family:
    """A model of these shapes that holds no numbers.

    Args:
        shapes: its config, of a family that is known.
        processor: as its stock processor.
    """
    with torch.device("meta"):
        stock = FAMILIES[shapes.model_type].stock._from_config(shapes)
    return family_of(stock, image_processor=processor.image_processor)


def _tflop(family: Family, questions: int, pictures: int, kept: float, whole: float) -> float:
    """Arithmetic of encoding the pictures and reading the prompts; answers, a few words, are left out.

    Pictures are taken to have the shape with the number of tokens that is nearest to the mean.
    """
    shapes = (family.layout((side, wide * side)) for side in range(112, 2241, 112) for wide in (1, 2, 3))
    layout = min(shapes, key=lambda layout: abs(layout.stock_tokens - whole))
    encode, prompt = count_tflop(family, layout, round(kept))
    return pictures * encode + questions * prompt


def count_tflop(family: Family, layout: PartitionLayout, kept: int) -> tuple[float, float]:
    """TFLOP of encoding a picture, and of projecting its kept tokens and reading them with `TEXT_TOKENS`."""
    tower, decoder = Tower.of(family, layout), Decoder.of(family.config)
    encode = tower.encode(layout.partitions, tower.layers, 2)
    prompt = decoder.prefill(1, [kept + TEXT_TOKENS] * decoder.layers, 2)
    return encode.flops / 1e12, (prompt.flops + tower.project(kept, 2).flops) / 1e12


def summarize_forecasts(found: Sequence[Forecast], tflops: float) -> str:
    """One line on the whole sweep.

    Args:
        found: what each run takes.
        tflops: TFLOP a second of the card.
    """
    questions, documents = sum(f.questions for f in found), sum(f.documents for f in found)
    known = [f.tflop for f in found if f.tflop is not None]
    unknown = f", not counting {len(found) - len(known)} runs of unknown shape" * (len(known) < len(found))
    hours = sum(known) / tflops / 3600
    return (
        f"{len(found)} run{'s' * (len(found) != 1)}: about {questions:,} of {documents:,} questions "
        f"({100 * questions / documents:.0f} %), "
        f"{sum(f.encodings for f in found):,} encodings, {sum(known):,.3g} TFLOP, {hours:.2g} GPU hours at "
        f"{tflops:g} TFLOP a second{unknown}"
    )
