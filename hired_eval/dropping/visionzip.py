"""VisionZip (Yang et al., CVPR 2025): dominant tokens by attention, contextual tokens by merging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval.dropping.base import BudgetedDropper, even_counts, floor_share
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.typed import Proportion


@dataclass(frozen=True, kw_only=True)
class VisionZip(BudgetedDropper):
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

    def keep(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: the encoding lacks CLS-attention or keys, or the attention holds NaN.
        """
        attention = encoding.attention_at(None).float()
        keys, _ = encoding.keys_and_query()
        by_head = keys[:, 1:].float().view(*attention.shape[::2], attention.shape[1], -1)
        metric = by_head.mean(dim=2)
        ranked = attention.sum(dim=1).argsort(dim=1, descending=True, stable=True)
        indices, features = [], []
        for i, count in enumerate(even_counts(budget, layout.partitions)):
            dominant = count - floor_share(self.contextual, count)
            index, kept = zip_tokens(encoding.features[i], metric[i], ranked[i], dominant, count - dominant)
            indices.append(index)
            features.append(kept)
        return KeptTokens(indices, features)


def zip_tokens(
    tokens: Tensor, metric: Tensor, ranked: Tensor, dominant: int, contextual: int
) -> tuple[Tensor, Tensor]:
    """Dominant and contextual tokens of one partition.

    Args:
        tokens: (N, C).
        metric: (N, d) what similarity is taken of.
        ranked: (N,) positions by attention, highest first.
        dominant: number of tokens kept as they are.
        contextual: number of tokens that the rest is merged into.

    Returns:
        Positions (dominant + contextual,) and tokens (dominant + contextual, C).
    """
    kept = ranked[:dominant].sort().values
    if contextual == 0:
        return kept, tokens[kept]
    rest = ranked[dominant:].sort().values
    is_target = torch.zeros_like(rest, dtype=torch.bool)
    is_target[:: len(rest) // contextual][:contextual] = True
    target, others = rest[is_target], rest[~is_target]
    directions = normalize(metric, dim=-1)
    nearest = (directions[others] @ directions[target].T).argmax(dim=1)
    member = torch.nn.functional.one_hot(nearest, contextual).float()
    mean = member.T @ tokens[others].float() / member.sum(dim=0).clamp(min=1)[:, None]
    merged = (tokens[target].float() + mean).to(tokens.dtype)
    return torch.cat([kept, target]), torch.cat([tokens[kept], merged])
