"""A prompt with fewer visual tokens: which columns are left, and what becomes of masks and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from hired_eval.errors import UserError
from hired_eval.models.visual_tokens import TokenCounts


@dataclass(frozen=True)
class Shortening:
    """Columns of a batch of prompts that are left. What follows the prompt is kept whole.

    Attributes:
        columns: (B, S) the prompt's column that stands in each place; -1 for padding that was put in.
        closed: (B, S) by how much a position moves towards the start, since tokens before it are dropped.
        dropped: (B,) tokens dropped in each row; `closed` of all that follows.
        length: columns of the prompt as it was given.
        original: positions stay as they were, so that nothing moves.
    """

    columns: Tensor
    closed: Tensor
    dropped: Tensor
    length: int
    original: bool = False

    @property
    def short(self) -> int:
        """Columns left, S."""
        return self.columns.shape[1]

    @cached_property
    def changes(self) -> bool:
        """Whether anything is dropped or moved."""
        return self.short != self.length or not self.columns.equal(_range(self.columns, self.length))

    @cached_property
    def padded(self) -> bool:
        """Whether padding was put in."""
        return bool((self.columns < 0).any())

    def take(self, value: Tensor, fill: int) -> Tensor:
        """What is left of a value for each token.

        Args:
            value: (B, length + t), or (1, length + t) for one that all rows share.
            fill: stands in padding that was put in.

        Returns:
            (B, S + t).
        """
        columns = self.columns.to(value.device)
        value = value.expand(len(columns), -1)
        left = value.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, fill)
        return torch.cat([left, value[:, self.length :]], dim=1)

    def mask(self, mask: Tensor | None, total: int) -> Tensor | None:
        """The attention mask (B, S + t) of one (B, total = length + t); None where none is needed."""
        if mask is None:
            # of positions with gaps and no mask, stock makes several prompts
            if not (self.padded or self.original):
                return None
            mask = self.columns.new_ones(len(self.columns), total)
        return self.take(mask, 0)

    def positions(self, positions: Tensor) -> Tensor:
        """Positions of what is left.

        Args:
            positions: (B, length + t), which close up where tokens are dropped; or (planes, B, length + t) of
                M-RoPE, whose last three planes do not: a place in a picture stays where it is.

        Returns:
            (B, S + t) or (planes, B, S + t).
        """
        if positions.dim() == 3:
            counted, placed = positions[:-3], positions[-3:]
            return torch.stack([*map(self.positions, counted), *(self.take(plane, 0) for plane in placed)])
        left = self.take(positions, 0)
        closed, dropped = self.closed.to(left.device), self.dropped.to(left.device)
        return left - torch.cat([closed, dropped[:, None].expand(-1, left.shape[1] - self.short)], dim=1)

    def rows(self, indices: Tensor) -> Shortening:
        """Of other rows of the batch, which may recur."""
        indices = indices.to(self.columns.device)
        return replace(
            self, columns=self.columns[indices], closed=self.closed[indices], dropped=self.dropped[indices]
        )

    def append(self, other: Shortening, cached: int) -> Shortening:
        """Of a prompt of `cached` columns, of which this shortened the first, and then a shortened one."""
        between = _range(self.columns, cached)[:, self.length :]
        moved = self.dropped[:, None]
        return Shortening(
            torch.cat([self.columns, between, torch.where(other.columns < 0, -1, other.columns + cached)], 1),
            torch.cat([self.closed, moved.expand_as(between), other.closed + moved], 1),
            self.dropped + other.dropped,
            cached + other.length,
            self.original or other.original,
        )


def nothing_dropped(rows: int, device: torch.device) -> Shortening:
    """Of a prompt of no columns, which leaves all that follows as it is."""
    none = torch.zeros(rows, 0, dtype=torch.long, device=device)
    return Shortening(none, none, none.new_zeros(rows), 0)


def shorten(
    placeholders: Tensor,
    mask: Tensor | None,
    images: Sequence[Sequence[TokenCounts]],
    places: Sequence[Sequence[Tensor]] | None = None,
    *,
    original: bool = False,
) -> Shortening:
    """Leave as many placeholders of each image as it has kept tokens.

    Padding stays on its side, and no more of it than the rows need to be of one length; what all rows are
    padded by stays too.

    Args:
        placeholders: (B, L) bool, where the prompts have image placeholders.
        mask: (B, L) attention mask; None for all ones.
        images: token counts of each row's images, in reading order.
        places: (kept,) of each image, which of its placeholders are left; the first ones if not given.
        original: positions stay as they are; by default they close up.

    Raises:
        UserError: the placeholders of an image do not stand together, or the mask hides some of them.
    """
    length = placeholders.shape[1]
    seen = torch.ones_like(placeholders) if mask is None else mask != 0
    given = [_given(*row) for row in zip(placeholders.cpu(), seen.cpu(), strict=True)]
    if places is None:
        # a method may keep more tokens than the stock model has, whose padding is removed
        places = [[torch.arange(image.kept).clamp(max=image.full - 1) for image in row] for row in images]
    left = [_left(*row, counts, chosen) for row, counts, chosen in zip(given, images, places, strict=True)]
    starts, ends = [start for *_, start, _ in given], [end for *_, end in given]
    sizes = [len(columns) for columns, _, _ in left]
    if min(ends) < length and max(starts) == 0:
        short = max(sizes) + length - max(ends)
        firsts = starts
    else:
        short = max(size + length - end for size, end in zip(sizes, ends, strict=True)) + min(starts)
        firsts = [short - (length - end) - size for size, end in zip(sizes, ends, strict=True)]
    columns = torch.full((len(left), short), -1)
    closed = torch.zeros(len(left), short, dtype=torch.long)
    for i, (row, moved, _) in enumerate(left):
        first, behind = firsts[i], firsts[i] + len(row)
        columns[i, first:behind], closed[i, first:behind] = row, moved
        # the padding that is left is the input's own, so that where nothing is dropped nothing changes
        before = torch.arange(first) + starts[i] - first
        columns[i, :first] = before.clamp(min=-1)
        after = torch.arange(short - behind) + ends[i]
        columns[i, behind:] = torch.where(after < length, after, -1)
    dropped = torch.tensor([count for *_, count in left], dtype=torch.long)
    # what follows the last image is kept whole, like all that is yet to come
    tail = length - 1 - int(placeholders.any(dim=0).nonzero().max()) if min(ends) == length else 0
    columns, closed = columns[:, : short - tail], closed[:, : short - tail]
    if original:
        closed, dropped = torch.zeros_like(closed), torch.zeros_like(dropped)
    device = placeholders.device
    return Shortening(columns.to(device), closed.to(device), dropped.to(device), length - tail, original)


def _given(places: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """A row's placeholders, what of it is visible, and where its text starts and ends within the padding."""
    text = (places | visible).nonzero().squeeze(1)
    if not len(text):
        return places, visible, 0, len(places)
    return places, visible, int(text[0]), int(text[-1]) + 1


