"""Top-k CLS-attention: HiRED without its allocation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import CLSAttentionDropper, highest_overall
from hired_eval.dropping.types import VisionEncoding


@dataclass(frozen=True, kw_only=True)
class TopKCLS(CLSAttentionDropper):
    """The tokens of highest CLS-attention of the whole image, however they spread over the partitions."""

    def allocate(
        self, encoding: VisionEncoding, layouts: Layouts, scores: Tensor, budgets: list[int]
    ) -> Tensor:
        """No allocation: the highest of the whole image."""
        return highest_overall(scores, layouts, budgets)
