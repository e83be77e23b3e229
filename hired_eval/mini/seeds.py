"""Where random pages come from: one stream of seeds per purpose, disjoint by construction."""

from __future__ import annotations

import zlib

import numpy as np

PURPOSES = {"test": 0, "train": 1, "held-out": 2, "tokenizer": 3, "alignment": 4}


def page_rng(purpose: str, stream: str, index: int) -> np.random.Generator:
    """The generator of page ``index`` of a stream; purposes never share a seed."""
    return np.random.default_rng([PURPOSES[purpose], zlib.crc32(stream.encode()), index])
