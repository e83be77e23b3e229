"""A method applied to a picture: which visual tokens stay, and what the language model gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from hired_eval.dropping import Layouts, PackedTokens, PartitionLayout, VisionEncoding, VisionStage
from hired_eval.models.family import Family, Picture

PICTURES_A_PASS = 16


@dataclass(frozen=True)
class TokenCounts:
    """Visual tokens of one picture.

    Attributes:
        kept: given to the LLM, newline tokens included.
        allowed: the token budget; None for a method without a budget.
        full: given to the LLM by the stock model.
    """

    kept: int
    allowed: int | None
    full: int


@dataclass(frozen=True)
class VisualTokens:
    """What the language model gets for one picture.

    Attributes:
        embeddings: (kept, D) after the projector, newline tokens in place; wider where the family gives the
            language model more of a token.
        counts: kept, allowed and full token counts.
        packed: the same tokens before the projector, with their places in the partitions.
        layout: geometry of the picture.
        positions: of kept tokens: compact or original, see `VisionStage`.
    """

    embeddings: Tensor
    counts: TokenCounts
    packed: PackedTokens
    layout: PartitionLayout
    positions: Literal["compact", "original"] = "compact"


def make_visual_tokens(
    family: Family, pictures: Sequence[Picture], stage: VisionStage, *, per_pass: int | None = None
) -> list[VisualTokens]:
    """Encode pictures, drop tokens, and project the kept ones.

    Args:
        family: of the model.
        pictures: any number, of any grids.
        stage: of the method.
        per_pass: pictures in one pass at most, which have partitions of one size. By default one on the CPU,
            where the vision tower's sums differ in their last bits with the number of partitions, and
            elsewhere 16.

    Raises:
        UserError: see `Family.encode` and `drop_tokens`.
        RuntimeError: the method kept more tokens than its budget allows.
    """
    if per_pass is None:
        per_pass = 1 if family.tower.device.type == "cpu" else PICTURES_A_PASS
    made: list[VisualTokens] = []
    for _, group in groupby(pictures, lambda p: (p.pixels.shape[1:], p.layout.tokens_per_partition)):
        alike = list(group)
        for start in range(0, len(alike), per_pass):
            of_pass = alike[start : start + per_pass]
            pixels = [picture.pixels for picture in of_pass]
            encoding = family.encode(torch.cat(pixels) if len(pixels) > 1 else pixels[0], stage)
            made += drop_tokens(family, encoding, [picture.layout for picture in of_pass], stage)
    return made


def drop_tokens(
    family: Family, encoding: VisionEncoding, layouts: Sequence[PartitionLayout], stage: VisionStage
) -> list[VisualTokens]:
    """Drop tokens of the encoded pictures of one pass, and project the kept ones.

    The host waits for the device once, whatever the number of pictures; more often only where newline tokens
    count against a budget.

    Args:
        family: of the model.
        encoding: holds what the stage reads.
        layouts: geometry of the pictures.
        stage: of the method.

    Raises:
        UserError: the encoding cannot be used.
        RuntimeError: the method kept more tokens than its budget allows.
    """
    selected = stage.select(encoding, Layouts(tuple(layouts), encoding.features.device))
    added: Sequence[Tensor | None] = [None] * len(layouts)
    if encoding.added is not None:
        added = torch.split(encoding.added, [layout.partitions for layout in layouts])
    made = []
    for packed, layout, of_image in zip(selected, layouts, added, strict=True):
        given, embeddings = family.embed(packed, layout, of_image)
        counts = TokenCounts(len(embeddings), stage.allowed(layout), layout.stock_tokens)
        if counts.allowed is not None and counts.kept > counts.allowed:
            raise RuntimeError(f"{stage} kept {counts.kept} tokens where {counts.allowed} are allowed")
        made.append(VisualTokens(embeddings, counts, given, layout, stage.positions))
    return made
