"""HiRED (Arif et al., AAAI-25), Algorithm 1 as the paper states it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.base import BudgetedDropper, floor_share, require_share
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.types import VisionEncoding


@dataclass(frozen=True, kw_only=True)
class HiRED(BudgetedDropper):
    """High-resolution early dropping: an initial layer allocates the budget, the final layer spends it.

    The full-image gets alpha of the budget; the sub-images share the rest by their visual content score:
    the initial layer's CLS-attention of the full-image in the region that each sub-image covers (Eq. 1).
    Each partition keeps its tokens of highest feature importance score: the final layer's CLS-attention,
    summed over heads (Eq. 2).
    """

    alpha: float = 0.5
    """Share of the budget that goes to the full-image, 0 to 1."""
    initial_layer: int = 0
    """Layer of the visual content score."""
    final_layer: int | None = None
    """Layer of the feature importance score; None: the layer whose output feeds the projector."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("alpha", self.alpha, zero_allowed=True)

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        """The initial and the final layer."""
        return frozenset(
            {self.initial_layer, feature_layer if self.final_layer is None else self.final_layer}
        )

    def allocate(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> list[int]:
        """Algorithm 1, lines on budgets: alpha for the full-image, the rest by visual content score."""
        most = layout.tokens_per_partition
        if layout.sub_images == 0:
            return [min(budget, most)]
        full_image = floor_share(self.alpha, budget)
        content = visual_content_score(encoding.attention_at(self.initial_layer)[0], layout)
        sub_images = ((budget - full_image) * content / content.sum()).floor().long().tolist()
        return [min(n, most) for n in (full_image, *sub_images)]

    def score(self, encoding: VisionEncoding, layout: PartitionLayout) -> Tensor:
        """Feature importance score: CLS-attention of the final layer, summed over heads (Eq. 2)."""
        return encoding.attention_at(self.final_layer).float().sum(dim=1)


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
