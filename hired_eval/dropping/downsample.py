"""Downsample: a coarser picture instead of fewer of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from hired_eval.dropping.base import BudgetedDropper
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.pooling import pool
from hired_eval.dropping.types import KeptTokens, VisionEncoding


@dataclass(frozen=True, kw_only=True)
class Downsample(BudgetedDropper):
    """The picture at the resolution that the budget buys, as one coarser picture.

    A stock vision tower takes partitions of one size only, so the picture cannot simply be fed smaller; its
    token grids are averaged instead. A budget up to N goes to the full-image, which is the whole picture
    squashed to one partition: averaged to the largest near-square grid within the budget (with N tokens it is
    exactly the picture downsampled to S x S pixels). A larger budget keeps the full-image whole and spends
    the rest on the assembled grid of sub-images, padding removed, averaged as one picture to the largest grid
    of its aspect ratio. Unlike `Spatial`, which thins out each partition alike, low budgets see no sub-image.
    """

    def keep(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> KeptTokens:
        """The full-image first, the assembled grid with what remains."""
        side, most = layout.side, layout.tokens_per_partition
        full_image = encoding.features[0].T.reshape(-1, side, side)
        features, (y, x) = pool(full_image, min(budget, most))
        if layout.sub_images == 0 or budget <= most:
            nothing = y[:0]
            rest = [nothing] * layout.sub_images
            return KeptTokens([y * side + x, *rest], [features, *(features[:0] for _ in rest)])
        top, bottom, left, right = layout.unpadded()
        tiles = encoding.features[1:].view(layout.rows, layout.cols, side, side, -1)
        grid = tiles.permute(4, 0, 2, 1, 3).reshape(-1, layout.rows * side, layout.cols * side)
        pooled, (grid_y, grid_x) = pool(grid[:, top:bottom, left:right], budget - most)
        grid_y, grid_x = grid_y + top, grid_x + left
        sub_image = grid_y // side * layout.cols + grid_x // side
        index = grid_y % side * side + grid_x % side
        chosen = [sub_image == i for i in range(layout.sub_images)]
        return KeptTokens(
            [y * side + x, *(index[c] for c in chosen)], [features, *(pooled[c] for c in chosen)]
        )
