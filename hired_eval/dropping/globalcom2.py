"""GlobalCom2 (Liu et al., AAAI 2026): the full-image guides how much, and what, each sub-image keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_highest
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.errors import UserError

TEMPERATURE = 10


@dataclass(frozen=True, kw_only=True)
class GlobalCom2(RankingByAttention, BudgetedDropper):
    """GlobalCom2: a ratio for each sub-image by what the full-image sees there, and two views of each token.

    What CLS makes of the full-image's patches in the region of a sub-image says how much of the common ratio
    the sub-image gets. A token of a sub-image scores by its own partition's CLS and by the full-image's, both
    of length 1; padding is removed first. The full-image keeps its highest, at the common ratio. The common
    ratio is the image's budget over P * N. What floors and padding leave over is not spent; nor is anything
    passed on where a sub-image's ratio reaches 1, so that even a budget of 1 drops tokens. Of an image with
    one partition, which the authors leave whole, the highest are kept. Kept tokens are put in raster order
    (the authors' full-image is in order of score).
    """

    reads: ClassVar = frozenset({"cls_attention", "keys"})

    scores: Literal["attention", "logit"] = "attention"
    """What CLS makes of a patch in the vision tower's last layer, mean over heads: its attention, or the
    logit before the softmax, as in the authors' code."""

    def __post_init__(self) -> None:
        """Also refuse logits of an attention that has none.

        Raises:
            UserError: scores='logit' without CLS-attention.
        """
        super().__post_init__()
        if self.scores == "logit" and self.signal != "cls":
            raise UserError(
                f"scores=logit reads logits of CLS-attention, and signal={self.signal} has none; take "
                "signal=cls or scores=attention"
            )

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """Give each partition its share, and keep its highest.

        Raises:
            UserError: the encoding lacks the attention or keys.
        """
        own = self._score(encoding)
        shares, views, start = [], [], 0
        for layout in layouts:
            full_image = own[start + layout.full_image]
            shares.append(_with_full_image(share_of_tiles(full_image, layout), layout, 1))
            views.append(_with_full_image(view_from_above(full_image, layout), layout, 0))
            start += layout.partitions
        room = layouts.unpadded.sum(dim=1)
        wholes = [layout.partitions * layout.tokens_per_partition for layout in layouts]
        budget, whole = layouts.tensor([budgets, wholes])[:, layouts.image]
        counts = torch.minimum((room * budget * torch.cat(shares) / whole).floor().long(), room)
        both = _of_length_1(own, layouts.unpadded) + _of_length_1(torch.cat(views), layouts.unpadded)
        scores = torch.where(layouts.is_full_image[:, None], own, both)
        scores = scores.masked_fill(~layouts.unpadded, -torch.inf)
        return keep_highest(scores, counts, encoding.features, max(budgets))

    def _score(self, encoding: VisionEncoding) -> Tensor:
        """(S, N) what CLS makes of each patch, or the attention that it receives."""
        if self.takes_received(encoding):
            return encoding.received_at(None)
        heads = encoding.attention_at(None).shape[1]
        own = score_by_cls(encoding.keys, encoding.cls_query, heads, self.scores)
        encoding.forbid_nan("CLS-attention of the last layer", own)
        return own


def score_by_cls(keys: Tensor, query: Tensor, heads: int, kind: str) -> Tensor:
    """(S, N) float32 what CLS makes of each patch, mean over heads.

    Args:
        keys: (S, 1 + N, C) key projections, CLS first.
        query: (S, C) query projection of CLS.
        heads: number of heads.
        kind: "attention" (softmax over CLS and patches) or "logit", its exponent.
    """
    partitions, length, channels = keys.shape
    q = query.float().view(partitions, 1, heads, -1) * (channels // heads) ** -0.5
    logits: Tensor = (keys.float().view(partitions, length, heads, -1) * q).sum(dim=-1)
    return (logits.softmax(dim=1) if kind == "attention" else logits)[:, 1:].mean(dim=2)


def share_of_tiles(full_image: Tensor, layout: PartitionLayout) -> Tensor:
    """(k,) float64 how much of the common ratio each sub-image gets: 1 + sigma - its mean, by the full-image.

    Args:
        full_image: (N,) scores.
        layout: geometry of the image; the region of a sub-image is its block of the full-image, padding or
            not.
    """
    if layout.sub_images == 0:
        return full_image.new_zeros(0, dtype=torch.float64)
    blocks = adaptive_avg_pool2d(full_image.double().view(1, *layout.tile), (layout.rows, layout.cols))
    sums = blocks.flatten() * (layout.tokens_per_partition / layout.sub_images)
    sigma = (sums / TEMPERATURE).softmax(dim=0)
    return 1 + sigma - sigma.mean()


def view_from_above(full_image: Tensor, layout: PartitionLayout) -> Tensor:
    """(k, N) the full-image's scores, scaled up to the unpadded grid of sub-images and cut along its tiles.

    Args:
        full_image: (N,) scores.
        layout: geometry of the image.
    """
    top, bottom, left, right = layout.unpadded()
    (tall, wide), (rows, cols) = layout.tile, (layout.rows, layout.cols)
    grid = full_image.new_zeros(rows * tall, cols * wide)
    size = (bottom - top, right - left)
    if min(size) > 0:
        grid[top:bottom, left:right] = interpolate(full_image.view(1, 1, tall, wide), size, mode="bilinear")[
            0, 0
        ]
    return grid.view(rows, tall, cols, wide).transpose(1, 2).reshape(rows * cols, tall * wide)


def _with_full_image(of_tiles: Tensor, layout: PartitionLayout, value: float) -> Tensor:
    """(k, ...) -> (P, ...): a value for the full-image, in its place."""
    full_image = of_tiles.new_full((1, *of_tiles.shape[1:]), value)
    return torch.cat([of_tiles, full_image] if layout.full_image_last else [full_image, of_tiles])


def _of_length_1(scores: Tensor, counts: Tensor) -> Tensor:
    """Scores (S, N) over the L2 norm of those that count, (S, N) bool."""
    norm: Tensor = (scores * counts).norm(dim=1, keepdim=True)
    return scores / norm.clamp(min=torch.finfo(scores.dtype).tiny)
