"""DivPrune (Alvar et al., CVPR 2025): the most diverse tokens, no attention needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval.dropping.base import BudgetedDropper, even_split
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_first
from hired_eval.dropping.types import KeptTokens, VisionEncoding


@dataclass(frozen=True, kw_only=True)
class DivPrune(BudgetedDropper):
    """DivPrune: tokens chosen one after the other, each the farthest from those chosen before.

    A greedy solution of the max-min diversity problem under cosine distance; the first token is the one whose
    nearest neighbour is farthest. Adapted to LLaVA-Next partition by partition with the same number each, and
    on the features before the projector, since only kept tokens are projected here; the authors choose among
    the projected tokens of the whole image. Kept tokens are put in raster order.
    """

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one."""
        encoding.forbid_nan("the output of the vision tower", encoding.features)
        counts = even_split(layouts, budgets)
        chosen = farthest_first(encoding.features, max(counts))
        return keep_first(chosen, layouts.tensor(counts), encoding.features)


def farthest_first(features: Tensor, count: int) -> Tensor:
    """Positions (S, count) in the order in which they are chosen, all partitions at once.

    Args:
        features: (S, N, C).
        count: at most N.
    """
    directions = normalize(features.float(), dim=-1)
    distance = 1 - directions @ directions.transpose(1, 2)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = distance.amin(dim=2)
    partitions = torch.arange(len(features), device=features.device)
    chosen = torch.zeros(len(features), count, dtype=torch.int64, device=features.device)
    for i in range(count):
        chosen[:, i] = nearest.argmax(dim=1)
        to_chosen = distance[partitions, chosen[:, i]]
        nearest = to_chosen if i == 0 else torch.minimum(nearest, to_chosen)
        nearest = nearest.scatter(1, chosen[:, : i + 1], -torch.inf)
    return chosen
