"""Spatial: the paper's baseline that looks at no attention."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch

from hired_eval.dropping.base import BudgetedDropper, even_split
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.pooling import pool
from hired_eval.dropping.types import KeptTokens, VisionEncoding


@dataclass(frozen=True, kw_only=True)
class Spatial(BudgetedDropper):
    """The paper's spatial baseline: each partition evenly thinned out, whatever it shows.

    With mode='pooling', as the paper's text says, a partition's side x side tokens are averaged to the
    largest near-square grid within its share of the budget. With mode='sampling', as the released code does,
    it keeps that many tokens at even distances in raster order; the released code takes every (N // n)-th
    token instead, which keeps more than asked for (half of the tokens for a budget of 0.4).
    """

    mode: Literal["pooling", "sampling"] = "pooling"
    """Average neighbours, or keep tokens at even distances."""

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one."""
        counts = even_split(layouts, budgets)
        keep = self._sample if self.mode == "sampling" else self._pool
        return keep(encoding, layouts, counts)

    def _sample(self, encoding: VisionEncoding, layouts: Layouts, counts: list[int]) -> KeptTokens:
        kept = layouts.tensor(counts)
        places = torch.arange(max(counts), device=kept.device) * layouts.tokens_per_partition
        indices = torch.div(places, kept.clamp(min=1)[:, None], rounding_mode="floor")
        indices = indices.clamp(max=layouts.tokens_per_partition - 1)
        return KeptTokens(indices, encoding.features, kept, by_index=True)

    def _pool(self, encoding: VisionEncoding, layouts: Layouts, counts: list[int]) -> KeptTokens:
        tiles = [layout.tile for layout in layouts for _ in range(layout.partitions)]
        alike = defaultdict[tuple[tuple[int, int], int], list[int]](list)
        for partition, kind in enumerate(zip(tiles, counts, strict=True)):
            alike[kind].append(partition)
        features = torch.zeros_like(encoding.features[:, : max(counts)])
        indices = torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)
        kept = torch.zeros_like(layouts.image)
        for (tile, count), partitions in alike.items():
            which = layouts.tensor(partitions)
            grids = encoding.features.index_select(0, which).view(len(partitions), *tile, -1)
            cells, rows, cols = pool(grids, count)
            places = (layouts.tensor(rows)[:, None] * tile[1] + layouts.tensor(cols)).flatten()
            indices[:, : len(places)].index_copy_(0, which, places.expand(len(partitions), -1))
            features[:, : len(places)].index_copy_(0, which, cells.flatten(1, 2))
            kept.index_fill_(0, which, len(places))
        return KeptTokens(indices, features, kept)
