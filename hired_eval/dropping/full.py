"""Full execution: nothing is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from hired_eval.dropping.base import VisionStage
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.packing import PackedTokens
from hired_eval.dropping.types import KeptTokens, VisionEncoding


@dataclass(frozen=True, kw_only=True)
class Full(VisionStage):
    """Every token, packed as the stock model packs them, newline tokens included."""

    newline: Literal["none", "rows"] = "rows"
    """Newline tokens: one behind each row, as stock; none, as the authors of HiRED ran full execution."""

    def drop(self, encoding: VisionEncoding, layout: PartitionLayout) -> KeptTokens:
        """Keep all N tokens of each of the P partitions."""
        everything = torch.arange(layout.tokens_per_partition, device=encoding.features.device)
        return KeptTokens([everything] * layout.partitions, list(encoding.features))

    def pack(self, kept: KeptTokens, layout: PartitionLayout) -> PackedTokens:
        """As stock LLaVA-Next: padding removed, newline tokens behind the rows."""
        packed = super().pack(kept, layout)
        top, bottom, left, right = layout.unpadded()
        if self.newline == "rows" and left == right:
            # on a very narrow picture stock unpadding leaves rows of no width, and their newline tokens
            packed.newlines_after[-1] += bottom - top
        return packed
