"""The checks that every stage inside the language model must pass; `check_dropper` runs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hired_eval.dropping.layer_stage import (
    LayerSignal,
    LayerSignals,
    LayerStage,
    ShareStage,
    counts_by_layer,
)
from hired_eval.errors import UserError

DEPTHS = (4, 32, 40)
VISUAL = (1, 7, 64, 576)
BUDGETS = (0.02, 0.1, 1 / 3, 0.75, 1.0)
NUMBER = 20
"""A budget in tokens."""
ROWS = (24, 9, 0)
"""Visual tokens of the prompts of a synthetic batch."""
BEFORE, BEHIND, HEADS, CHANNELS = 3, 5, 2, 8


def synthetic_signals(
    stage: LayerStage, rows: tuple[int, ...] = ROWS, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> LayerSignals:
    """Random signals of a batch with all that a stage reads: two heads, eight channels.

    Args:
        stage: says which signals are there.
        rows: visual tokens of each prompt, among text; prompts are padded on the left.
        dtype: of hidden states.
        seed: of the numbers; those of a row do not depend on the other rows.
    """
    length = BEFORE + max(rows) + BEHIND
    width: dict[LayerSignal, tuple[int, ...]] = {
        "attention": (HEADS,), "own_attention": (HEADS,), "key_norms": (),
        "states": (CHANNELS,), "normed_states": (CHANNELS,),
    }  # fmt: skip
    visual = torch.zeros(len(rows), length, dtype=torch.bool)
    text = torch.zeros_like(visual)
    values: dict[LayerSignal, list[Tensor]] = {name: [] for name in stage.reads}
    for row, count in enumerate(rows):
        visual[row, length - BEHIND - count : length - BEHIND] = True
        text[row, length - BEHIND :] = count > 0
        generator = torch.Generator().manual_seed(seed + count)
        for name in sorted(values):
            drawn = torch.randn(BEFORE + count + BEHIND, *width[name], generator=generator)
            if name in ("attention", "own_attention"):
                drawn = drawn.softmax(dim=0)
            padded = torch.cat([drawn.new_zeros(length - len(drawn), *width[name]), drawn])
            if name in ("states", "normed_states"):
                values[name].append(padded.to(dtype))
            else:
                values[name].append(padded.abs() if padded.dim() == 1 else padded.T)
    return LayerSignals(visual, text, {name: torch.stack(drawn) for name, drawn in values.items()})


def check_stage(stage: LayerStage) -> None:
    """Run a stage through the contracts of every stage.

    It acts at layers that are there; a budget is kept as the mean over layers, or refused in one line; as
    many visual tokens stay as it says, and no text is chosen; what stays does not depend on the other
    prompts; signals and torch's random state are left as they were.

    Raises:
        AssertionError: naming the contract that is broken, and the stage.
    """
    for variant in _variants(stage):
        try:
            _check_counts(variant)
            for dtype in (torch.float32, torch.bfloat16):
                _check_kept(variant, dtype)
        except AssertionError as error:
            error.add_note(f"{variant}")
            raise


def _variants(stage: LayerStage) -> Iterator[LayerStage]:
    yield stage
    if isinstance(stage, ShareStage):
        for budget in BUDGETS:
            yield replace(stage, budget=budget, tokens=None)
        yield replace(stage, budget=None, tokens=NUMBER)


def _check_counts(stage: LayerStage) -> None:
    for depth in DEPTHS:
        layers = stage.layers(depth)
        _require(list(layers) == sorted(set(layers)), "layers are in ascending order")
        _require(all(0 < layer < depth for layer in layers), f"layers are from 1 to {depth - 1}")
        for visual in VISUAL:
            try:
                counts = counts_by_layer([stage], visual, depth)
            except UserError:
                continue
            _require(counts == sorted(counts, reverse=True), "no layer sees more than the one before")
            mean = stage.allowed(visual, 1) if isinstance(stage, ShareStage) else None
            allowed = visual if mean is None else mean
            _require(sum(counts) <= allowed * depth, "the mean over layers is within the budget")


def _check_kept(stage: LayerStage, dtype: torch.dtype) -> None:
    signals = synthetic_signals(stage, dtype=dtype)
    before = {name: value.clone() for name, value in signals.values.items()}
    random_state = torch.random.get_rng_state()
    scores = stage.score(signals)
    _require(scores.shape == signals.visual.shape, "there is a score for each column")
    for share in (0.0, 0.3, 0.8, 1.0):
        counts = torch.tensor([int(share * count) for count in ROWS])
        kept = stage.kept(scores, signals, counts)
        _require(kept.dtype == torch.bool and kept.shape == scores.shape, "what stays is (B, n) bool")
        _require(not (kept & ~signals.visual).any(), "visual tokens alone are chosen")
        _require(kept.sum(dim=1).equal(counts), "as many stay as are asked for")
        for row, count in enumerate(ROWS):
            alone = synthetic_signals(stage, (count,), dtype=dtype)
            one = stage.kept(stage.score(alone), alone, counts[row : row + 1])[0]
            _require(kept[row, -len(one) :].equal(one), "what stays does not depend on the other prompts")
        _check_merged(stage, signals, scores, kept)
    _require(torch.random.get_rng_state().equal(random_state), "torch's random state is left alone")
    unchanged = all(value.equal(before[name]) for name, value in signals.values.items())
    _require(unchanged, "the signals are left as they were")


def _check_merged(stage: LayerStage, signals: LayerSignals, scores: Tensor, kept: Tensor) -> None:
    leaving = (signals.visual & ~kept)[0]
    count = int(leaving.sum())
    merged = stage.merged(count) if count else 0
    if not merged:
        return
    _require(merged <= count, "no more tokens are made than leave")
    states = signals["states"][0]
    centres, made = stage.merge(scores[0], states, leaving, count)
    _require(centres.shape == (merged,) and bool(leaving[centres].all()), "centres are tokens that leave")
    _require(len(set(centres.tolist())) == merged, "no two merged tokens have one centre")
    _require(made.shape == (merged, states.shape[1]) and made.dtype == states.dtype, "they are (m, C)")
    _require(bool(made.isfinite().all()), "merged tokens are finite")


def _require(condition: bool, contract: str) -> None:
    if not condition:
        raise AssertionError(f"broken: {contract}")
