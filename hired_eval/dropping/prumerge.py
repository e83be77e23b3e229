"""PruMerge and PruMerge+ (Shang et al., 2024): keep the tokens that CLS attends to, merge the others in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from hired_eval.dropping.base import BudgetedDropper, VisionStage, even_counts
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.types import KeptTokens, VisionEncoding, refuse_nan

NEIGHBOURS = 32


@dataclass(frozen=True, kw_only=True)
class PruMerge(VisionStage):
    """PruMerge: as many tokens as the CLS-attention has outliers, and one that gathers the rest.

    Attention is that of the vision tower's last layer from un-split heads, features are those of the layer
    that feeds the projector. Adapted to LLaVA-Next partition by partition. It has no token budget.
    """

    reads: ClassVar = frozenset({"keys"})
    grid_order: ClassVar[bool] = False

    def drop(self, encoding: VisionEncoding, layout: PartitionLayout) -> KeptTokens:
        """Choose each partition's centres and merge the other tokens into them.

        Raises:
            UserError: the encoding lacks keys, or the attention holds NaN.
        """
        attention = unsplit_attention(encoding)
        centres = [self.centres(partition) for partition in attention]
        return merge(encoding, attention, centres)

    def centres(self, attention: Tensor) -> Tensor:
        """(n,) positions of the kept tokens of one partition, from its attention (N,), highest first."""
        return highest(attention, count_outliers(attention))


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge+: PruMerge with evenly spaced tokens beside the outliers, about three times as many.

    The published code divides by zero where there is no outlier; here the spacing is then wider than the
    partition, which leaves token 0. Above a third of outliers the spacing would be 0; here it is 1.
    """

    def centres(self, attention: Tensor) -> Tensor:
        """PruMerge's tokens, then the evenly spaced ones that are not among them."""
        count = len(attention)
        pruned = super().centres(attention)
        ratio = len(pruned) / count
        step = int(1 / ratio) if ratio > 0 else 3 * count
        spaced = torch.arange(0, count - 1, max(int(step / 3), 1), device=attention.device)
        return torch.cat([pruned, spaced[~torch.isin(spaced, pruned)]])


@dataclass(frozen=True, kw_only=True)
class PruMergeBudget(BudgetedDropper):
    """PruMerge held to a token budget: an even share for each partition in place of the outlier count.

    A partition with n tokens keeps n - 1 by attention and one that gathers the rest.
    """

    reads: ClassVar = frozenset({"keys"})
    grid_order: ClassVar[bool] = False

    def keep(self, encoding: VisionEncoding, layout: PartitionLayout, budget: int) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: the encoding lacks keys, or the attention holds NaN.
        """
        attention = unsplit_attention(encoding)
        counts = even_counts(budget, layout.partitions)
        most = layout.tokens_per_partition
        centres = [
            highest(partition, count if count == most else max(count - 1, 0))
            for partition, count in zip(attention, counts, strict=True)
        ]
        merged = merge(encoding, attention, centres)
        return KeptTokens(
            [index[:count] for index, count in zip(merged.indices, counts, strict=True)],
            [tokens[:count] for tokens, count in zip(merged.features, counts, strict=True)],
        )


def unsplit_attention(encoding: VisionEncoding) -> Tensor:
    """CLS-attention as PruMerge computes it: one softmax over CLS and patches of q k^T / sqrt(C).

    Returns:
        (P, N) float32, the CLS column removed.

    Raises:
        UserError: the encoding lacks keys, or the attention holds NaN.
    """
    keys, query = encoding.keys_and_query()
    logits = torch.einsum("pc,pnc->pn", query.float() * query.shape[-1] ** -0.5, keys.float())
    attention = logits.softmax(dim=-1)[:, 1:]
    refuse_nan("CLS-attention of the last layer", attention)
    return attention


def count_outliers(attention: Tensor) -> int:
    """How many values of (N,) exceed the third quartile by more than 1.5 interquartile ranges."""
    values = attention.double()
    first, third = values.quantile(torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))
    return int((values > third + 1.5 * (third - first)).sum())


def highest(attention: Tensor, count: int) -> Tensor:
    """(count,) positions of the highest values of (N,), highest first; the lower position wins a tie."""
    return attention.argsort(descending=True, stable=True)[:count]


def merge(encoding: VisionEncoding, attention: Tensor, centres: list[Tensor]) -> KeptTokens:
    """Merge each partition's tokens into its centres.

    A centre adds to itself its 32 nearest tokens by cosine similarity of keys, other centres among them,
    weighted by attention and not normalised. One last token is the attention-weighted sum of all tokens that
    are no centre; there is none where all are.

    Args:
        encoding: with keys.
        attention: (P, N).
        centres: P tensors of positions.

    Returns:
        Centres in their order, then the gathering token, whose index is -1.
    """
    keys = normalize(encoding.keys_and_query()[0][:, 1:].float(), dim=-1)
    indices, features = [], []
    for i, centre in enumerate(centres):
        tokens = encoding.features[i].float()
        similarity = keys[i, centre] @ keys[i].T
        similarity.scatter_(1, centre[:, None], -torch.inf)
        nearest = similarity.topk(min(NEIGHBOURS, len(tokens) - 1), dim=1).indices
        near = embedding_bag(nearest, tokens, per_sample_weights=attention[i][nearest], mode="sum")
        merged = tokens[centre] + near
        index = centre
        if len(centre) < len(tokens):
            dropped = attention[i].index_fill(0, centre, 0)
            merged = torch.cat([merged, dropped[None] @ tokens])
            index = torch.cat([centre, centre.new_full((1,), -1)])
        indices.append(index)
        features.append(merged.to(encoding.features.dtype))
    return KeptTokens(indices, features)
