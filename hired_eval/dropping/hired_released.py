"""HiRED as the authors' released code selects, which differs from the paper's Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hired_eval.dropping.base import BudgetedDropper, floor_share
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.selection import keep_highest
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.errors import UserError
from hired_eval.typed import Proportion


@dataclass(frozen=True, kw_only=True)
class HiREDReleased(BudgetedDropper):
    """HiRED by the released code's rules (hasanar1f/HiRED, commit 502d6dd7), on a correctly oriented grid.

    The visual content score of a sub-image is how many of the full-image's top int(N * (1 - alpha)) tokens
    by layer 0 fall into its band: the raster order cut into k equal stretches, not the region it covers. The
    full-image gets at most N and passes the excess on to the sub-images, at most N for each; their shares are
    truncated and clamped to N, and what is left over is not spent. The selection runs at budget 1 as well,
    where the released forward pass skips it.
    """

    reads: ClassVar = frozenset({"cls_attention"})

    alpha: Proportion = 0.5
    """Share of the budget that goes to the full-image, 0 to 1; it also bends the sub-images' split."""

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        """Layer 0 and the layer whose output feeds the projector."""
        return frozenset({0, feature_layer})

    def keep(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> KeptTokens:
        """Allocate by counts in bands, then keep the highest CLS-attention of the final layer.

        Raises:
            UserError: alpha leaves no token to count, and there is budget for the sub-images.
        """
        importance = encoding.attention_at(None).float().sum(dim=1)
        return keep_highest(importance, self._allocate(encoding, layout, budget), encoding.features)

    def _allocate(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> list[int]:
        most = layout.tokens_per_partition
        full_image = budget if layout.sub_images == 0 else floor_share(self.alpha, budget)
        full_image = min(full_image, most)
        if layout.sub_images == 0:
            return [full_image]
        rest = min(budget - full_image, layout.sub_images * most)
        counted = int(most * (1 - self.alpha))  # the released code's own rounding
        if rest == 0:
            return [full_image] + [0] * layout.sub_images
        if counted == 0:
            raise UserError(
                f"alpha={self.alpha} leaves no token of the full-image to tell the sub-images apart, and "
                f"{rest} tokens of the budget are theirs: the released code divides 0 by 0 here; lower alpha"
            )
        content = encoding.attention_at(0)[0].float().sum(dim=0)
        in_bands = tokens_in_bands(content.argsort(descending=True, stable=True)[:counted], layout)
        # in float32, as the released code computes it, where a share just below a whole number loses a token
        shares = (rest * (in_bands / in_bands.sum())).floor().long().clamp(max=most)
        return [full_image, *shares.tolist()]


def tokens_in_bands(tokens: Tensor, layout: PartitionLayout) -> Tensor:
    """How many of some full-image tokens lie in each of k equal stretches of the raster order.

    Args:
        tokens: (n,) positions on the full-image.
        layout: geometry of the image.

    Returns:
        (k,) int64 counts.
    """
    band = tokens * layout.sub_images // layout.tokens_per_partition
    return torch.bincount(band.cpu(), minlength=layout.sub_images)
