"""Selection by score: how a budget is allocated to partitions, and which tokens spend it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper, even_split
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.types import KeptTokens, VisionEncoding, require_scores
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
    def score(self, encoding: VisionEncoding, layouts: Layouts) -> Tensor:
        """Score of each token, (S, N); the highest of each partition are kept."""

    def quotas(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> Tensor:
        """Each partition's share of its image's budget, fractions included: (S,) float64."""
        return layouts.tensor(even_split(layouts, budgets), torch.float64)

    def allocate(
        self, encoding: VisionEncoding, layouts: Layouts, scores: Tensor, budgets: list[int]
    ) -> Tensor:
        """Tokens that each partition keeps, (S,) int64; their sum is at most the image's budget.

        Args:
            encoding: the images through the vision tower.
            layouts: their geometry.
            scores: (S, N); -inf for a token that must not be kept.
            budgets: number of tokens of each image.
        """
        quotas = self.quotas(encoding, layouts, budgets)
        room = (scores > -torch.inf).sum(dim=1)
        if self.spend_leftover:
            return spend(quotas, room, layouts, budgets)
        return torch.minimum(quotas.floor().long(), room)

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """Score the tokens, allocate the budgets, and keep the highest in raster order.

        Raises:
            UserError: a score is not (S, N), or what the score is made of is not there.
        """
        scores = self.score(encoding, layouts)
        require_scores(self, scores, encoding.features.shape[:2], "token, (S, N)")
        encoding.forbid_nan(f"the score of {type(self).__name__}", scores)
        if self.spend_leftover:
            scores = scores.masked_fill(~layouts.unpadded, -torch.inf)
        counts = self.allocate(encoding, layouts, scores, budgets)
        return keep_highest(scores, counts, encoding.features, max(budgets))


@dataclass(frozen=True, kw_only=True)
class CLSAttentionDropper(RankingByAttention, SelectingDropper):
    """A method whose score is CLS-attention, summed over heads (HiRED, Eq. 2)."""

    final_layer: Natural | None = None
    """Layer of the CLS-attention; None: the layer whose output feeds the projector."""

    def layers_ranking(self, feature_layer: int) -> frozenset[int]:
        """The final layer."""
        return layers_named(feature_layer, self.final_layer)

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> Tensor:
        """Feature importance score: CLS-attention of the final layer, summed over heads."""
        return self.attention(encoding, self.final_layer).float().sum(dim=1)


def layers_named(feature_layer: int, *layers: int | None) -> frozenset[int]:
    """The layers that options name; None is the layer whose output feeds the projector, and no other."""
    return frozenset(feature_layer if layer is None else layer for layer in layers)


def keep_highest(scores: Tensor, counts: Tensor, features: Tensor, most: int) -> KeptTokens:
    """Keep the `counts[i]` tokens of highest score of partition i, in raster order.

    Among equal scores the lower position wins, so that the choice does not depend on the device.

    Args:
        scores: (S, N).
        counts: (S,) int64.
        features: (S, N, C).
        most: at least as large as every count; N is enough.
    """
    ranked = scores.argsort(dim=1, descending=True, stable=True)[:, :most]
    return keep_first(ranked, counts, features)


def keep_first(ranked: Tensor, counts: Tensor, features: Tensor) -> KeptTokens:
    """Keep the first `counts[i]` of the positions (S, K) of partition i, in raster order."""
    behind = features.shape[1]
    column = torch.arange(ranked.shape[1], device=ranked.device)
    indices = torch.where(column < counts[:, None], ranked, behind).sort(dim=1).values
    return KeptTokens(indices.clamp(max=behind - 1), features, counts, by_index=True)


def highest_overall(scores: Tensor, layouts: Layouts, budgets: list[int]) -> Tensor:
    """How many of the highest scores of each whole image are in each partition, (S,) int64.

    Among equal scores the earlier partition and the lower position win.

    Args:
        scores: (S, N); tokens at -inf are left out.
        layouts: geometry of the images.
        budgets: number of tokens of each image.
    """
    of_images = layouts.by_image(scores, -torch.inf)
    values, ranked = of_images.flatten(1).sort(dim=1, descending=True, stable=True)
    column = torch.arange(ranked.shape[1], device=ranked.device)
    chosen = (column < layouts.tensor(budgets)[:, None]) & (values > -torch.inf)
    partition = torch.div(ranked, scores.shape[1], rounding_mode="floor")
    counts = ranked.new_zeros(of_images.shape[:2]).scatter_add(1, partition, chosen.long())
    return layouts.by_partition(counts)


def spend(quotas: Tensor, room: Tensor, layouts: Layouts, budgets: list[int]) -> Tensor:
    """Whole numbers (S,) near the quotas that spend the budgets as far as there is room.

    Of an image, partitions whose quota exceeds their room are filled, and the excess is shared by the others
    in proportion to their quotas (evenly where those are 0); then fractions go to the largest remainders,
    among equal ones to the earlier partition.

    Args:
        quotas: (S,) float64, each partition's share of the budget, at least 0.
        room: (S,) int64, the most that each partition can keep.
        layouts: geometry of the images.
        budgets: number of tokens of each image.
    """
    budget = layouts.tensor(budgets).index_select(0, layouts.image)
    counts, shares = torch.zeros_like(room), quotas
    is_open = torch.ones_like(room, dtype=torch.bool)
    # each round fills a partition, or changes nothing
    for _ in range(layouts.most_partitions):
        left = budget - layouts.total(counts)
        total = layouts.total(torch.where(is_open, quotas, 0))
        evenly = left / layouts.total(is_open.double())
        shares = torch.where(total > 0, left * quotas / total, evenly)
        full = is_open & (shares >= room)
        counts, is_open = torch.where(full, room, counts), is_open & ~full
    counts = torch.where(is_open, shares.floor().long(), counts)
    remainder = torch.where(is_open, counts - shares, torch.inf)
    order = layouts.by_image(remainder, torch.inf).argsort(dim=1, stable=True)
    rank = layouts.by_partition(order.argsort(dim=1))
    return counts + (is_open & (rank < budget - layouts.total(counts)))
