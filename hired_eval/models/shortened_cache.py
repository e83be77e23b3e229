"""KV caches that know that their prompt was shortened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from hired_eval.errors import UserError
from hired_eval.models.shortening import Shortening


class ShortenedCache(Cache):  # type: ignore[misc]
    """Put before the class of a cache whose prompt was shortened.

    Lengths of masks, and positions, of what follows are told from `shortening`, which goes along wherever the
    rows of the cache go, into copies too. Stock code, which would take the prompt for as long as it was
    given, cannot add to such a cache.
    """

    stock: Any
    shortening: Shortening
    added_to = False

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values of a layer.

        Raises:
            UserError: what adds them does not know of the dropped tokens.
        """
        if not self.added_to:
            raise UserError(
                "this KV cache holds a prompt without its dropped tokens; go on with it through model(...) "
                "or model.generate(...) inside a `with method(model)` block, or without the cache"
            )
        keys, values = super().update(*args, **kwargs)
        return keys, values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take rows of the batch."""
        super().reorder_cache(beam_idx)
        self.shortening = self.shortening.rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        super().batch_repeat_interleave(repeats)
        rows = torch.arange(len(self.shortening.columns)).repeat_interleave(repeats)
        self.shortening = self.shortening.rows(rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take rows of the batch."""
        super().batch_select_indices(indices)
        self.shortening = self.shortening.rows(indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens at the end, their number being negative.

        Raises:
            UserError: some of them stand before the end of the last image.
        """
        if self.get_seq_length() - abs(tokens_to_remove) < self.shortening.short:
            raise UserError(
                f"crop({tokens_to_remove}) would cut into a prompt without its dropped tokens; "
                "start again without the cache"
            )
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        del self.shortening
        self.__class__ = self.stock

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (self.stock,), vars(self)


def mark(cache: Cache, shortening: Shortening) -> None:
    """Tell a cache, from now on, that its prompt was shortened."""
    if not isinstance(cache, ShortenedCache):
        kind: Any = type(cache)
        cache.__class__ = _marked(kind)
    cache.shortening = shortening


@contextmanager
def allow_adding_to(cache: Any) -> Iterator[None]:
    """Allow that tokens are added to `cache`, if it is one whose prompt was shortened."""
    if not isinstance(cache, ShortenedCache):
        yield
        return
    cache.added_to = True
    try:
        yield
    finally:
        cache.added_to = False


@cache
def _marked(kind: Any) -> type[ShortenedCache]:
    return type(kind.__name__, (ShortenedCache, kind), {"stock": kind})


def _blank(kind: Any) -> ShortenedCache:
    marked = _marked(kind)
    return marked.__new__(marked)
