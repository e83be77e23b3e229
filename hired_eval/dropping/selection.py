"""Selection by score: how a budget is allocated to partitions, and which tokens spend it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import floor
from typing import ClassVar

import torch
from torch import Tensor

from hired_eval.dropping.base import BudgetedDropper, even_counts
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.types import KeptTokens, VisionEncoding, refuse_nan
from hired_eval.errors import UserError
from hired_eval.typed import Natural


@dataclass(frozen=True, kw_only=True)
class SelectingDropper(BudgetedDropper):
    """A method that keeps, in each partition, the tokens of highest score within an allocated number.

    A subclass says how tokens are scored; unless it says otherwise, the budget is split evenly.
    """

    spend_leftover: bool = False
    """Spend what floors, clamps and padding would leave over: padding is excluded before the selection, the
    excess of a partition goes to those with room, and fractions go by largest remainder."""

    @abstractmethod
    def score(self, encoding: VisionEncoding, layout: PartitionLayout) -> Tensor:
        """Score of each token, (P, N); the highest are kept."""

    def quotas(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> list[float]:
        """Each partition's share of the budget, fractions included: P numbers with a sum of `budget`."""
        return [float(n) for n in even_counts(budget, layout.partitions)]

    def allocate(
        self, encoding: VisionEncoding, layout: PartitionLayout, scores: Tensor, budget: int
    ) -> list[int]:
        """Tokens that each of the P partitions keeps; their sum is at most `budget`.

        Args:
            encoding: one image through the vision tower.
            layout: its geometry.
            scores: (P, N); -inf for a token that must not be kept.
            budget: number of tokens.
        """
        quotas = self.quotas(encoding, layout, budget)
        room = (scores > -torch.inf).sum(dim=1).tolist()
        if self.spend_leftover:
            return largest_remainder(quotas, room, budget)
        return [min(floor(quota), most) for quota, most in zip(quotas, room, strict=True)]

    def keep(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> KeptTokens:
        """Score the tokens, allocate the budget, and keep the highest in raster order.

        Raises:
            UserError: a score is NaN or not (P, N), or what the score is made of is not there.
        """
        scores = self.score(encoding, layout)
        if scores.shape != encoding.features.shape[:2]:
            raise UserError(
                f"{type(self).__name__}.score must give one number for each token, (P, N) = "
                f"{tuple(encoding.features.shape[:2])}; it gave {tuple(scores.shape)}"
            )
        refuse_nan(f"the score of {type(self).__name__}", scores)
        if self.spend_leftover:
            scores = scores.masked_fill(~layout.unpadded_mask().to(scores.device), -torch.inf)
        counts = self.allocate(encoding, layout, scores, budget)
        return keep_highest(scores, counts, encoding.features)


@dataclass(frozen=True, kw_only=True)
class CLSAttentionDropper(SelectingDropper):
    """A method whose score is CLS-attention, summed over heads (HiRED, Eq. 2)."""

    reads: ClassVar = frozenset({"cls_attention"})

    final_layer: Natural | None = None
    """Layer of the CLS-attention; None: the layer whose output feeds the projector."""

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        """The final layer."""
        return layers_named(feature_layer, self.final_layer)

    def score(self, encoding: VisionEncoding, layout: PartitionLayout) -> Tensor:
        """Feature importance score: CLS-attention of the final layer, summed over heads."""
        return encoding.attention_at(self.final_layer).float().sum(dim=1)


def layers_named(feature_layer: int, *layers: int | None) -> frozenset[int]:
    """The layers that options name; None is the layer whose output feeds the projector, and no other."""
    return frozenset(feature_layer if layer is None else layer for layer in layers)


def keep_highest(scores: Tensor, counts: list[int], features: Tensor) -> KeptTokens:
    """Keep the `counts[i]` tokens of highest score of partition i, in raster order.

    Among equal scores the lower position wins, so that the choice does not depend on the device.

    Args:
        scores: (P, N).
        counts: P numbers, at most N each.
        features: (P, N, C).
    """
    ranked = scores.argsort(dim=1, descending=True, stable=True)
    indices = [ranked[i, :n].sort().values for i, n in enumerate(counts)]
    return KeptTokens(indices, [features[i, kept] for i, kept in enumerate(indices)])


def highest_overall(scores: Tensor, budget: int) -> list[int]:
    """How many of the `budget` highest scores of the whole image lie in each partition.

    Among equal scores the earlier partition and the lower position win.

    Args:
        scores: (P, N); tokens at -inf are left out.
        budget: number of tokens.
    """
    ranked = scores.flatten().argsort(descending=True, stable=True)[:budget]
    ranked = ranked[scores.flatten()[ranked] > -torch.inf]
    counts: list[int] = torch.bincount(ranked // scores.shape[1], minlength=len(scores)).tolist()
    return counts


def largest_remainder(quotas: list[float], room: list[int], budget: int) -> list[int]:
    """Whole numbers near the quotas that spend the budget as far as there is room.

    Partitions whose quota exceeds their room are filled, and the excess is shared by the others in proportion
    to their quotas (evenly where those are 0); then fractions go to the largest remainders, among equal ones
    to the earlier partition.

    Args:
        quotas: each partition's share of the budget, at least 0.
        room: the most that each partition can keep.
        budget: number of tokens.
    """
    counts = [0] * len(quotas)
    open_ = list(range(len(quotas)))
    while open_:
        left = budget - sum(counts)
        total = sum(quotas[i] for i in open_)
        share = {i: left * quotas[i] / total if total > 0 else left / len(open_) for i in open_}
        full = [i for i in open_ if share[i] >= room[i]]
        if not full:
            break
        for i in full:
            counts[i] = room[i]
        open_ = [i for i in open_ if i not in full]
    else:
        return counts
    for i in open_:
        counts[i] = floor(share[i])
    by_remainder = sorted(open_, key=lambda i: (counts[i] - share[i], i))
    for i in by_remainder[: budget - sum(counts)]:
        counts[i] += 1
    return counts
