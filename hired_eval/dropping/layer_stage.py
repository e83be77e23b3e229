"""Stages inside the language model: visual tokens that stay behind one of its layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hired_eval.dropping.base import TokenDropper, VisionStage, check_reads, floor_share, given_budget
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.method_configs import FULL
from hired_eval.typed import Count, Share

LayerSignal = Literal["attention", "own_attention", "key_norms", "states", "normed_states"]
"""What a stage may read of a batch of B prompts in front of a layer, n columns of each being left:

- attention: (B, heads, n) float32 attention of the prompt's last token to each column in the layer before; of
  several raters, the mean of their rows. A row sums to 1, padding gets 0.
- own_attention: the same by the projections of the layer itself, which has not run yet.
- key_norms: (B, n) float32 L1 norm of each column's keys in the layer before, all heads together, after the
  rotary embedding, as the KV cache holds them.
- states: (B, n, C) hidden states, what the layer before gave.
- normed_states: the same behind the language model's final norm.
"""


@dataclass(frozen=True)
class LayerSignals:
    """What a stage reads of a batch of B prompts in front of a layer, n columns of each being left.

    Attributes:
        visual: (B, n) bool, which columns are visual tokens, merged ones included.
        text: (B, n) bool, the text behind the last of them, up to the prompt's last token.
        values: the signals that the stage names in `reads`.
    """

    visual: Tensor
    text: Tensor
    values: Mapping[LayerSignal, Tensor]

    def __getitem__(self, name: LayerSignal) -> Tensor:
        """A signal.

        Raises:
            UserError: the stage does not name it in `reads`.
        """
        if name not in self.values:
            raise UserError(f"a stage that uses the signal {name!r} must name it in `reads`")
        return self.values[name]


@dataclass(frozen=True, kw_only=True)
class LayerStage(TokenDropper):
    """A stage inside the language model: visual tokens leave before a layer runs. Alone it is a method.

    Text always stays, and what stays keeps its order. Nothing in a stage may wait for the device.
    """

    reads: ClassVar[frozenset[LayerSignal]] = frozenset({"attention"})
    """Signals that `score`, `kept` and `merge` read; no other is computed."""
    positions: Literal["original", "compact"] = "original"
    """Positions of what stays: those of the prompt, or numbered anew without gaps."""

    @property
    def vision(self) -> VisionStage:
        """Alone, nothing is dropped before the language model."""
        return build(FULL).vision

    @property
    def inside(self) -> tuple[LayerStage, ...]:
        """The method is this one stage."""
        return (self,)

    @abstractmethod
    def layers(self, depth: int) -> tuple[int, ...]:
        """The layers before which tokens leave, counted from 0, in ascending order; none is layer 0.

        Args:
            depth: number of layers of the language model.
        """

    @abstractmethod
    def left(self, visual: int, depth: int, total: int, pictures: int = 1) -> Mapping[int, int]:
        """How many visual tokens of a prompt are to stay at each of the layers.

        Args:
            visual: tokens that the language model is given; where a stage before left fewer than this asks
                for, all of them stay.
            depth: number of layers of the language model.
            total: P * N, summed over the prompt's pictures, of which a budget is a share.
            pictures: how many the prompt has.
        """

    def merged(self, leaving: int) -> int:
        """How many tokens are made of those that leave at a layer, by `merge`; none by default."""
        return 0

    def raters(self, embeddings: Tensor, visual: Tensor, words: Tensor, shown: Tensor) -> Tensor | None:
        """Which tokens of the text behind the pictures are asked for their attention.

        Args:
            embeddings: (B, L, C) what the language model is given.
            visual: (B, L) bool.
            words: (B, m) columns of the text behind the pictures.
            shown: (B, m) bool; False where a row has fewer than m.

        Returns:
            (B, m) bool; None, the default, for the last token alone.
        """
        return None

    def flops_of_raters(self, columns: int, words: int, width: int) -> int:
        """Floating-point operations of the products of matrices of `raters` for one prompt.

        Args:
            columns: of the prompt, L.
            words: behind the pictures.
            width: of the hidden states, C.
        """
        return 0

    def flops_of_choice(self, columns: int, leaving: int, width: int) -> int:
        """Those of `score`, `kept` and `merge` at a layer for one prompt; none by default.

        Args:
            columns: that are left in front of the layer, n.
            leaving: visual tokens that leave there.
            width: of the hidden states, C.
        """
        return 0

    @abstractmethod
    def score(self, signals: LayerSignals) -> Tensor:
        """A score (B, n) of each column; the visual tokens of highest score stay, the others leave."""

    def kept(self, scores: Tensor, signals: LayerSignals, counts: Tensor) -> Tensor:
        """Which visual tokens stay, (B, n) bool; among equal scores the earlier one.

        Args:
            scores: (B, n), of `score`.
            signals: in front of the layer.
            counts: (B,) how many stay in each row, at most as many as there are.
        """
        return highest(scores, signals.visual, counts)

    def merge(self, scores: Tensor, states: Tensor, leaving: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Tokens made of those that leave a prompt, in the order in which they follow the ones that stay.

        Args:
            scores: (n,), of `score`.
            states: (n, C) hidden states, which `reads` must name.
            leaving: (n,) bool.
            count: how many leave.

        Returns:
            The column (m,) that each is centred on, one of those that leave, and hidden states (m, C), for
            m = `merged(count)`.
        """
        raise NotImplementedError(f"{type(self).__name__} says that it merges tokens, and not how")


