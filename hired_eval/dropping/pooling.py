"""Averaging a grid of tokens to a coarser grid."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


def pool(grid: Tensor, count: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Average a grid of tokens to the largest grid of its aspect ratio with at most `count` cells.

    Args:
        grid: (C, H, W) tokens.
        count: number of cells.

    Returns:
        (n, C) cells in raster order, and the row and column (n,) of each cell's centre in the grid.
    """
    channels, height, width = grid.shape
    down, across = _cells(height, width, count)
    if down * across == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=grid.device)
        return grid.new_zeros(0, channels), (nothing, nothing)
    cells = adaptive_avg_pool2d(grid.float()[None], (down, across))[0].to(grid.dtype)
    y, x = _centres(height, down, grid.device), _centres(width, across, grid.device)
    return cells.flatten(1).T, (y.repeat_interleave(across), x.repeat(down))


def _cells(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns: down / across near height / width, down * across <= count."""
    if height * width <= count:
        return height, width
    if count == 0 or height * width == 0:
        return 0, 0
    down = min(max(isqrt(count * height // width), 1), height, count)
    across = min(count // down, width)
    return min(count // across, height), across


def _centres(size: int, cells: int, device: torch.device) -> Tensor:
    """(cells,) middle token of each cell, whose borders are those of adaptive average pooling."""
    i = torch.arange(cells, device=device)
    start, end = i * size // cells, -(-(i + 1) * size // cells)
    return (start + end - 1) // 2
