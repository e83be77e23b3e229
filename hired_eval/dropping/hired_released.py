"""HiRED as the authors' released code selects, which differs from the paper's Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper, floor_share
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_highest
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.errors import UserError
from hired_eval.typed import Proportion


@dataclass(frozen=True, kw_only=True)
class HiREDReleased(RankingByAttention, BudgetedDropper):
    """HiRED by the released code's rules (hasanar1f/HiRED, commit 502d6dd7), on a correctly oriented grid.

    The visual content score of a sub-image is how many of the full-image's top int(N * (1 - alpha)) tokens
    by layer 0 fall into its band: the raster order cut into k equal stretches, not the region it covers. The
    full-image gets at most N and passes the excess on to the sub-images, at most N for each; their shares are
    truncated and clamped to N, and what is left over is not spent. The selection runs at budget 1 as well,
    where the released forward pass skips it.
    """

    alpha: Proportion = 0.5
    """Share of the budget that goes to the full-image, 0 to 1; it also bends the sub-images' split."""

    def layers_ranking(self, feature_layer: int) -> frozenset[int]:
        """Layer 0 and the layer whose output feeds the projector."""
        return frozenset({0, feature_layer})

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """Allocate by counts in bands, then keep the highest CLS-attention of the final layer.

        Raises:
            UserError: alpha leaves no token to count, and there is budget for the sub-images.
        """
        importance = self.attention(encoding, None).float().sum(dim=1)
        counts = self._allocate(encoding, layouts, budgets)
        return keep_highest(importance, counts, encoding.features, max(budgets))

    def _allocate(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> Tensor:
        most = layouts.tokens_per_partition
        parts = zip(layouts, budgets, strict=True)
        full = [floor_share(self.alpha, budget) if layout.sub_images else budget for layout, budget in parts]
        full = [min(count, most) for count in full]
        parts = zip(layouts, budgets, strict=True)
        rest = [min(b - n, g.sub_images * most) for (g, b), n in zip(parts, full, strict=True)]
        counted = int(most * (1 - self.alpha))  # the released code's own rounding
        if counted == 0 and max(rest) > 0:
            raise UserError(
                f"alpha={self.alpha} leaves no token of the full-image to tell the sub-images apart, and "
                f"{max(rest)} tokens of the budget are theirs: the released code divides 0 by 0 here; lower "
                "alpha"
            )
        content = self.attention(encoding, 0)[layouts.full_image].float().sum(dim=1)
        top = content.argsort(dim=1, descending=True, stable=True)[:, :counted]
        full_image, of_sub_images = layouts.tensor([full, rest])[:, layouts.image]
        # in float32, as the released code computes it, where a share just below a whole number loses a token
        shares = of_sub_images * (tokens_in_bands(top, layouts) / max(counted, 1))
        return torch.where(layouts.is_full_image, full_image, shares.floor().long().clamp(max=most))


def tokens_in_bands(tokens: Tensor, layouts: Layouts) -> Tensor:
    """How many full-image tokens are in each sub-image's band, one of k equal parts of the raster order.

    Args:
        tokens: (S, n) positions on the full-image of each partition's image.
        layouts: geometry of the images.

    Returns:
        (S,) int64 counts.
    """
    sub_images = layouts.tensor([g.sub_images for g in layouts]).index_select(0, layouts.image)[:, None]
    band = torch.div(tokens * sub_images, layouts.tokens_per_partition, rounding_mode="floor")
    return (band == layouts.sub_image[:, None]).sum(dim=1)