@dataclass(frozen=True, kw_only=True)
class ShareStage(LayerStage):
    """A stage that says which share of the visual tokens stays at each of its layers.

    Its budget is the mean over the layers of the language model: with one, the shares are scaled by one
    factor, as far as the budget allows.
    """

    budget: Share | None = None
    """Mean share of P * N that the layers see, above 0 and at most 1; null: the shares as they are."""
    tokens: Count | None = None
    """Instead of a share, the mean number of tokens of each picture that the layers see."""

    def __post_init__(self) -> None:
        """See that there is one budget at most, and that `reads` names signals."""
        super().__post_init__()
        given_budget(self)
        check_reads(self, LayerSignal)

    def allowed(self, total: int, pictures: int) -> int | None:
        """How many visual tokens of a prompt the layers may see in the mean; None without a budget.

        Args:
            total: P * N, summed over the prompt's pictures.
            pictures: how many it has.
        """
        if self.tokens is not None:
            return min(self.tokens * pictures, total)
        return None if self.budget is None else floor_share(self.budget, total)

    @abstractmethod
    def shares(self, depth: int) -> Mapping[int, float]:
        """The share of the visual tokens that stays at each of the layers, in their order.

        Args:
            depth: number of layers of the language model.
        """

    def rounded(self, count: int, visual: int) -> int:
        """How many tokens of a prompt stay where its share comes to a count; by default as many."""
        return count

    def layers(self, depth: int) -> tuple[int, ...]:
        """Those that have a share."""
        return tuple(self.shares(depth))

    def left(self, visual: int, depth: int, total: int, pictures: int = 1) -> Mapping[int, int]:
        """floor(share * visual), or as many as the budget allows.

        Raises:
            UserError: the layers in front of the first one see more than the budget on their own.
        """
        shares = self.shares(depth)
        allowed = self.allowed(total, pictures)
        if allowed is None:
            return {
                layer: self.rounded(floor_share(share, visual), visual) for layer, share in shares.items()
            }
        largest = max(shares.values())
        ratios = {layer: share / largest for layer, share in shares.items()}

        def scaled(first: int) -> dict[int, int]:
            return {
                layer: self.rounded(min(visual, floor_share(ratio, first)), visual)
                for layer, ratio in ratios.items()
            }

        def seen(first: int) -> int:
            steps = _steps({layer: (self, count) for layer, count in scaled(first).items()}, visual)
            return sum(_by_layer(steps, visual, depth))

        fits, too_many = 0, int(visual / min(ratios.values())) + 2
        if seen(fits) > depth * allowed:
            raise UserError(
                f"{type(self).__name__} cannot keep to {allowed} visual tokens, the mean over layers that "
                f"{given_budget(self)} allows: the layers in front see all {visual}, which makes "
                f"{seen(fits) / depth:.1f}; set a larger budget, or let tokens leave at an earlier layer"
            )
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if seen(middle) <= depth * allowed else (fits, middle)
        return scaled(fits)


@dataclass(frozen=True)
class Step:
    """What happens to a prompt before a layer.

    Attributes:
        stage: that acts there.
        stays: how many visual tokens stay.
        leaves: how many leave.
    """

    stage: LayerStage
    stays: int
    leaves: int

    @property
    def merged(self) -> int:
        """How many tokens are made of those that leave."""
        return self.stage.merged(self.leaves) if self.leaves else 0


