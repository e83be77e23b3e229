"""What all dropping methods share: their stages, and the token budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.packing import PackedTokens, pack
from hired_eval.dropping.types import KeptTokens, Signal, VisionEncoding
from hired_eval.typed import Share, check_value, types_of

if TYPE_CHECKING:
    from hired_eval.dropping.layer_stage import LayerStage


def floor_share(share: float, count: int) -> int:
    """floor(share * count) for a share as it is written: 0.29 of 100 is 29, whatever binary floats say."""
    return floor(Fraction(repr(float(share))) * count)


def even_counts(budget: int, partitions: int) -> list[int]:
    """A budget split evenly over the partitions; the first ones get what is left over, one token each."""
    each, left = divmod(budget, partitions)
    return [each + (i < left) for i in range(partitions)]


@dataclass(frozen=True, kw_only=True)
class TokenDropper(ABC):
    """A dropping method: where visual tokens are dropped, and which ones stay.

    Subclasses are frozen dataclasses whose fields are the method's options, checked against their
    annotations. `with dropper(model): ...` applies the method to a stock transformers model.
    """

    VERSION: ClassVar[int] = 1
    """Of what the method does; one more whenever the same encoding gives other tokens than before."""

    @property
    @abstractmethod
    def vision(self) -> VisionStage:
        """The stage before the language model."""

    @property
    def inside(self) -> tuple[LayerStage, ...]:
        """The stages inside the language model."""
        return ()

    def __post_init__(self) -> None:
        """Give every option its declared type.

        Raises:
            UserError: a value of another type, or out of the range that its annotation names.
        """
        for name, kind in types_of(type(self)).items():
            object.__setattr__(self, name, check_value(name, kind, getattr(self, name)))

    def __call__(self, model: torch.nn.Module) -> AbstractContextManager[torch.nn.Module]:
        """Apply the method to a stock model of transformers for the length of a `with` block.

        Raises:
            UserError: the model is of no family that token dropping works on.
        """
        from hired_eval.models.apply import Applied  # the methods themselves need torch alone

        return Applied(self, model)


@dataclass(frozen=True, kw_only=True)
class VisionStage(TokenDropper):
    """A stage before the language model: a vision encoding in, the kept tokens out. Alone it is a method."""

    reads: ClassVar[frozenset[Signal]] = frozenset()
    """Signals of the vision tower that `drop` reads."""
    key_layer: ClassVar[Literal["last", "feature"]] = "last"
    """Where keys are read: in the vision tower's last layer, or in the layer that feeds the projector."""
    grid_order: ClassVar[bool] = True
    """Whether kept tokens are packed in raster order of the assembled grid (False for merged tokens, which
    keep their own order, and are put in raster order only where newline tokens mark its rows)."""
    keys_alone: ClassVar[bool] = False
    """Whether `drop` reads keys without the CLS query, so that it needs no CLS token for them."""
    newline: Literal["none", "rows"] = "none"
    """Newline tokens of LLaVA-Next: none, or one behind each row of the grid that keeps a token."""

    @property
    def vision(self) -> VisionStage:
        """The method is this one stage."""
        return self

    @abstractmethod
    def drop(self, encoding: VisionEncoding, layout: PartitionLayout) -> KeptTokens:
        """Choose the tokens to keep.

        Args:
            encoding: one image through the vision tower.
            layout: its geometry.
        """

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        """Vision-tower layers whose CLS-attention `drop` reads, counted from 0; the feature layer by default.

        Args:
            feature_layer: the layer whose output feeds the projector (22 for CLIP-L/14-336).
        """
        return frozenset({feature_layer}) if "cls_attention" in self.reads else frozenset()

    def received_layers(self, feature_layer: int) -> frozenset[int]:
        """Vision-tower layers whose attention received `drop` reads; as `attention_layers`."""
        return frozenset({feature_layer}) if "received_attention" in self.reads else frozenset()

    @property
    def takes_either(self) -> bool:
        """Whether attention received serves where there is no CLS-attention."""
        return False

    def allowed(self, layout: PartitionLayout) -> int | None:
        """The token budget of one image, newline tokens included; None for a method without a budget."""
        return None

    def pack(self, kept: KeptTokens, layout: PartitionLayout) -> PackedTokens:
        """Put kept tokens in the order of the language model's input."""
        newline = self.newline == "rows"
        return pack(kept, layout, newline=newline, grid_order=self.grid_order or newline)


@dataclass(frozen=True, kw_only=True)
class BudgetedDropper(VisionStage):
    """A stage held to a token budget; subclasses say what they keep within a number of tokens."""

    budget: Share = 0.2
    """Token budget as a share of P * N, above 0 and at most 1."""

    @abstractmethod
    def keep(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> KeptTokens:
        """At most `budget` tokens of one image, newline tokens not counted."""

    def allowed(self, layout: PartitionLayout) -> int:
        """floor(budget * P * N)."""
        return floor_share(self.budget, layout.total_tokens)

    def drop(self, encoding: VisionEncoding, layout: PartitionLayout) -> KeptTokens:
        """Keep what the budget allows; with newline tokens, as many tokens as leave room for them."""
        allowed = self.allowed(layout)
        kept = self.keep(encoding, layout, allowed)
        if self.newline == "none" or self.pack(kept, layout).length <= allowed:
            return kept
        fits, too_many = 0, allowed
        kept = self.keep(encoding, layout, fits)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            candidate = self.keep(encoding, layout, middle)
            if self.pack(candidate, layout).length <= allowed:
                fits, kept = middle, candidate
            else:
                too_many = middle
        return kept
