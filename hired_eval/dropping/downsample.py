"""Downsample: a coarser picture instead of fewer of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.base import BudgetedDropper
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.pooling import pool
from hired_eval.dropping.types import KeptTokens, VisionEncoding, pad_partitions


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

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The full-image first, the assembled grid with what remains."""
        indices, features = list[Tensor](), list[Tensor]()
        of_images = torch.split(encoding.features, [layout.partitions for layout in layouts])
        for layout, tokens, budget in zip(layouts, of_images, budgets, strict=True):
            for index, cells in downsample(layouts, layout, tokens, budget):
                indices.append(index)
                features.append(cells)
        return pad_partitions(indices, features)


def downsample(
    layouts: Layouts, layout: PartitionLayout, tokens: Tensor, budget: int
) -> list[tuple[Tensor, Tensor]]:
    """Positions (n,) and averaged tokens (n, C) of each partition of an image.

    Args:
        layouts: of the pass.
        layout: of the image.
        tokens: (P, N, C).
        budget: number of tokens.
    """
    (height, width), most, full = layout.tile, layout.tokens_per_partition, layout.full_image
    cells, y, x = pool(tokens[full].view(1, height, width, -1), min(budget, most))
    whole = _places(layouts, y, x, width), cells.flatten(0, 2)
    if layout.sub_images == 0:
        return [whole]
    layout.require_grid()
    tiles = torch.cat([tokens[:full], tokens[full + 1 :]]).view(layout.rows, layout.cols, height, width, -1)
    grid = tiles.transpose(1, 2).flatten(0, 1).flatten(1, 2)
    top, bottom, left, right = layout.unpadded()
    cells, y, x = pool(grid[None, top:bottom, left:right], max(budget - most, 0))
    y, x = [i + top for i in y], [i + left for i in x]
    in_rows = [[i % height for i in y if i // height == row] for row in range(layout.rows)]
    in_cols = [[i % width for i in x if i // width == col] for col in range(layout.cols)]
    parts = [
        (_places(layouts, rows, cols, width), part.flatten(0, 1))
        for rows, band in zip(in_rows, torch.split(cells[0], [len(n) for n in in_rows]), strict=True)
        for cols, part in zip(in_cols, torch.split(band, [len(n) for n in in_cols], dim=1), strict=True)
    ]
    parts.insert(full, whole)
    return parts


def _places(layouts: Layouts, rows: list[int], cols: list[int], width: int) -> Tensor:
    """Positions in raster order where rows and columns of a partition meet."""
    return (layouts.tensor(rows)[:, None] * width + layouts.tensor(cols)).flatten()
