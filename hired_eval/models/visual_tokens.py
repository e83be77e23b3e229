"""A method applied to a picture: which visual tokens stay, and what the language model gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hired_eval.dropping import PackedTokens, PartitionLayout, VisionEncoding, VisionStage
from hired_eval.models.family import Family, Picture


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
        embeddings: (kept, D) after the projector, newline tokens in place.
        counts: kept, allowed and full token counts.
        packed: the same tokens before the projector, with their places in the partitions.
        layout: geometry of the picture.
    """

    embeddings: Tensor
    counts: TokenCounts
    packed: PackedTokens
    layout: PartitionLayout


def make_visual_tokens(family: Family, picture: Picture, stage: VisionStage) -> VisualTokens:
    """Encode a picture, drop tokens, and project the kept ones.

    Raises:
        UserError: see `Family.encode`.
        RuntimeError: the method kept more tokens than its budget allows.
    """
    return drop_tokens(family, family.encode(picture.pixels, stage), picture.layout, stage)


def encode_pictures(family: Family, pictures: Sequence[Picture], stage: VisionStage) -> list[VisualTokens]:
    """Encode pictures in one pass of the vision tower, drop tokens of each, and project the kept ones.

    Raises:
        UserError: see `Family.encode`.
        RuntimeError: the method kept more tokens than its budget allows.
    """
    encoding = family.encode(torch.cat([picture.pixels for picture in pictures]), stage)
    tokens, start = [], 0
    for picture in pictures:
        part = slice(start, start := start + picture.layout.partitions)
        own = replace(
            encoding,
            features=encoding.features[part],
            cls_attention={layer: rows[part] for layer, rows in encoding.cls_attention.items()},
            keys=None if encoding.keys is None else encoding.keys[part],
            cls_query=None if encoding.cls_query is None else encoding.cls_query[part],
        )
        tokens.append(drop_tokens(family, own, picture.layout, stage))
    return tokens


def drop_tokens(
    family: Family, encoding: VisionEncoding, layout: PartitionLayout, stage: VisionStage
) -> VisualTokens:
    """Drop tokens of an encoded picture, and project the kept ones.

    Args:
        family: of the model.
        encoding: holds what the stage reads.
        layout: geometry of the picture.
        stage: of the method.

    Raises:
        UserError: the encoding cannot be used.
        RuntimeError: the method kept more tokens than its budget allows.
    """
    packed, embeddings = family.embed(stage.pack(stage.drop(encoding, layout), layout), layout)
    counts = TokenCounts(len(embeddings), stage.allowed(layout), layout.stock_tokens)
    if counts.allowed is not None and counts.kept > counts.allowed:
        raise RuntimeError(f"{stage} kept {counts.kept} tokens where {counts.allowed} are allowed")
    return VisualTokens(embeddings, counts, packed, layout)
