"""The order in which kept visual tokens are given to the language model, as LLaVA-Next packs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.types import KeptTokens


@dataclass(frozen=True)
class PackedTokens:
    """Kept tokens in the order of the language model's input: n tokens, m newline tokens.

    Attributes:
        features: (n, C) before the projector.
        partition: (n,) int64 partition of each token.
        index: (n,) int64 position in its partition, -1 for a token made of many.
        newlines_after: (n,) int64: how many newline tokens follow this token.
    """

    features: Tensor
    partition: Tensor
    index: Tensor
    newlines_after: Tensor

    @property
    def length(self) -> int:
        """Visual tokens given to the language model, newline tokens included: n + m."""
        return int(self.features.shape[0] + self.newlines_after.sum())


def pack(kept: KeptTokens, layout: PartitionLayout, *, newline: bool, grid_order: bool) -> PackedTokens:
    """Order kept tokens as LLaVA-Next does.

    Args:
        kept: tokens per partition.
        layout: geometry of the image.
        newline: put a newline token behind the last kept token of each row of the assembled grid.
        grid_order: the full-image's tokens first, then the kept sub-image tokens in raster order of the
            assembled grid, padding removed. False keeps each partition's own order, partition after
            partition (tokens that were merged have no single place in the grid).
    """
    index = torch.cat(kept.indices)
    features = torch.cat(kept.features)
    counts = torch.tensor([len(i) for i in kept.indices], device=index.device)
    partition = torch.repeat_interleave(torch.arange(len(kept.indices), device=index.device), counts)
    newlines_after = torch.zeros_like(index)
    if grid_order and layout.sub_images:
        order, row = _grid_order(partition, index, layout)
        features, partition, index = features[order], partition[order], index[order]
        if newline:
            last_of_row = torch.ones_like(row, dtype=torch.bool)
            last_of_row[:-1] = row[1:] != row[:-1]
            newlines_after = (last_of_row & (row >= 0)).long()
        else:
            newlines_after = newlines_after[order]
    elif newline and layout.newline_behind and len(index):
        newlines_after[-1] = 1
    return PackedTokens(features, partition, index, newlines_after)


def _grid_order(partition: Tensor, index: Tensor, layout: PartitionLayout) -> tuple[Tensor, Tensor]:
    """Positions of the tokens that survive, in packing order, and their row in the grid (-1: none).

    A token made of many has no place in the grid: the full-image's comes behind its other tokens, those of
    the sub-images come behind the grid.
    """
    sub_image = partition - 1
    y = torch.div(sub_image, layout.cols, rounding_mode="floor") * layout.side + index // layout.side
    x = sub_image % layout.cols * layout.side + index % layout.side
    top, bottom, left, right = layout.unpadded()
    in_full_image, of_many = partition == 0, index < 0
    survives = in_full_image | of_many | ((y >= top) & (y < bottom) & (x >= left) & (x < right))
    behind = layout.partitions * layout.tokens_per_partition
    key = torch.where(of_many, behind + partition, y * layout.cols * layout.side + x)
    key = torch.where(in_full_image, torch.where(of_many, behind, index) - 2 * behind, key)
    row = torch.where(in_full_image | of_many, -1, y)
    survivors = survives.nonzero().squeeze(1)
    order = survivors[key[survivors].argsort(stable=True)]
    return order, row[order]
