"""The order in which kept visual tokens are given to the language model, as LLaVA-Next packs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.types import KeptTokens, VisionEncoding


@dataclass(frozen=True)
class PackedTokens:
    """Kept tokens of one image in the order of the language model's input: n tokens, m newline tokens.

    Attributes:
        features: (n, C) before the projector.
        partition: (n,) int64 partition of each token.
        index: (n,) int64 position in its partition, -1 for a token made of many.
        newlines_after: (n,) int64: how many newline tokens follow this token.
        length: visual tokens given to the language model, newline tokens included: n + m.
    """

    features: Tensor
    partition: Tensor
    index: Tensor
    newlines_after: Tensor
    length: int


@dataclass(frozen=True)
class PackedPass:
    """Kept tokens of the B images of a pass in the order of the language model's input, padded to L tokens.

    Attributes:
        features: (S * K, C) or (S * N, C) before the projector, in the order of the partitions.
        source: (B, L) int64 which of the features each token has.
        partition: (B, L) int64 number of its partition in the image.
        index: (B, L) int64 position in its partition, -1 for a token made of many.
        newlines_after: (B, L) int64: how many newline tokens follow this token.
        counts: (B,) int64 tokens n of each image.
    """

    features: Tensor
    source: Tensor
    partition: Tensor
    index: Tensor
    newlines_after: Tensor
    counts: Tensor

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 visual tokens given to the language model, newline tokens included: n + m."""
        return self.counts + self.newlines_after.sum(dim=1)

    def images(self, encoding: VisionEncoding) -> list[PackedTokens]:
        """The tokens of each image; this waits for the device, once for the whole pass.

        Args:
            encoding: that the tokens are from.

        Raises:
            UserError: what decided which tokens are kept holds NaN.
        """
        numbers = encoding.copy_to_host(torch.cat([self.counts, self.lengths]))
        counts, lengths = numbers[: len(self.counts)], numbers[len(self.counts) :]
        return [
            PackedTokens(
                self.features.index_select(0, self.source[i, :n]),
                self.partition[i, :n],
                self.index[i, :n],
                self.newlines_after[i, :n],
                length,
            )
            for i, (n, length) in enumerate(zip(counts, lengths, strict=True))
        ]


def pack(kept: KeptTokens, layouts: Layouts, *, newline: bool, grid_order: bool) -> PackedPass:
    """Order kept tokens as LLaVA-Next does.

    Args:
        kept: tokens per partition.
        layouts: geometry of the images.
        newline: put a newline token behind the last kept token of each row of the assembled grid.
        grid_order: the full-image's tokens first, then the kept sub-image tokens in raster order of the
            assembled grid, padding removed. False keeps each partition's own order, partition after
            partition (tokens that were merged have no single place in the grid).
    """
    slots = kept.indices.shape[1]
    column = torch.arange(slots, device=kept.indices.device)
    is_kept = column < kept.counts[:, None]
    own_order = layouts.place[:, None] * slots + column
    in_grid = [grid_order and layout.sub_images > 0 and not layout.full_image_last for layout in layouts]
    key, row = own_order, torch.full_like(own_order, -1)
    if any(in_grid):
        key, row, survives = _grid_order(kept.indices, layouts)
        assembled = layouts.tensor(in_grid, torch.bool).index_select(0, layouts.image)[:, None]
        key, row = torch.where(assembled, key, own_order), torch.where(assembled, row, -1)
        is_kept = is_kept & (survives | ~assembled)

    def by_image(values: Tensor, fill: int) -> Tensor:
        return layouts.by_image(values, fill).flatten(1)

    behind = torch.iinfo(torch.int64).max
    order = by_image(key.masked_fill(~is_kept, behind), behind).argsort(dim=1, stable=True)
    counts = by_image(is_kept.long(), 0).sum(dim=1)
    start = torch.arange(layouts.partitions, device=column.device)[:, None]
    slot = by_image(start * slots + column, 0).gather(1, order)
    row = row.flatten()[slot]
    place = torch.arange(order.shape[1], device=column.device)
    last = place == counts[:, None] - 1
    newlines_after = torch.zeros_like(slot)
    if newline:
        last_of_row = last.clone()
        last_of_row[:, :-1] |= row[:, 1:] != row[:, :-1]
        has_newlines = layouts.tensor([layout.newlines for layout in layouts], torch.bool)[:, None]
        newline_behind = layouts.tensor([layout.newline_behind for layout in layouts], torch.bool)[:, None]
        ends = (has_newlines & last_of_row & (row >= 0)) | (newline_behind & last)
        newlines_after = (ends & (place < counts[:, None])).long()
    index = kept.indices.flatten()[slot]
    partition = layouts.place[:, None].expand_as(kept.indices).flatten()[slot]
    source = slot
    if kept.by_index:
        source = torch.div(slot, slots, rounding_mode="floor") * kept.features.shape[1] + index
    return PackedPass(kept.features.flatten(0, 1), source, partition, index, newlines_after, counts)


def _grid_order(indices: Tensor, layouts: Layouts) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (S, K) that sort the tokens of an image, their row in the grid (-1: none), and what survives.

    A token made of many has no place in the grid: the full-image's comes behind its other tokens, those of
    the sub-images come behind the grid.
    """
    y, x, inside = layouts.places_in_grid(indices)
    in_full_image, of_many = layouts.is_full_image[:, None], indices < 0
    behind = layouts.most_partitions * layouts.tokens_per_partition
    key = torch.where(of_many, behind + layouts.place[:, None], y * layouts.grid_width[:, None] + x)
    key = torch.where(in_full_image, torch.where(of_many, behind, indices) - 2 * behind, key)
    row = torch.where(in_full_image | of_many, -1, y)
    return key, row, in_full_image | of_many | inside
