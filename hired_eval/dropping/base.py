"""What all dropping methods share: their stages, and the token budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch

from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.packing import PackedPass, PackedTokens, pack
from hired_eval.dropping.types import KeptTokens, Signal, VisionEncoding
from hired_eval.errors import UserError
from hired_eval.method_configs import BUDGETS
from hired_eval.typed import Count, Share, check_value, types_of

if TYPE_CHECKING:
    from hired_eval.dropping.layer_stage import LayerStage
    from hired_eval.models.apply import Applied


BUDGET = 0.2
"""The token budget of a method before the language model that is given none."""


def given_budget(method: Any) -> str:
    """'tokens=640': the budget that a method was given; '' for none.

    Raises:
        UserError: there are several.
    """
    values = {name: getattr(method, name, None) for name in BUDGETS}
    given = [f"{name}={value:g}" for name, value in values.items() if value is not None]
    if len(given) > 1:
        raise UserError(
            f"{type(method).__name__} has {' and '.join(given)}; give one of them, and null for the others"
        )
    return "".join(given)


def check_reads(method: Any, known: Any) -> None:
    """Refuse a method's class that reads what there is not.

    Args:
        method: with a set of signals, `reads`.
        known: the `Literal` of them.

    Raises:
        UserError: naming the class.
    """
    if isinstance(method.reads, str) or not set(method.reads) <= set(get_args(known)):
        raise UserError(
            f"{type(method).__name__}.reads must be a frozenset of {', '.join(get_args(known))}, "
            f"got {method.reads!r}"
        )


def floor_share(share: float, count: int) -> int:
    """floor(share * count) for a share as it is written: 0.29 of 100 is 29, whatever binary floats say."""
    return floor(Fraction(repr(float(share))) * count)


def even_counts(budget: int, partitions: int) -> list[int]:
    """A budget split evenly over the partitions; the first ones get what is left over, one token each."""
    each, left = divmod(budget, partitions)
    return [each + (i < left) for i in range(partitions)]


def even_split(layouts: Layouts, budgets: list[int]) -> list[int]:
    """S numbers: each image's budget split evenly over its partitions."""
    images = zip(layouts, budgets, strict=True)
    return [count for layout, budget in images for count in even_counts(budget, layout.partitions)]


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

    def __call__(self, model: torch.nn.Module) -> Applied:
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
    newline: Literal["none", "rows"] = "none"
    """Newline tokens of LLaVA-Next: none, or one behind each row of the grid that keeps a token."""
    positions: Literal["compact", "original"] = "compact"
    """Positions of kept tokens in the language model: numbered anew without gaps, or as they were among all
    visual tokens of the stock model."""

    def __post_init__(self) -> None:
        """See that `reads` names signals."""
        super().__post_init__()
        check_reads(self, Signal)

    @property
    def vision(self) -> VisionStage:
        """The method is this one stage."""
        return self

    @abstractmethod
    def drop(self, encoding: VisionEncoding, layouts: Layouts) -> KeptTokens:
        """Choose the tokens to keep of every image of a pass, without waiting for the device.

        Nothing here may bring a number to the host: no `item`, `tolist`, `int(tensor)`, `if tensor`,
        `nonzero`, and no boolean mask as an index. What must not hold NaN is named by `forbid_nan`.

        Args:
            encoding: the images through the vision tower.
            layouts: their geometry.
        """

    def select(self, encoding: VisionEncoding, layouts: Layouts) -> list[PackedTokens]:
        """What the language model gets of each image of a pass; waits for the device once, at the end.

        Args:
            encoding: the images through the vision tower.
            layouts: their geometry.

        Raises:
            UserError: the encoding lacks what the method reads, or it holds NaN.
        """
        return self.pack(self.drop(encoding, layouts), layouts).images(encoding)

    @property
    def question_tower(self) -> str | None:
        """The CLIP that compares patches with the question for `drop`, a hub id or a folder; None: none."""
        return None

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
    def needs_cls(self) -> bool:
        """Whether `drop` reads what takes a CLS token: CLS-attention, or the CLS query."""
        return "keys" in self.reads or bool(self.attention_layers(0))

    @property
    def takes_either(self) -> bool:
        """Whether attention received serves where there is no CLS-attention."""
        return False

    def allowed(self, layout: PartitionLayout) -> int | None:
        """The token budget of one image, newline tokens included; None for a method without a budget."""
        return None

    def pack(self, kept: KeptTokens, layouts: Layouts) -> PackedPass:
        """Put kept tokens in the order of the language model's input."""
        newline = self.newline == "rows"
        return pack(kept, layouts, newline=newline, grid_order=self.grid_order or newline)


@dataclass(frozen=True, kw_only=True)
class BudgetedDropper(VisionStage):
    """A stage held to a token budget; subclasses say what they keep within a number of tokens."""

    budget: Share | None = None
    """Token budget as a share of P * N, above 0 and at most 1; 0.2 where no budget is given."""
    tokens: Count | None = None
    """Instead of a share, a number of tokens for each picture."""
    tokens_per_partition: Count | None = None
    """Likewise for each of its partitions."""

    def __post_init__(self) -> None:
        """Settle the budget.

        Raises:
            UserError: a value of another type, or several budgets.
        """
        super().__post_init__()
        if not given_budget(self):
            object.__setattr__(self, "budget", BUDGET)

    @abstractmethod
    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """At most as many tokens of each image as its budget has, newline tokens not counted."""

    def allowed(self, layout: PartitionLayout) -> int:
        """floor(budget * P * N), or the number of tokens, of which a small picture may have fewer."""
        if self.budget is not None:
            return floor_share(self.budget, layout.total_tokens)
        each = (self.tokens_per_partition or 0) * layout.partitions
        return min(self.tokens or each, layout.total_tokens)

    def drop(self, encoding: VisionEncoding, layouts: Layouts) -> KeptTokens:
        """Keep what the budget allows; with newline tokens, as many tokens as leave room for them.

        Without newline tokens this does not wait for the device. With them it does, about ten times: how many
        there are depends on the tokens, so that the largest number that fits has to be searched for.
        """
        allowed = [self.allowed(layout) for layout in layouts]
        kept = self.keep(encoding, layouts, allowed)
        if self.newline == "none":
            return kept
        lengths = self.pack(kept, layouts).lengths.tolist()
        fits = [most if length <= most else 0 for length, most in zip(lengths, allowed, strict=True)]
        too_many = [most + (fit == most) for fit, most in zip(fits, allowed, strict=True)]
        while any(above - fit > 1 for fit, above in zip(fits, too_many, strict=True)):
            tried = [(fit + above) // 2 for fit, above in zip(fits, too_many, strict=True)]
            lengths = self.pack(self.keep(encoding, layouts, tried), layouts).lengths.tolist()
            for i, (length, most) in enumerate(zip(lengths, allowed, strict=True)):
                if length <= most:
                    fits[i] = tried[i]
                else:
                    too_many[i] = tried[i]
        return self.keep(encoding, layouts, fits)
