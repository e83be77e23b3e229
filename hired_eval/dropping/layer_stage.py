"""Stages inside the language model: visual tokens that stay behind one of its layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.base import TokenDropper, VisionStage
from hired_eval.dropping.registry import build
from hired_eval.dropping.types import refuse_nan
from hired_eval.errors import UserError
from hired_eval.method_configs import FULL


@dataclass(frozen=True)
class LayerSignals:
    """What a stage may read of a batch of B prompts in front of a layer, n columns of each being left.

    Attributes:
        attention: (B, heads, n) float32 attention of the prompt's last token to each column in the layer
            before; a row sums to 1, padding gets 0.
        visual: (B, n) bool, which columns are visual tokens.
    """

    attention: Tensor
    visual: Tensor


@dataclass(frozen=True, kw_only=True)
class LayerStage(TokenDropper):
    """A stage inside the language model: visual tokens leave before a layer runs. Alone it is a method.

    Text always stays, and what stays keeps its order and its position.
    """

    @property
    def vision(self) -> VisionStage:
        """Alone, nothing is dropped before the language model."""
        return build(FULL).vision

    @property
    def inside(self) -> tuple[LayerStage, ...]:
        """The method is this one stage."""
        return (self,)

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """The layers before which tokens leave, counted from 0, in ascending order; none is layer 0."""

    @abstractmethod
    def left(self, layer: int, visual: int) -> int:
        """How many visual tokens of a prompt are left at one of these layers.

        Args:
            layer: one of `layers`.
            visual: tokens that the language model was given; where a stage before left fewer than this
                asks for, all of them stay.
        """

    @abstractmethod
    def score(self, signals: LayerSignals) -> Tensor:
        """A score (B, n) of each column; the visual tokens of highest score stay, the others leave."""

    def kept(self, signals: LayerSignals, counts: Tensor) -> Tensor:
        """Which visual tokens stay, (B, n) bool; among equal scores the earlier one.

        Args:
            signals: in front of the layer.
            counts: (B,) how many stay in each row, at most as many as there are.

        Raises:
            UserError: a score is NaN, or not one number for each column.
        """
        scores, name = self.score(signals), type(self).__name__
        if scores.shape != signals.visual.shape:
            raise UserError(
                f"{name}.score must give one number for each column, (B, n) = "
                f"{tuple(signals.visual.shape)}; it gave {tuple(scores.shape)}"
            )
        refuse_nan(f"the score of {name}", scores)
        order = scores.argsort(dim=1, descending=True, stable=True)
        # visual tokens come first whatever their score, even one of -inf
        visual_first = signals.visual.gather(1, order).int().argsort(dim=1, descending=True, stable=True)
        stays = torch.arange(order.shape[1], device=order.device) < counts[:, None]
        return torch.zeros_like(signals.visual).scatter(1, order.gather(1, visual_first), stays)


def acting(stages: Sequence[LayerStage]) -> dict[int, LayerStage]:
    """Which stage acts at which layer, in the order of the layers.

    Raises:
        UserError: two act at the same layer, or one before the first layer.
    """
    found: dict[int, LayerStage] = {}
    for stage in stages:
        for layer in stage.layers:
            if layer < 1:
                raise UserError(
                    f"{type(stage).__name__} acts at layer {layer}, before any layer has read the prompt; "
                    "choose a layer from 1"
                )
            if layer in found:
                raise UserError(
                    f"{type(found[layer]).__name__} and {type(stage).__name__} both act at layer {layer}; "
                    "give them different layers"
                )
            found[layer] = stage
    return dict(sorted(found.items()))


def counts_by_layer(stages: Sequence[LayerStage], visual: int, layers: int) -> list[int]:
    """How many visual tokens of a prompt each layer of the language model sees.

    Args:
        stages: any number of stages.
        visual: tokens that the language model is given.
        layers: of the language model.

    Raises:
        UserError: two stages act at the same layer.
    """
    at, present, counts = acting(stages), visual, []
    for layer in range(layers):
        if layer in at:
            present = min(present, at[layer].left(layer, visual))
        counts.append(present)
    return counts
