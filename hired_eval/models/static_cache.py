"""KV caches whose size stays the same from step to step, so that a GPU can replay a captured step."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, StaticCache

STEP = 256
"""Lengths are multiples of it: each shape of a batch is compiled and captured anew."""


class StaticCaches:
    """The cache of the batch before, which the next batch of its shape overwrites.

    What is captured reads fixed addresses, so that a new cache would have to be captured again. On a GPU,
    transformers compiles the decoding steps of a model with such a cache; on the CPU it does not.

    Args:
        model: whose layers attend to all that is before.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._config = model.config
        self._shape = (0, 0)
        self._cache: Any = None

    def clear(self) -> None:
        """Free its memory."""
        self._shape, self._cache = (0, 0), None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        layers = self._cache.layers if self._cache is not None else ()
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if layer.is_initialized)

    def put_into(self, inputs: dict[str, Any], new_tokens: int) -> None:
        """Give a batch a static cache, with what its own cache holds.

        Args:
            inputs: of `generate`, with `past_key_values` where a prefix is prefilled; changed in place.
            new_tokens: at most.
        """
        rows, length = inputs["input_ids"].shape
        shape = (rows, round_up(length + new_tokens))
        if shape == self._shape:
            self._cache.reset()
        else:
            self.clear()  # its memory is free before the next one needs it
            self._shape, self._cache = shape, StaticCache(config=self._config, max_cache_len=shape[1])
        prefix = inputs.get("past_key_values")
        for number, layer in enumerate(prefix.layers if prefix is not None else ()):
            self._cache.update(layer.keys, layer.values, number)
        inputs["past_key_values"] = self._cache


def round_up(tokens: int) -> int:
    """The length of the cache for so many tokens."""
    return -(-tokens // STEP) * STEP
