"""Regenerates the inputs of the reference cases; the recipes stand in tests/reference/README.md."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hired_eval import PartitionLayout, VisionEncoding

FOLDER = Path(__file__).parent / "reference"
SIDE, HEADS, TILE = 24, 16, 336
N = SIDE * SIDE


@cache
def cases(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as loaded:
        return dict(loaded)


def unpack_mask(packed: np.ndarray) -> Tensor:
    """(..., 72) bytes -> (..., 576) bool."""
    return torch.from_numpy(np.unpackbits(packed, axis=-1).astype(bool))


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


@cache
def selection_attention(seed: int, partitions: int, dist: str) -> tuple[Tensor, Tensor]:
    """Exact integer CLS-attention (P, 16, 577) of the initial and the final layer, scaled by 2^20."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda lo, hi, shape: torch.randint(lo, hi, shape, generator=g, dtype=torch.int64)  # noqa: E731
    cy, cx = draw(3, 21, (1,)), draw(3, 21, (1,))
    y, x = torch.arange(N) // SIDE, torch.arange(N) % SIDE
    layers = []
    for _ in range(2):
        r = draw(0, 65536, (partitions, HEADS, N))
        c = 16 * draw(1, 65536, (partitions, HEADS, 1))
        p = r
        for _ in range(3):
            p = (p * p) >> 16
        near = ((y - cy) ** 2 + (x - cx) ** 2 <= 25).long()
        weights = {
            "flat": 40000 + (r >> 2),
            "peaky": p + 256,
            "ramp": (p + 1024) * (1 + x),
            "blob": (4096 + (r >> 3)) * (1 + 15 * near),
        }[dist]
        a = torch.cat([c, weights], dim=-1)
        q = (a << 20) // a.sum(-1, keepdim=True)
        q[..., 0] = 2**20 - q[..., 1:].sum(-1)
        layers.append(q)
    return layers[0], layers[1]


def as_attention(q: Tensor) -> Tensor:
    """(P, 16, 577) integers -> CLS-attention (P, 16, 576) float32, exact."""
    return (q[..., 1:].double() / 2**20).float()


def encoding_of(initial: Tensor, final: Tensor, channels: int = 1) -> VisionEncoding:
    """An encoding whose features are the token positions."""
    partitions = initial.shape[0]
    features = torch.arange(N, dtype=torch.float32)[None, :, None].expand(partitions, N, channels)
    return VisionEncoding(features, {0: as_attention(initial), 22: as_attention(final)})


def unpadded_layout(grid: list[int]) -> PartitionLayout:
    rows, cols = grid
    return PartitionLayout(rows, cols, (SIDE, SIDE), (rows * TILE, cols * TILE))


def mask_of(indices: list[Tensor]) -> Tensor:
    """Kept positions per partition -> (P, 576) bool."""
    mask = torch.zeros(len(indices), N, dtype=torch.bool)
    for i, kept in enumerate(indices):
        mask[i, kept] = True
    return mask
