"""Regenerates the inputs of the reference cases in tests/reference/methods; the recipes are in its README."""

import json
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hired_eval import KeptTokens
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.layouts import Layouts
from tests.reference_inputs import FOLDER, SIDE, N

Y, X = torch.arange(N) // SIDE, torch.arange(N) % SIDE


@cache
def method_cases(name: str) -> dict[str, dict[str, Any]]:
    """The cases of a method by name."""
    return {case["name"]: case for case in json.loads((FOLDER / f"methods/{name}.json").read_text())["cases"]}


@cache
def method_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"methods/{name}.npz") as loaded:
        return dict(loaded)


class Draws:
    """Numbers from one generator, in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def ri(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from `low` to below `high`."""
        return torch.randint(low, high, shape, generator=self.generator)

    def u(self, *shape: int) -> Tensor:
        """Numbers from -1 to below 1."""
        return (self.ri(0, 65536, *shape) - 32768).float() / 32768

    def blob(self) -> Tensor:
        """(N,) which patches are near a centre."""
        cy, cx = self.ri(3, 21, 1), self.ri(3, 21, 1)
        return ((Y - cy) ** 2 + (X - cx) ** 2 <= 25).long()


def partition(seed: int, attn: str, case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """CLS-attention (16, N) and features (N, C) of a partition."""
    draws = Draws(seed)
    near, r, c = draws.blob(), draws.ri(0, 65536, 16, N), 16 * draws.ri(1, 65536, 16, 1)
    p = r
    for _ in range(3):
        p = (p * p) >> 16
    edge = ((Y == 0) | (Y == SIDE - 1) | (X == 0) | (X == SIDE - 1)).long()
    weights = {
        "flat": 40000 + (r >> 2),
        "peaky": p + 256,
        "ramp": (p + 1024) * (1 + X),
        "blob": (4096 + (r >> 3)) * (1 + 15 * near),
        "edge": (4096 + (r >> 3)) * (1 + 15 * edge),
    }[attn]
    a = torch.cat([c, weights], dim=1)
    attention = (((a << 26) // a.sum(dim=1, keepdim=True))[:, 1:].double() / 2**26).float()
    channels = case.get("C", 1)
    centres, label, noise, offset = (
        draws.u(12, channels),
        draws.ri(0, 12, N),
        draws.u(N, channels),
        draws.u(channels),
    )
    if case.get("feat") == "blocks":
        label = label[(Y // 4) * 6 + X // 4]
    shared, noisy, moved = (case.get(key, 1) / 8 for key in ("shared", "noise", "offset"))
    return attention, centres[label] * shared + noise * noisy + offset * moved


def partitions(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """CLS-attention (P, 16, N) and features (P, N, C) of a case."""
    made = [partition(seed, case["attn"], case) for seed in case["seeds"]]
    return torch.stack([a for a, _ in made]), torch.stack([f for _, f in made])


def layouts_of(case: dict[str, Any]) -> Layouts:
    height, width = case["image_size"]
    return Layouts((PartitionLayout(*case["grid"], (SIDE, SIDE), (height, width)),))


def mask_kept(kept: KeptTokens) -> Tensor:
    """(P, N) bool."""
    mask = torch.zeros(len(kept.counts), N, dtype=torch.bool)
    for row, index, count in zip(mask, kept.indices, kept.counts.tolist(), strict=True):
        row[index[:count]] = True
    return mask
