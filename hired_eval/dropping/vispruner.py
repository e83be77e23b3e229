"""VisPruner (Zhang et al., ICCV 2025): important tokens by attention, diverse ones by dropping duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper, even_split, floor_share
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_first
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.typed import Proportion

DROPPED_A_ROUND = 8


@dataclass(frozen=True, kw_only=True)
class VisPruner(RankingByAttention, BudgetedDropper):
    """VisPruner: the tokens that CLS attends to, and of the rest those that are least alike.

    Important tokens have the highest CLS-attention of the layer that feeds the projector. The rest is a list
    in order of falling attention, from which duplicates are dropped, round by round. The paper does not say
    how the list is ordered, on which the result depends; the order is that of the authors' code. Each
    partition keeps the same number, give or take one. Kept tokens are put in raster order.
    """

    important: Proportion = 0.5
    """Share of the kept tokens that are chosen by attention, 0 to 1; the others are chosen by diversity."""

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: the encoding lacks the attention.
        """
        attention, features = self.attention(encoding, None).float().mean(dim=1), encoding.features
        encoding.forbid_nan("the output of the vision tower", features)
        counts = even_split(layouts, budgets)
        order = torch.zeros(len(features), max(counts), dtype=torch.int64, device=features.device)
        # partitions that keep as many have lists of one length, and are done together
        for count in set(counts):
            same = layouts.tensor([i for i, other in enumerate(counts) if other == count])
            chosen = order_by_importance(
                features.index_select(0, same), attention.index_select(0, same), count, self.important
            )
            order = order.index_copy(0, same, pad(chosen, (0, max(counts) - count)))
        return keep_first(order, layouts.tensor(counts), features)


def order_by_importance(features: Tensor, attention: Tensor, count: int, important: float) -> Tensor:
    """Positions (S, count) of the kept tokens: important ones first, then diverse ones.

    Args:
        features: (S, N, C).
        attention: (S, N) CLS-attention.
        count: tokens kept in each partition.
        important: share of the important ones.
    """
    ranked = attention.argsort(dim=1, descending=True, stable=True)
    first = floor_share(important, count)
    if first == count:
        return ranked[:, :count]
    return torch.cat([ranked[:, :first], drop_duplicates(features, ranked[:, first:], count - first)], dim=1)


def drop_duplicates(features: Tensor, order: Tensor, count: int) -> Tensor:
    """Drop tokens from a list, round by round, until `count` are left.

    A round compares the tokens at even places of the list with those at odd places. Each even one counts as
    much of a duplicate as its highest cosine similarity to an odd one says; the (at most) eight highest are
    dropped. The next list has the other even ones in that order, the most alike first, then the odd ones.
    A list of odd length has one even token more; there the authors' code raises an error.

    Args:
        features: (S, N, C).
        order: (S, R) the list: positions of tokens.
        count: from 1 to R.

    Returns:
        (S, count) positions.
    """
    directions = normalize(features.float(), dim=-1)
    similarity = directions @ directions.transpose(1, 2)
    while order.shape[1] > count:
        even, odd = order[:, ::2], order[:, 1::2]
        rows = similarity.gather(1, even[..., None].expand(-1, -1, similarity.shape[2]))
        alike = rows.gather(2, odd[:, None].expand(-1, even.shape[1], -1)).amax(dim=2)
        by_likeness = even.gather(1, alike.argsort(dim=1, descending=True, stable=True))
        dropped = min(DROPPED_A_ROUND, order.shape[1] - count, even.shape[1])
        order = torch.cat([by_likeness[:, dropped:], odd], dim=1)
    return order
