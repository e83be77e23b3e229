"""Full execution: nothing is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from hired_eval.dropping.base import VisionStage
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.packing import PackedPass
from hired_eval.dropping.types import KeptTokens, VisionEncoding


@dataclass(frozen=True, kw_only=True)
class Full(VisionStage):
    """Every token, packed as the stock model packs them, newline tokens included."""

    newline: Literal["none", "rows"] = "rows"
    """Newline tokens: one behind each row, as stock; none, as the authors of HiRED ran full execution."""

    def drop(self, encoding: VisionEncoding, layouts: Layouts) -> KeptTokens:
        """Keep all N tokens of each partition."""
        partitions, tokens, _ = encoding.features.shape
        indices = torch.arange(tokens, device=layouts.device).expand(partitions, tokens)
        return KeptTokens(indices, encoding.features, torch.full_like(indices[:, 0], tokens))

    def pack(self, kept: KeptTokens, layouts: Layouts) -> PackedPass:
        """As stock LLaVA-Next: padding removed, newline tokens behind the rows."""
        packed = super().pack(kept, layouts)
        for i, layout in enumerate(layouts):
            top, bottom, left, right = layout.unpadded()
            if self.newline == "rows" and layout.newlines and left == right:
                # on a very narrow picture stock unpadding leaves rows of no width, and their newline tokens
                packed.newlines_after[i, layout.tokens_per_partition - 1] += bottom - top
        return packed