def _left(
    places: Tensor,
    visible: Tensor,
    start: int,
    end: int,
    counts: Sequence[TokenCounts],
    chosen: Sequence[Tensor],
) -> tuple[Tensor, Tensor, int]:
    """The columns left of one row, by how much their positions move, and how many tokens are dropped."""
    positions = places.nonzero().squeeze(1)
    columns, closed = [], []
    dropped, used = 0, 0
    for image, kept in zip(counts, chosen, strict=True):
        first, last = int(positions[used]), int(positions[used + image.full - 1])
        used += image.full
        if last - first + 1 != image.full:
            raise UserError(
                f"{last - first + 1 - image.full} tokens separate the {image.full} placeholders of an "
                "image; make inputs with the model's own processor"
            )
        shown = visible[first : last + 1]
        if image.kept != image.full and bool(shown.any()) and not bool(shown.all()):
            raise UserError(
                "attention_mask hides a part of an image's placeholders; hide all of them, or none"
            )
        columns.append(torch.arange(start, first))
        closed.append(torch.full((first - start,), dropped))
        columns.append(first + kept)
        closed.append(dropped + kept - torch.arange(image.kept))
        dropped += image.full - image.kept
        start = last + 1
    columns.append(torch.arange(start, end))
    closed.append(torch.full((end - start,), dropped))
    return torch.cat(columns), torch.cat(closed), dropped


def _range(like: Tensor, length: int) -> Tensor:
    """(B, length) the columns 0, 1, 2 ... in each row."""
    return torch.arange(length, device=like.device).expand(len(like), -1)
