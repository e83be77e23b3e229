"""PruMerge and PruMerge+ (Shang et al., 2024): keep the tokens that CLS attends to, merge the others in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper, even_split
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.types import KeptTokens, VisionEncoding, take_tokens

NEIGHBOURS = 32


@dataclass(frozen=True, kw_only=True)
class MergingByKeys(RankingByAttention):
    """What the methods here share: CLS-attention made of the keys that tokens are merged by."""

    reads: ClassVar = frozenset({"keys"})
    grid_order: ClassVar[bool] = False

    def importance(self, encoding: VisionEncoding) -> Tensor:
        """(S, N) CLS-attention of the last layer, or attention received in the layer of the features.

        Raises:
            UserError: the encoding lacks keys or attention received.
        """
        if self.takes_received(encoding):
            return encoding.received_at(None)
        return unsplit_attention(encoding)


@dataclass(frozen=True, kw_only=True)
class PruMerge(MergingByKeys):
    """PruMerge: as many tokens as the CLS-attention has outliers, and one that gathers the rest.

    Attention is that of the vision tower's last layer from un-split heads, features are those of the layer
    that feeds the projector. Adapted to LLaVA-Next partition by partition. It has no token budget.
    """

    def drop(self, encoding: VisionEncoding, layouts: Layouts) -> KeptTokens:
        """Choose each partition's centres and merge the other tokens into them.

        Raises:
            UserError: the encoding lacks keys.
        """
        attention = self.importance(encoding)
        return merge(encoding, attention, *self.centres(attention))

    def centres(self, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (S, M) of the kept tokens, highest attention first, and how many (S,) of them count.

        Args:
            attention: (S, N).
        """
        ranked = attention.argsort(dim=1, descending=True, stable=True)
        most = attention.shape[1] - 1
        # so many can exceed the third quartile
        return ranked[:, : most - 3 * most // 4], count_outliers(attention)


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge+: PruMerge with evenly spaced tokens beside the outliers, about three times as many.

    The published code divides by zero where there is no outlier; here the spacing is then wider than the
    partition, which leaves token 0. Above a third of outliers the spacing would be 0; here it is 1.
    """

    def centres(self, attention: Tensor) -> tuple[Tensor, Tensor]:
        """PruMerge's tokens, then the evenly spaced ones that are not among them."""
        tokens = attention.shape[1]
        ranked = attention.argsort(dim=1, descending=True, stable=True)
        outliers = count_outliers(attention)[:, None]
        ratio = outliers.double() / tokens
        step = torch.where(outliers > 0, (1 / ratio).floor(), 3.0 * tokens)
        stride = (step / 3).floor().clamp(min=1)
        position = torch.arange(tokens, device=attention.device).expand_as(ranked)
        spaced = (position % stride == 0) & (position < tokens - 1)
        rank = torch.zeros_like(ranked).scatter(1, ranked, position)
        pruned = rank < outliers
        # pruned ones by attention, spaced ones by position, all others behind
        key = torch.where(pruned, rank, tokens + position + tokens * ~spaced)
        return key.argsort(dim=1), (pruned | spaced).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class PruMergeBudget(MergingByKeys, BudgetedDropper):
    """PruMerge held to a token budget: an even share for each partition in place of the outlier count.

    A partition with n tokens keeps n - 1 by attention and one that gathers the rest.
    """

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: the encoding lacks keys.
        """
        attention = self.importance(encoding)
        counts = even_split(layouts, budgets)
        tokens = layouts.tokens_per_partition
        centres = [count if count == tokens else max(count - 1, 0) for count in counts]
        ranked = attention.argsort(dim=1, descending=True, stable=True)
        merged = merge(encoding, attention, ranked[:, : max(*centres, 1)], layouts.tensor(centres))
        # where there is no token to keep, the one that gathers the rest does not count either
        return KeptTokens(merged.indices, merged.features, layouts.tensor(counts))


def unsplit_attention(encoding: VisionEncoding) -> Tensor:
    """CLS-attention as PruMerge computes it: one softmax over CLS and patches of q k^T / sqrt(C).

    Returns:
        (S, N) float32, the CLS column removed; it must not hold NaN.

    Raises:
        UserError: the encoding lacks keys.
    """
    keys, query = encoding.keys, encoding.cls_query
    logits = torch.einsum("pc,pnc->pn", query.float() * query.shape[-1] ** -0.5, keys.float())
    attention = logits.softmax(dim=-1)[:, 1:]
    encoding.forbid_nan("CLS-attention of the last layer", attention)
    return attention


def count_outliers(attention: Tensor) -> Tensor:
    """(S,) how many values of (S, N) exceed the third quartile by more than 1.5 interquartile ranges."""
    values = attention.double().sort(dim=1).values

    def quartile(number: int) -> Tensor:
        # linear interpolation, as torch.quantile has it, which waits for the device
        below, fourths = divmod(number * (values.shape[1] - 1), 4)
        above = min(below + 1, values.shape[1] - 1)
        return torch.lerp(values[:, below], values[:, above], fourths / 4)

    first, third = quartile(1), quartile(3)
    return (values > (third + 1.5 * (third - first))[:, None]).sum(dim=1)


def merge(encoding: VisionEncoding, attention: Tensor, centres: Tensor, counts: Tensor) -> KeptTokens:
    """Merge each partition's tokens into its centres.

    A centre adds to itself its 32 nearest tokens by cosine similarity of keys, other centres among them,
    weighted by attention and not normalised. One last token is the attention-weighted sum of all tokens that
    are no centre; there is none where all are.

    Args:
        encoding: with keys.
        attention: (S, N).
        centres: (S, M) positions.
        counts: (S,) how many of them count.

    Returns:
        Centres in their order, then the gathering token, whose index is -1.
    """
    keys = normalize(encoding.keys_of_patches().float(), dim=-1)
    tokens = encoding.features.float()
    (partitions, most, channels), slots = tokens.shape, centres.shape[1]
    similarity = take_tokens(keys, centres) @ keys.transpose(1, 2)
    similarity = similarity.scatter(2, centres[:, :, None], -torch.inf)
    nearest = similarity.topk(min(NEIGHBOURS, most - 1), dim=2).indices.flatten(1)
    start = torch.arange(partitions, device=centres.device)[:, None] * most
    near = embedding_bag(
        (start + nearest).view(partitions * slots, -1),
        tokens.flatten(0, 1),
        per_sample_weights=attention.gather(1, nearest).view(partitions * slots, -1),
        mode="sum",
    )
    merged = take_tokens(tokens, centres) + near.view(partitions, slots, channels)
    is_centre = torch.arange(slots, device=centres.device) < counts[:, None]
    dropped = attention.scatter(1, centres, attention.gather(1, centres) * ~is_centre)
    rest = dropped[:, None] @ tokens
    # the gathering token comes behind the centres that count
    place = torch.arange(slots + 1, device=centres.device).expand(partitions, -1)
    gathers = place == counts[:, None]
    features = torch.where(gathers[:, :, None], rest, torch.cat([merged, rest], dim=1))
    indices = torch.where(gathers, -1, torch.cat([centres, centres[:, :1]], dim=1))
    return KeptTokens(indices, features.to(encoding.features.dtype), counts + (counts < most))
