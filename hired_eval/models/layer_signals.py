"""What stages inside a language model read of it, made of the layers' own projections."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ROWS = 64
"""Tokens whose attention is computed at a time: more raters than these take no more memory."""


def attention_of(
    attention: Any,
    hidden: Tensor,
    position_embeddings: Sequence[Tensor],
    asking: Tensor,
    weights: Tensor,
    columns: Tensor,
    shown: Tensor,
) -> Tensor:
    """Attention of some tokens of each row to all of them, made of the layer's own projections, and its mean.

    Args:
        attention: the attention module of a layer.
        hidden: (B, n, C) what it gets.
        position_embeddings: cosines and sines, (B, n, d) each.
        asking: (B, m) columns of the tokens whose attention it is.
        weights: (B, m) 1 for each of them that counts, and 0 for the others.
        columns: (B, n) where each column is in the prompt; a token attends to those up to its own.
        shown: (B, n) bool, False for padding.

    Returns:
        (B, heads, n), float32; a row sums to 1.
    """
    keys = keys_of(attention, hidden, position_embeddings)
    mean = hidden.new_zeros((), dtype=torch.float32)
    share = weights / weights.sum(dim=1, keepdim=True)
    for some, part in zip(torch.split(asking, ROWS, 1), torch.split(share, ROWS, 1), strict=True):
        query = _project(attention, "q", take(hidden, some), [take(t, some) for t in position_embeddings])
        # heads that share a key are neighbours
        grouped = query.reshape(len(query), keys.shape[1], -1, query.shape[-1])
        logits = (grouped @ keys.transpose(2, 3)).float()
        logits = logits.reshape(len(query), keys.shape[1], -1, some.shape[1], keys.shape[2])
        logits = logits * attention.scaling
        seen = shown[:, None] & (columns[:, None] <= columns.gather(1, some)[..., None])
        rows = logits.masked_fill(~seen[:, None, None], -torch.inf).softmax(dim=-1).flatten(1, 2)
        mean = mean + (rows * part[:, None, :, None]).sum(dim=2)
    return mean


def keys_of(attention: Any, hidden: Tensor, position_embeddings: Sequence[Tensor]) -> Tensor:
    """Keys (B, heads, n, d) of a layer as its KV cache holds them; arguments as of `attention_of`."""
    return _project(attention, "k", hidden, position_embeddings)


def _project(attention: Any, name: str, states: Tensor, positions: Sequence[Tensor]) -> Tensor:
    heads = getattr(attention, f"{name}_proj")(states).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{name}_norm", None)
    heads = (heads if norm is None else norm(heads)).transpose(1, 2)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    rotated: Tensor = rotate(heads, heads, *positions)[0]
    return rotated


def take(values: Tensor, columns: Tensor) -> Tensor:
    """Some columns (B, m, C) of values (B, n, C), told by their index (B, m)."""
    columns = columns.to(values.device)
    return values.gather(1, columns[..., None].expand(-1, -1, values.shape[-1]))
