"""HiRED (Arif et al., AAAI-25), Algorithm 1 as the paper states it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hired_eval.dropping.base import floor_share
from hired_eval.dropping.layout import PartitionLayout
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

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        """The final layer, and the initial layer where the visual content score is used."""
        content = (self.initial_layer,) if self.distribute == "content" else ()
        return layers_named(feature_layer, self.final_layer, *content)

    def quotas(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> list[float]:
        """Algorithm 1, lines on budgets: alpha for the full-image, the rest by visual content score.

        Where the full-image has no attention on any sub-image, the sub-images share evenly.
        """
        if layout.sub_images == 0:
            return [float(budget)]
        full_image = floor_share(self.alpha, budget)
        content = torch.ones(layout.sub_images, dtype=torch.float64)
        if self.distribute == "content":
            attention = self._of_heads(encoding.attention_at(self.initial_layer)[0])
            measured = visual_content_score(attention, layout)
            content = measured if measured.sum() > 0 else content
        return [float(full_image), *((budget - full_image) * content / content.sum()).tolist()]

    def score(self, encoding: VisionEncoding, layout: PartitionLayout) -> Tensor:
        """Feature importance score: CLS-attention of the final layer, summed over heads (Eq. 2)."""
        return self._of_heads(encoding.attention_at(self.final_layer)).float().sum(dim=-2)

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


def visual_content_score(attention: Tensor, layout: PartitionLayout) -> Tensor:
    """Visual content score of each sub-image (Eq. 1).

    Args:
        attention: (heads, N) CLS-attention of the full-image in the initial layer.
        layout: geometry of the image.

    Returns:
        (k,) float64: attention mass, over heads, in the region that each sub-image covers.
    """
    mass = attention.double().sum(dim=0).cpu()
    return torch.mv(layout.regions(), mass)