def highest(scores: Tensor, among: Tensor, counts: Tensor) -> Tensor:
    """The columns of highest score, (B, n) bool; among equal scores the earlier one.

    Args:
        scores: (B, n).
        among: (B, n) bool, the columns to choose from.
        counts: (B,) how many are chosen; all that are there where a row has fewer.
    """
    order = ranked(scores, among)
    chosen = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    return torch.zeros_like(among).scatter(1, order, chosen) & among


def ranked(scores: Tensor, among: Tensor) -> Tensor:
    """Columns (B, n) by falling score, those to choose from first whatever their score, even -inf."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    first = among.gather(1, order).int().argsort(dim=1, descending=True, stable=True)
    return order.gather(1, first)


def shares_at(stage: LayerStage, layers: Sequence[int], ratios: Sequence[float]) -> dict[int, float]:
    """The share of each layer, in the order of the layers; where two are the same, the later share.

    Raises:
        UserError: not as many shares as layers.
    """
    if len(layers) != len(ratios):
        raise UserError(
            f"{type(stage).__name__} has {len(ratios)} ratios for {len(layers)} layers; give one for each"
        )
    return dict(sorted(dict(zip(layers, ratios, strict=True)).items()))


def acting(stages: Sequence[LayerStage], depth: int) -> dict[int, LayerStage]:
    """Which stage acts at which layer, in the order of the layers.

    Args:
        stages: any number of stages.
        depth: number of layers of the language model.

    Raises:
        UserError: two act at the same layer, or one where there is none, or before the first layer.
    """
    found: dict[int, LayerStage] = {}
    for stage in stages:
        for layer in stage.layers(depth):
            if layer < 1:
                raise UserError(
                    f"{type(stage).__name__} acts at layer {layer}, before any layer has read the prompt; "
                    "choose a layer from 1"
                )
            if layer >= depth:
                raise UserError(
                    f"{type(stage).__name__} acts at layer {layer}, and the language model has {depth}; "
                    f"choose one from 1 to {depth - 1}"
                )
            if layer in found:
                raise UserError(
                    f"{type(found[layer]).__name__} and {type(stage).__name__} both act at layer {layer}; "
                    "give them different layers"
                )
            found[layer] = stage
    return dict(sorted(found.items()))


def plan_steps(
    stages: Sequence[LayerStage], visual: int, depth: int, total: int | None = None, pictures: int = 1
) -> dict[int, Step]:
    """What happens to a prompt at each layer at which tokens leave, in their order.

    Args:
        stages: any number of stages.
        visual: tokens that the language model is given.
        depth: number of layers of the language model.
        total: P * N, summed over the prompt's pictures; None: as many as the language model is given.
        pictures: how many the prompt has.

    Raises:
        UserError: see `acting`; or a budget is too small for its stage.
    """
    at = acting(stages, depth)
    whole = visual if total is None else total
    asked = {id(stage): stage.left(visual, depth, whole, pictures) for stage in stages}
    return _steps({layer: (stage, asked[id(stage)][layer]) for layer, stage in at.items()}, visual)


def _steps(asked: Mapping[int, tuple[LayerStage, int]], visual: int) -> dict[int, Step]:
    steps: dict[int, Step] = {}
    for layer, (stage, count) in asked.items():
        stays = min(count, visual)
        steps[layer] = Step(stage, stays, visual - stays)
        visual = stays + steps[layer].merged
    return steps


def _by_layer(steps: Mapping[int, Step], visual: int, depth: int) -> list[int]:
    counts = []
    for layer in range(depth):
        if layer in steps:
            visual = steps[layer].stays + steps[layer].merged
        counts.append(visual)
    return counts


def counts_by_layer(
    stages: Sequence[LayerStage], visual: int, depth: int, total: int | None = None, pictures: int = 1
) -> list[int]:
    """How many visual tokens of a prompt each layer of the language model sees; see `plan_steps`."""
    return _by_layer(plan_steps(stages, visual, depth, total, pictures), visual, depth)


def mean_allowed(
    stages: Sequence[LayerStage], allowed: int | None, depth: int, total: int, pictures: int = 1
) -> float | None:
    """How many visual tokens the layers may see in the mean; None where no stage has a budget.

    Args:
        stages: inside the language model.
        allowed: tokens that may be given to the language model; None where the method sets no limit.
        depth: number of layers of the language model.
        total: P * N, summed over the prompt's pictures.
        pictures: how many it has.
    """
    means = [stage.allowed(total, pictures) for stage in stages if isinstance(stage, ShareStage)]
    if budgets := [mean for mean in means if mean is not None]:
        return min(budgets)
    return None if allowed is None else fmean(counts_by_layer(stages, allowed, depth, total, pictures))
