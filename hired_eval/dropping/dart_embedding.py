"""DART on vision features: tokens that are least like a few pivots (after Wen et al., EMNLP 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval.dropping.base import BudgetedDropper, even_split
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_highest
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.typed import Count


@dataclass(frozen=True, kw_only=True)
class DARTEmbedding(BudgetedDropper):
    """DART's choice before the language model, from vision features in place of the model's own states.

    Pivots are the tokens of highest L1 norm. Each pivot in turn, by falling norm, brings the tokens that are
    least like it, by cosine similarity, of those not taken yet; the pivots share what they bring evenly. DART
    itself takes keys and states of the language model's second layer, and pivots among the text too. Each
    partition keeps the same number, give or take one. Kept tokens are put in raster order.
    """

    pivots: Count = 4
    """Number of pivots in each partition; they count against the budget."""

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one."""
        features = encoding.features
        encoding.forbid_nan("the output of the vision tower", features)
        counts = even_split(layouts, budgets)
        kept = layouts.tensor(counts)
        norms = features.float().abs().sum(dim=2)
        taken = choose_unlike_pivots(norms, features, kept, self.pivots)
        return keep_highest(taken.long(), kept, features, max(counts))


def choose_unlike_pivots(norms: Tensor, states: Tensor, counts: Tensor, pivots: int) -> Tensor:
    """(S, N) bool: the pivots, and the tokens that are least like them.

    Args:
        norms: (S, N) whose highest are pivots.
        states: (S, N, C) whose cosine similarity counts.
        counts: (S,) int64 tokens to choose, pivots included, at most N.
        pivots: number of pivots; fewer where fewer tokens are to be chosen.
    """
    directions = normalize(states.float(), dim=-1)
    by_norm = norms.argsort(dim=1, descending=True, stable=True)
    number = counts.clamp(max=min(pivots, norms.shape[1]))
    taken = by_norm.argsort(dim=1) < number[:, None]
    brought = counts - number
    for i in range(min(pivots, norms.shape[1])):
        share = brought // number.clamp(min=1) + (i < brought % number.clamp(min=1))
        pivot = directions.gather(1, by_norm[:, i, None, None].expand(-1, -1, states.shape[2]))
        likeness = (directions @ pivot.transpose(1, 2))[..., 0].masked_fill(taken, torch.inf)
        rank = likeness.argsort(dim=1, stable=True).argsort(dim=1)
        taken = taken | (rank < (share * (i < number))[:, None])
    return taken
