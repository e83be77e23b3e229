"""SCOPE (Deng et al., 2025): tokens that are salient and that cover what is not covered yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper, even_split
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_first
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.typed import Range


@dataclass(frozen=True, kw_only=True)
class SCOPE(RankingByAttention, BudgetedDropper):
    """SCOPE: greedy facility location, weighted by saliency.

    A token covers every other one by their cosine similarity. Tokens are chosen one after the other: each is
    the one whose gain in coverage, times its saliency, is highest. Saliency is the CLS-attention of the layer
    that feeds the projector, summed over heads, to the power alpha. Each partition keeps the same number,
    give or take one (the authors give each the same and leave the remainder unspent). Kept tokens are put in
    raster order.
    """

    alpha: Annotated[float, Range("of at least 0", 0)] = 1.0
    """Power of the saliency; 0: coverage alone."""
    combined: Literal["multiply", "add"] = "multiply"
    """How gain and saliency make a score; both are in the authors' code."""

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: the encoding lacks the attention.
        """
        attention, features = self.attention(encoding, None), encoding.features
        encoding.forbid_nan("the output of the vision tower", features)
        saliency = attention.float().sum(dim=1) ** self.alpha
        counts = even_split(layouts, budgets)
        order = order_by_coverage(features, saliency, max(counts), self.combined)
        return keep_first(order, layouts.tensor(counts), features)


def order_by_coverage(features: Tensor, saliency: Tensor, count: int, combined: str) -> Tensor:
    """Positions (S, count) in the order in which they are chosen, all partitions at once.

    Args:
        features: (S, N, C).
        saliency: (S, N), to the power alpha.
        count: at most N.
        combined: see `SCOPE`.
    """
    directions = normalize(features.float(), dim=-1)
    similarity = directions @ directions.transpose(1, 2)
    partitions = torch.arange(len(features), device=features.device)
    covered = torch.zeros_like(saliency)
    chosen = torch.zeros(len(features), count, dtype=torch.int64, device=features.device)
    taken = torch.zeros_like(saliency, dtype=torch.bool)
    for i in range(count):
        gain = (similarity - covered[:, None]).clamp_(min=0).sum(dim=2)
        score = gain * saliency if combined == "multiply" else gain + saliency
        chosen[:, i] = score.masked_fill(taken, -torch.inf).argmax(dim=1)
        taken = taken.scatter(1, chosen[:, i : i + 1], True)
        covered = torch.maximum(covered, similarity[partitions, chosen[:, i]])
    return chosen
