"""Prompt prefixes that several questions share, and their KV caches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from hired_eval.models.family import Family
from hired_eval.models.memory import batch_bytes, count_kv_bytes, free_bytes, spare_bytes
from hired_eval.models.visual_tokens import VisualTokens


@dataclass(frozen=True)
class Prefix:
    """A prompt up to and including its last image.

    Attributes:
        input_ids: token ids, each image's placeholders as many as its kept tokens.
        digests: digest of each image; with the ids they tell one prefix from another.
        images: visual tokens of each image.
        positions: (planes, n), where they are not those of a count.
    """

    input_ids: tuple[int, ...]
    digests: tuple[str, ...]
    images: tuple[VisualTokens, ...]
    positions: Tensor | None = None

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Equal for prefixes whose KV caches are equal."""
        return self.input_ids, self.digests


LayerCaches = list[tuple[Tensor, Tensor]]
"""Keys and values (KV heads, tokens, head dimension) of each layer."""


class PrefixCaches:
    """The KV caches of the prefixes used last, kept within a share of the free memory.

    Args:
        family: of the model.

    Attributes:
        sharers: how many such caches share that memory.
    """

    sharers = 1

    def __init__(self, family: Family) -> None:
        self.family, self.model = family, family.model
        self._kept: OrderedDict[Any, LayerCaches] = OrderedDict()

    def clear(self) -> None:
        """Forget all caches and so free their memory."""
        self._kept.clear()

    def fit(self, prefixes: Sequence[Prefix]) -> bool:
        """Whether the caches of a batch, one copy each, fit into the memory that caches may take."""
        longest = max(len(p.input_ids) for p in prefixes)
        missing = len({p.key for p in prefixes} - self._kept.keys())
        return (len(prefixes) + missing) * self._bytes(longest) <= batch_bytes(free_bytes(self.model.device))

    def batch(self, prefixes: Sequence[Prefix], pad: int) -> tuple[DynamicCache, Tensor, Tensor]:
        """The left-padded KV cache of a batch in which prefixes may recur; each is prefilled once.

        Args:
            prefixes: B prefixes.
            pad: id of the padding token.

        Returns:
            cache of length L, token ids (B, L), attention mask (B, L).
        """
        distinct = {p.key: p for p in prefixes}
        missing = [p for key, p in distinct.items() if key not in self._kept]
        # the caches of this batch are held here, so that forgetting old ones cannot take them away
        caches = {key: self._kept[key] for key in distinct if key in self._kept}
        if missing:
            caches.update(self._prefill(missing, pad))
        self._keep(caches)
        ids, mask = pad_left([list(p.input_ids) for p in prefixes], pad)
        rows = [caches[p.key] for p in prefixes]
        cache = DynamicCache()
        for layer in range(len(rows[0])):
            keys = _stacked([row[layer][0] for row in rows], ids.shape[1])
            values = _stacked([row[layer][1] for row in rows], ids.shape[1])
            cache.update(keys, values, layer)
        return cache, ids, mask

    def _prefill(self, prefixes: list[Prefix], pad: int) -> dict[Any, LayerCaches]:
        ids, mask = pad_left([list(p.input_ids) for p in prefixes], pad)
        cache = DynamicCache()
        device = self.model.get_input_embeddings().weight.device
        self.model.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions(mask, [p.positions for p in prefixes]).to(device),
            past_key_values=cache,
            use_cache=True,
            **self.family.inputs([image.embeddings for p in prefixes for image in p.images]),
        )
        return {
            p.key: [
                (
                    layer.keys[i, :, -len(p.input_ids) :].clone(),
                    layer.values[i, :, -len(p.input_ids) :].clone(),
                )
                for layer in cache.layers
            ]
            for i, p in enumerate(prefixes)
        }

    def _keep(self, caches: dict[Any, LayerCaches]) -> None:
        for key, layers in caches.items():
            self._kept[key] = layers
            self._kept.move_to_end(key)
        limit = spare_bytes(self.model.device) // self.sharers
        while (
            self._kept and sum(self._bytes(layers[0][0].shape[1]) for layers in self._kept.values()) > limit
        ):
            self._kept.popitem(last=False)

    def _bytes(self, tokens: int) -> int:
        return count_kv_bytes(self.model.config, tokens, self.model.dtype)


def pad_left(rows: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) of rows of different lengths, padded on the left, and their attention mask (B, L)."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], dtype=torch.long)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    return ids, mask


def positions(mask: Tensor, rows: Sequence[Tensor | None]) -> Tensor:
    """Position of each token, padding included.

    Args:
        mask: (B, L) on the CPU, 0 for padding.
        rows: (planes, n_i) positions of each row, None where its tokens are counted one by one.

    Returns:
        (B, L), or (planes, B, L) where rows have several planes of positions.
    """
    if all(row is None for row in rows):
        return (mask.cumsum(-1) - 1).clamp(min=0)
    lengths = mask.sum(-1).tolist()
    values = torch.cat(
        [torch.arange(n)[None] if row is None else row.cpu() for row, n in zip(rows, lengths, strict=True)],
        dim=1,
    )
    seen = mask.flatten().nonzero().squeeze(1).to(values.device)
    placed = values.new_zeros(len(values), mask.numel()).index_copy(1, seen, values)
    placed = placed.view(-1, *mask.shape)
    return placed[0] if len(placed) == 1 else placed


def _stacked(rows: list[Tensor], length: int) -> Tensor:
    """(heads, n_i, d) rows as one (B, heads, length, d) tensor, zeros on the left."""
    stacked = rows[0].new_zeros(len(rows), rows[0].shape[0], length, rows[0].shape[2])
    for target, row in zip(stacked, rows, strict=True):
        target[:, length - row.shape[1] :] = row
    return stacked
