"""Random: the baseline that every method must beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import SelectingDropper, highest_overall
from hired_eval.dropping.types import VisionEncoding
from hired_eval.typed import Natural


@dataclass(frozen=True, kw_only=True)
class Random(SelectingDropper):
    """Tokens drawn evenly from all partitions.

    The draw depends on the seed, the grid and the image's size alone, so that it is the same at any batch
    size, in any order and on any device. Images of one size share a draw; vary the seed to average over
    draws.
    """

    seed: Natural = 0
    """Seed of the draw, at least 0."""

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> Tensor:
        """(S, N) random numbers."""
        drawn = torch.cat([self.draw(layout) for layout in layouts])
        return drawn.to(encoding.features.device, non_blocking=True)

    def draw(self, layout: PartitionLayout) -> Tensor:
        """(P, N) random numbers of one image, on the CPU."""
        source = f"{self.seed} {layout.rows} {layout.cols} {layout.tile[0]} {layout.image_size}"
        seed = int.from_bytes(hashlib.blake2b(source.encode(), digest_size=7).digest(), "big")
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(layout.partitions, layout.tokens_per_partition, generator=generator)

    def allocate(
        self, encoding: VisionEncoding, layouts: Layouts, scores: Tensor, budgets: list[int]
    ) -> Tensor:
        """No allocation: the highest of the whole image."""
        return highest_overall(scores, layouts, budgets)
