"""A method applied to a picture: which visual tokens stay, and what the language model gets of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from hired_eval.dropping import Layouts, PackedTokens, PartitionLayout, VisionEncoding, VisionStage
from hired_eval.models.family import Family, Picture
from hired_eval.models.own_methods import explained_faults

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


class Encoder:
    """The vision tower for the stages of several methods: what goes through it together does so once for all.

    What was encoded is held on the tower's device until `forget`; for a single stage nothing is.

    Args:
        family: of the model.
        stages: one a method. For a stage that is not named here, the tower runs when it is asked.

    Raises:
        UserError: a stage asks for what the tower lacks.
    """

    def __init__(self, family: Family, stages: Sequence[VisionStage]) -> None:
        self.family, self.stages = family, [*stages]
        for stage in stages:
            family.refuse_what_is_not_there(stage)
        self._passes: dict[tuple[int, ...], tuple[Sequence[Picture], Callable[..., VisionEncoding]]] = {}

    def encode(self, pictures: Sequence[Picture], stage: VisionStage) -> VisionEncoding:
        """The encoding of the pictures of one pass, for a stage.

        Args:
            pictures: with partitions of one shape; known again by their pixels, which are the same object.
            stage: says what is recorded.

        Raises:
            UserError: see `Family.encode`.
        """
        pixels = [picture.pixels for picture in pictures]
        of_pass = tuple(map(id, pixels))
        if len(self.stages) == 1 or stage not in self.stages:
            return self.family.encode(self._joined(pixels), stage)
        if of_pass not in self._passes:
            # with the pictures, since what is freed may give its id to another
            self._passes[of_pass] = pictures, self.family.look(self._joined(pixels), self.stages)
        return self._passes[of_pass][1](stage)

    def _joined(self, pixels: Sequence[Tensor]) -> Tensor:
        """On the tower's device, where they are put together: the host copies nothing once more."""
        tower = self.family.tower
        there = [part.to(tower.device, tower.dtype, non_blocking=True) for part in pixels]
        return torch.cat(there) if len(there) > 1 else there[0]

    def forget(self) -> None:
        """Free the memory of what was encoded."""
        self._passes.clear()


def make_visual_tokens(
    family: Family,
    pictures: Sequence[Picture],
    stage: VisionStage,
    *,
    per_pass: int | None = None,
    encoder: Encoder | None = None,
) -> list[VisualTokens]:
    """Encode pictures, drop tokens, and project the kept ones.

    Args:
        family: of the model.
        pictures: any number, of any grids.
        stage: of the method.
        per_pass: pictures in one pass at most, which have partitions of one size. By default one on the CPU,
            where the vision tower's sums differ in their last bits with the number of partitions, and
            elsewhere 16.
        encoder: of several methods; by default of this one alone.

    Raises:
        UserError: see `Family.encode` and `drop_tokens`.
        RuntimeError: the method kept more tokens than its budget allows.
    """
    if per_pass is None:
        per_pass = 1 if family.tower.device.type == "cpu" else PICTURES_A_PASS
    encoder = encoder or Encoder(family, [stage])
    made: list[VisualTokens] = []
    for _, group in groupby(pictures, lambda p: (p.pixels.shape[1:], p.layout.tokens_per_partition)):
        alike = list(group)
        for start in range(0, len(alike), per_pass):
            of_pass = alike[start : start + per_pass]
            encoding = encoder.encode(of_pass, stage)
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
        UserError: the encoding cannot be used, or a method from elsewhere fails.
        RuntimeError: the method kept more tokens than its budget allows.
    """
    with explained_faults(stage):
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
