"""What all dropping methods share: the interface, the budget, and the selection by score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.packing import PackedTokens, pack
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.errors import UserError


def floor_share(share: float, count: int) -> int:
    """floor(share * count) for a share as it is written: 0.29 of 100 is 29, whatever binary floats say."""
    return floor(Fraction(repr(float(share))) * count)


def require_share(name: str, value: object, *, zero_allowed: bool) -> None:
    """Refuse a budget or an alpha that is not a number in (0, 1] or, with `zero_allowed`, [0, 1].

    Raises:
        UserError: naming the option, the value and the range.
    """
    interval = "from 0 to 1" if zero_allowed else "above 0 and at most 1"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} must be a number {interval}, got {value!r}")
    if not (0 <= value <= 1) or (value == 0 and not zero_allowed):
        raise UserError(f"{name} must be {interval}, got {value}")


@dataclass(frozen=True, kw_only=True)
class TokenDropper(ABC):
    """A dropping method: a vision encoding in, the kept tokens out.

    Subclasses are frozen dataclasses whose fields are the method's options. `with dropper(model): ...`
    applies the method to a stock transformers model.
    """

    needs_keys: ClassVar[bool] = False
    """Whether `drop` reads the last layer's keys and CLS query."""
    grid_order: ClassVar[bool] = True
    """Whether kept tokens are packed in raster order of the assembled grid (False for merged tokens)."""
    newline: Literal["none", "rows"] = "none"
    """Newline tokens of LLaVA-Next: none, or one behind each row of the grid that keeps a token."""

    def __post_init__(self) -> None:
        if self.newline not in ("none", "rows"):
            raise UserError(f"newline must be 'none' or 'rows', got {self.newline!r}")

    @abstractmethod
    def drop(self, encoding: VisionEncoding, layout: PartitionLayout) -> KeptTokens:
        """Choose the tokens to keep.

        Args:
            encoding: one image through the vision tower.
            layout: its geometry.
        """

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        """Vision-tower layers whose CLS-attention `drop` reads, counted from 0.

        Args:
            feature_layer: the layer whose output feeds the projector (22 for CLIP-L/14-336).
        """
        return frozenset()

    def allowed(self, layout: PartitionLayout) -> int | None:
        """The token budget of one image, newline tokens included; None for a method without a budget."""
        return None

    def pack(self, kept: KeptTokens, layout: PartitionLayout) -> PackedTokens:
        """Put kept tokens in the order of the language model's input."""
        return pack(kept, layout, newline=self.newline == "rows", grid_order=self.grid_order)

    def __call__(self, model: torch.nn.Module) -> AbstractContextManager[torch.nn.Module]:
        """Apply the method to a stock LLaVA model of transformers for the length of a `with` block.

        Raises:
            UserError: the model is not a LLaVA model with a CLIP vision tower.
        """
        from hired_eval.llava.apply import applied  # the methods themselves need torch alone

        return applied(self, model)


@dataclass(frozen=True, kw_only=True)
class BudgetedDropper(TokenDropper):
    """A method that keeps, in each partition, the tokens of highest score within an allocated number.

    Subclasses say how the budget is allocated to partitions and how tokens are scored.
    """

    budget: float = 0.2
    """Token budget as a share of P * N, above 0 and at most 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("budget", self.budget, zero_allowed=False)

    @abstractmethod
    def allocate(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> list[int]:
        """Tokens that each of the P partitions may keep; their sum is at most `budget`."""

    @abstractmethod
    def score(self, encoding: VisionEncoding, layout: PartitionLayout) -> Tensor:
        """Feature importance score of each token, (P, N)."""

    def allowed(self, layout: PartitionLayout) -> int:
        """floor(budget * P * N)."""
        return floor_share(self.budget, layout.total_tokens)

    def drop(self, encoding: VisionEncoding, layout: PartitionLayout) -> KeptTokens:
        """Allocate the budget, then keep each partition's tokens of highest score in raster order."""
        counts = self.allocate(encoding, layout, self.allowed(layout))
        return keep_highest(self.score(encoding, layout), counts, encoding.features)


def keep_highest(scores: Tensor, counts: list[int], features: Tensor) -> KeptTokens:
    """Keep the `counts[i]` tokens of highest score of partition i, in raster order.

    Among equal scores the lower position wins, so that the choice does not depend on the device.

    Args:
        scores: (P, N).
        counts: P numbers, at most N each.
        features: (P, N, C).
    """
    ranked = scores.argsort(dim=1, descending=True, stable=True)
    indices = [ranked[i, :n].sort().values for i, n in enumerate(counts)]
    return KeptTokens(indices, [features[i, kept] for i, kept in enumerate(indices)])
