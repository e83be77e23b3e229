"""Averaging a grid of tokens to a coarser grid."""

from __future__ import annotations

from math import isqrt

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


def pool(grids: Tensor, count: int) -> tuple[Tensor, list[int], list[int]]:
    """Average grids of tokens to the largest grid of their aspect ratio with at most `count` cells.

    Args:
        grids: (G, H, W, C) tokens.
        count: number of cells.

    Returns:
        (G, h, w, C) cells; the rows (h numbers) and columns (w numbers) of the grid where their centres are.
    """
    height, width = grids.shape[1:3]
    down, across = _cells(height, width, count)
    if down * across == 0:
        return grids[:, :0, :0], [], []
    cells = adaptive_avg_pool2d(grids.permute(0, 3, 1, 2).float(), (down, across))
    cells = cells.permute(0, 2, 3, 1).to(grids.dtype)
    return cells, _centres(height, down), _centres(width, across)


def _cells(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns: down / across near height / width, down * across <= count."""
    if height * width <= count:
        return height, width
    if count == 0 or height * width == 0:
        return 0, 0
    down = min(max(isqrt(count * height // width), 1), height, count)
    across = min(count // down, width)
    return min(count // across, height), across


def _centres(size: int, cells: int) -> list[int]:
    """Middle token of each cell, whose borders are those of adaptive average pooling."""
    borders = [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
    return [(start + end - 1) // 2 for start, end in borders]
