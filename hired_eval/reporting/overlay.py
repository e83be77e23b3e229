"""A picture cut into its partitions, with the kept visual tokens marked."""

from __future__ import annotations

import numpy as np
from PIL import Image

GAP = 6
FADED = 0.82
LINE = (213, 94, 0)


def overlay(
    partitions: np.ndarray, grid: tuple[int, int], kept: np.ndarray, side: int, scale: int = 1
) -> Image.Image:
    """The full-image on the left, the sub-images in their grid on the right; dropped tokens are faded.

    Args:
        partitions: (P, S, S, 3) uint8, the full-image first.
        grid: rows and columns of sub-images; (0, 0) for a single partition.
        kept: (n, 2) partition and position in it of each kept token; -1 for a token made of many.
        side: tokens per side of a partition.
        scale: how many times larger than the partitions.
    """
    size = partitions.shape[1] * scale
    tiles = [
        _marked(
            pixels.repeat(scale, 0).repeat(scale, 1), kept[(kept[:, 0] == i) & (kept[:, 1] >= 0), 1], side
        )
        for i, pixels in enumerate(partitions)
    ]
    rows, cols = grid
    height = max(1, rows) * size + max(0, rows - 1) * GAP
    width = size + (cols * (size + GAP) + 2 * GAP if cols else 0)
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(Image.fromarray(tiles[0]), (0, (height - size) // 2))
    for i, tile in enumerate(tiles[1:]):
        y, x = divmod(i, cols)
        canvas.paste(Image.fromarray(tile), (size + 3 * GAP + x * (size + GAP), y * (size + GAP)))
    return canvas


def _marked(pixels: np.ndarray, positions: np.ndarray, side: int) -> np.ndarray:
    """One partition: kept tokens as they are within a line, all others faded to light grey."""
    mask = np.zeros(side * side, dtype=bool)
    mask[positions] = True
    size = len(pixels)
    cell = np.minimum(np.arange(size) * side // size, side - 1)
    inside = mask.reshape(side, side)[cell][:, cell]
    grey = pixels.mean(axis=2, keepdims=True)
    result = np.where(inside[..., None], pixels, (1 - FADED) * grey + FADED * 245).astype(np.uint8)
    padded = np.pad(inside, 1)
    neighbours = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    result[inside & ~neighbours] = LINE
    return result
