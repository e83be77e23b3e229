"""HiRED (Arif et al., AAAI-25), Algorithm 1 as the paper states it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hired_eval.dropping.base import floor_share
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import CLSAttentionDropper, layers_named
from hired_eval.dropping.types import VisionEncoding
from hired_eval.errors import UserError
from hired_eval.typed import Natural, Proportion


@dataclass(frozen=True, kw_only=True)
class HiRED(CLSAttentionDropper):
    """High-resolution early dropping: an initial layer allocates the budget, the final layer spends it.

    The full-image gets alpha of the budget; the sub-images share the rest by their visual content score:
    the initial layer's CLS-attention of the full-image in the region that each sub-image covers (Eq. 1).
    Each partition keeps its tokens of highest feature importance score: the final layer's CLS-attention,
    summed over heads (Eq. 2). The options after alpha are the design choices of the paper's Table 5.
    """

    alpha: Proportion = 0.5
    """Share of the budget that goes to the full-image, 0 to 1."""
    distribute: Literal["content", "even"] = "content"
    """How sub-images share their part: by visual content score, or evenly."""
    initial_layer: Natural | None = 0
    """Layer of the visual content score; None: the layer whose output feeds the projector."""
    heads: Literal["sum", "single"] = "sum"
    """Both scores from all heads, summed, or from one head alone."""
    head: Natural = 0
    """Which head, with heads='single'."""

    def __post_init__(self) -> None:
        """Also refuse a head of an attention that has none.

        Raises:
            UserError: heads='single' without CLS-attention.
        """
        super().__post_init__()
        if self.heads == "single" and self.signal != "cls":
            raise UserError(
                f"heads=single reads one head of CLS-attention, and signal={self.signal} has no heads; take "
                "signal=cls or heads=sum"
            )

    def layers_ranking(self, feature_layer: int) -> frozenset[int]:
        """The final layer, and the initial layer where the visual content score is used."""
        content = (self.initial_layer,) if self.distribute == "content" else ()
        return layers_named(feature_layer, self.final_layer, *content)

    def quotas(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> Tensor:
        """Algorithm 1, lines on budgets: alpha for the full-image, the rest by visual content score.

        Where the full-image has no attention on any sub-image, the sub-images share evenly.
        """
        parts = zip(layouts, budgets, strict=True)
        full = [floor_share(self.alpha, most) if layout.sub_images else most for layout, most in parts]
        rest = [most - part for most, part in zip(budgets, full, strict=True)]
        full_image, of_sub_images = layouts.tensor([full, rest], torch.float64)[:, layouts.image]
        even = (~layouts.is_full_image).double()
        content = even
        if self.distribute == "content":
            attention = self._of_heads(self.attention(encoding, self.initial_layer))
            measured = visual_content_score(attention, layouts)
            content = torch.where(layouts.total(measured) > 0, measured, even)
        quotas = of_sub_images * content / layouts.total(content)
        return torch.where(layouts.is_full_image, full_image, quotas)

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> Tensor:
        """Feature importance score: CLS-attention of the final layer, summed over heads (Eq. 2)."""
        return self._of_heads(self.attention(encoding, self.final_layer)).float().sum(dim=-2)

    def _of_heads(self, attention: Tensor) -> Tensor:
        """(..., heads, N) -> the heads that count.

        Raises:
            UserError: the layer has no head of that number.
        """
        if self.heads == "sum":
            return attention
        if self.head >= attention.shape[-2]:
            raise UserError(
                f"head={self.head}, and the vision tower has heads 0 to {attention.shape[-2] - 1}"
            )
        return attention[..., self.head : self.head + 1, :]


def visual_content_score(attention: Tensor, layouts: Layouts) -> Tensor:
    """Visual content score of each sub-image (Eq. 1).

    Args:
        attention: (S, heads, N) CLS-attention in the initial layer, of which that of the full-images counts.
        layouts: geometry of the images.

    Returns:
        (S,) float64: attention mass of the full-image, over heads, in the region that each sub-image covers;
        0 for a full-image.
    """
    mass = attention.double().sum(dim=1)
    return (layouts.regions * mass[layouts.full_image]).sum(dim=1)
