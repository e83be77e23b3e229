"""HiPrune (Liu et al., 2025): anchors from a middle layer, their neighbours, and tokens of a deep layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hired_eval.dropping.base import BudgetedDropper, even_split, floor_share
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_highest
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.typed import Proportion


@dataclass(frozen=True, kw_only=True)
class HiPrune(BudgetedDropper):
    """HiPrune: the tokens that receive most attention, in a layer that sees objects and in one that sees all.

    Anchors receive most attention in the object layer, and bring their neighbours above, below, left and
    right. The rest of the budget goes to the tokens that receive most attention in the deep layer. Attention
    received is the mean over heads and over all queries, that of CLS included. Each partition keeps the same
    number, give or take one; where anchors and neighbours are more, anchors come first, then those that
    receive most attention in the deep layer (the authors' code raises an error there). Kept tokens are put
    in raster order.
    """

    reads: ClassVar = frozenset({"received_attention"})

    object_depth: Proportion = 0.375
    """Where the object layer is, as a share of the way to the deep layer: layer 8 of 22 in CLIP-L."""
    alpha: Proportion = 0.1
    """Share of the kept tokens that are anchors and neighbours, five of them an anchor's."""
    wrap: bool = False
    """Neighbours as the authors' code counts them: behind the end of a row comes the next row, and above and
    below the partition are its first and its last token. By default an anchor at a border has fewer."""

    def received_layers(self, feature_layer: int) -> frozenset[int]:
        """The object layer and the deep layer, whose output feeds the projector."""
        return frozenset({floor_share(self.object_depth, feature_layer), feature_layer})

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: the encoding lacks attention received.
        """
        deep_layer = encoding.received_at(None)
        # of the two that are asked for; there is one where they are the same
        object_layer = encoding.received_at(min(encoding.received_attention))
        counts = even_split(layouts, budgets)
        anchors = layouts.tensor([round(count * self.alpha / 5) for count in counts])
        columns = layouts.tensor([layout.tile[1] for layout in layouts]).index_select(0, layouts.image)
        scores = rank_by_received(object_layer, deep_layer, anchors, columns, wrap=self.wrap)
        return keep_highest(scores, layouts.tensor(counts), encoding.features, max(counts))


def rank_by_received(
    object_layer: Tensor, deep_layer: Tensor, anchors: Tensor, columns: Tensor, *, wrap: bool
) -> Tensor:
    """Scores (S, N) float64 whose highest are kept: anchors, their neighbours, then the others.

    Args:
        object_layer: (S, N) attention received there.
        deep_layer: (S, N) likewise; at most 1.
        anchors: (S,) number of anchors.
        columns: (S,) tokens in a row of the partition.
        wrap: see `HiPrune`.
    """
    by_attention = object_layer.argsort(dim=1, descending=True, stable=True)
    is_anchor = by_attention.argsort(dim=1) < anchors[:, None]
    tokens = object_layer.shape[1]
    place, width = torch.arange(tokens, device=is_anchor.device).expand_as(by_attention), columns[:, None]
    column = place % width
    near = torch.zeros_like(place)
    for there, on_map in (
        (place - 1, column > 0),
        (place + 1, column < width - 1),
        (place - width, place >= width),
        (place + width, place < tokens - width),
    ):
        brings = is_anchor if wrap else is_anchor & on_map
        near = near.scatter_add(1, there.clamp(0, tokens - 1), brings.long())
    # attention received is at most 1
    return deep_layer.double() + 2 * is_anchor + 2 * (is_anchor | (near > 0))
