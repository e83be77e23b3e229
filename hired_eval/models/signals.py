"""What a vision tower can tell of its tokens while it runs: CLS rows, attention received, keys, CLS query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

QUERIES_AT_ONCE = 2048
"""How many rows of a partition's attention are in memory: all of them, but of large pictures."""
PARTITIONS_AT_ONCE = 8
"""How many partitions' attention of one head is in memory while its columns are summed."""


def cls_attention(query: Tensor, keys: Tensor, heads: int) -> Tensor:
    """The CLS row of multi-head self-attention, without the other rows.

    softmax(q_cls K^T / sqrt(d)) per head over CLS and patches (HiRED, section on CLS-attention).

    Args:
        query: (P, C) query projection of CLS.
        keys: (P, 1 + N, C) key projections, CLS first.
        heads: number of heads; d = C / heads.

    Returns:
        (P, heads, N) float32, the CLS column removed.
    """
    partitions, length, channels = keys.shape
    per_head = channels // heads
    q = query.float().view(partitions, 1, heads, per_head) * per_head**-0.5
    k = keys.float().view(partitions, length, heads, per_head)
    # a product and a sum read the keys where they are; a matrix product would copy them head by head first
    logits: Tensor = (k * q).sum(dim=-1).transpose(1, 2)
    return logits.softmax(dim=-1)[..., 1:]


def received_attention(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """The attention that each token receives: mean over heads and queries of softmax(Q K^T / sqrt(d)).

    One head of a few partitions at a time, so that the attention of all heads is never in memory; how many
    partitions share a pass does not change the order of any sum.

    Args:
        queries: (P, T, C) query projections, CLS included where there is one.
        keys: (P, T, C) key projections.
        heads: number of heads; d = C / heads.

    Returns:
        (P, T) float32; each row sums to 1.
    """
    partitions, length, channels = keys.shape
    per_head = channels // heads
    received = queries.new_zeros((partitions, length), dtype=torch.float32)
    for start in range(0, partitions, PARTITIONS_AT_ONCE):
        here = slice(start, start + PARTITIONS_AT_ONCE)
        for first in range(0, channels, per_head):
            q = queries[here, :, first : first + per_head].float() * per_head**-0.5
            k = keys[here, :, first : first + per_head].float()
            for some in q.split(QUERIES_AT_ONCE, dim=1):
                received[here] += (some @ k.transpose(1, 2)).softmax(dim=-1).sum(dim=1)
    return received / (heads * length)


class _LeftEarlyError(Exception):
    """Raised inside the tower's own forward where nothing more is wanted of it."""


class Projections:
    """What a layer's projections give while the vision tower runs.

    Rows are made as soon as the keys are there, so that queries and keys need not stay in memory.

    Args:
        heads: number of attention heads.
        row: the CLS row is wanted.
        keep: keys and CLS query are wanted.
        received: the attention that each token receives is wanted.
    """

    query: Tensor
    keys: Tensor
    cls_attention: Tensor
    received_attention: Tensor
    """(P, T), CLS included where there is one."""
    leaves = False
    """Nothing is wanted of the tower behind these keys."""

    def __init__(self, heads: int, *, row: bool = False, keep: bool = False, received: bool = False) -> None:
        self.heads, self.row, self.keep, self.received = heads, row, keep, received
        self._queries: Tensor | None = None

    def record_query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of the query projection, which runs before the key projection."""
        # a copy, so that the other rows need not stay in memory
        self.query = output[:, 0].detach().clone()
        self._queries = output.detach() if self.received else None

    def record_keys(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of the key projection."""
        # without gradients: a layer that is run again for them is run without hooks, and must be the same
        output = output.detach()
        if self.row:
            self.cls_attention = cls_attention(self.query, output, self.heads)
        if self._queries is not None:
            self.received_attention = received_attention(self._queries, output, self.heads)
            self._queries = None
        if self.keep:
            self.keys = output
        if self.leaves:
            raise _LeftEarlyError


Watch = Callable[[int, Projections], Iterable[RemovableHandle]]
"""Lets queries and keys of a layer be recorded while the tower runs."""


def run_tower(
    run: Callable[[], Any],
    layers: Sequence[nn.Module],
    feature_layer: int,
    recorded: Mapping[int, Projections],
    watch: Watch,
) -> Tensor:
    """The tower's own forward, left as soon as all that is wanted has been seen.

    Args:
        run: calls the stock vision tower.
        layers: its layers, and what comes behind them if it is not wanted.
        feature_layer: whose output is wanted, counted from 0.
        recorded: by layer, takes what its projections give.
        watch: puts hooks on the projections of a layer; those of its keys come after those of its queries.

    Returns:
        (P, tokens, C) output of the feature layer, CLS included where there is one.
    """
    features: list[Tensor] = []
    deepest = max([feature_layer, *recorded])

    def leave(module: nn.Module, *args: Any) -> None:
        raise _LeftEarlyError

    handles = [layers[feature_layer].register_forward_hook(lambda m, a, output: features.append(output))]
    for layer, projections in recorded.items():
        projections.leaves = layer == deepest > feature_layer
        handles.extend(watch(layer, projections))
    if deepest == feature_layer and deepest + 1 < len(layers):
        # before the next layer, not behind this one, which may be run again for gradients
        handles.append(layers[deepest + 1].register_forward_pre_hook(leave))
    try:
        run()
    except _LeftEarlyError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return features[0]
