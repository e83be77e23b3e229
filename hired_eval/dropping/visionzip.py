"""VisionZip (Yang et al., CVPR 2025): dominant tokens by attention, contextual tokens by merging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper, even_split, floor_share
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.types import KeptTokens, VisionEncoding, take_tokens
from hired_eval.typed import Proportion


@dataclass(frozen=True, kw_only=True)
class VisionZip(RankingByAttention, BudgetedDropper):
    """VisionZip without tuning: the tokens that CLS attends to, and the rest merged by similarity of keys.

    Dominant tokens have the highest CLS-attention of the layer that feeds the projector, summed over heads.
    Of the rest, evenly spaced ones become contextual tokens: each adds the mean of the tokens whose keys,
    averaged over heads, are most like its own (added, not averaged with it, as the authors' code does).
    Adapted to LLaVA-Next partition by partition with the same number each; the CLS token, which the authors
    count among the dominant ones, is left out, since LLaVA gives none to the language model. A partition's
    dominant tokens come first, then its contextual tokens, each in raster order.
    """

    reads: ClassVar = frozenset({"cls_attention", "keys"})
    key_layer: ClassVar = "feature"
    grid_order: ClassVar[bool] = False

    contextual: Proportion = 0.15625
    """Share of the kept tokens that are contextual, 0 to 1; the paper's 10 of 64, 20 of 128 and 30 of 192."""

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: the encoding lacks the attention or keys.
        """
        attention = self.attention(encoding, None).float()
        heads = encoding.heads or attention.shape[1]
        by_head = encoding.keys_of_patches().float().reshape(*attention.shape[::2], heads, -1)
        ranked = attention.sum(dim=1).argsort(dim=1, descending=True, stable=True)
        counts = even_split(layouts, budgets)
        contextual = [floor_share(self.contextual, count) for count in counts]
        dominant = [count - merged for count, merged in zip(counts, contextual, strict=True)]
        return zip_tokens(encoding.features, by_head.mean(dim=2), ranked, layouts, dominant, contextual)


def zip_tokens(
    tokens: Tensor,
    metric: Tensor,
    ranked: Tensor,
    layouts: Layouts,
    dominant: list[int],
    contextual: list[int],
) -> KeptTokens:
    """Dominant and contextual tokens of each partition.

    Args:
        tokens: (S, N, C).
        metric: (S, N, d) what similarity is taken of.
        ranked: (S, N) positions by attention, highest first.
        layouts: geometry of the images.
        dominant: number of tokens kept as they are, of each partition.
        contextual: number of tokens that the rest is merged into, of each partition.
    """
    most, targets = ranked.shape[1], max(contextual)
    steps = [(most - d) // c if c else 1 for d, c in zip(dominant, contextual, strict=True)]
    kept, merged, step = layouts.tensor([dominant, contextual, steps])[:, :, None]
    position = torch.arange(most, device=ranked.device).expand_as(ranked)
    is_rest = torch.zeros_like(ranked, dtype=torch.bool).scatter(1, ranked, position >= kept)
    nth = is_rest.cumsum(dim=1) - 1
    is_target = is_rest & (nth % step == 0) & (torch.div(nth, step, rounding_mode="floor") < merged)
    # dominant tokens, contextual tokens and all others, each in raster order
    group = torch.where(is_target, 1, torch.where(is_rest, 2, 0))
    order = (group * most + position).argsort(dim=1)
    indices = order[:, : max(map(sum, zip(dominant, contextual, strict=True)))]
    features = take_tokens(tokens, indices)
    if targets:
        column = position[:, :targets]
        target = order.gather(1, (kept + column).clamp(max=most - 1))
        directions = normalize(metric, dim=-1)
        similarity = directions @ take_tokens(directions, target).transpose(1, 2)
        nearest = similarity.masked_fill(column[:, None] >= merged[:, None], -torch.inf).argmax(dim=2)
        is_other = (is_rest & ~is_target).float()[:, :, None]
        member = torch.zeros_like(similarity).scatter(2, nearest[:, :, None], is_other)
        mean = member.transpose(1, 2) @ tokens.float() / member.sum(dim=1).clamp(min=1)[:, :, None]
        nth_target = position[:, : indices.shape[1]] - kept
        gained = take_tokens(mean, nth_target.clamp(0, targets - 1))
        sums = (features.float() + gained).to(tokens.dtype)
        features = torch.where(((nth_target >= 0) & (nth_target < merged))[:, :, None], sums, features)
    return KeptTokens(indices, features, (kept + merged).squeeze(1))
