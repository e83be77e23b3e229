"""PyramidDrop (Xing et al., CVPR 2025): visual tokens leave in stages, fewer and fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from hired_eval.dropping.layer_stage import LayerSignal, LayerSignals, ShareStage, shares_at
from hired_eval.typed import Count, Share


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(ShareStage):
    """At the end of each stage, the visual tokens leave that the last token of the prompt looks at least.

    Its attention is computed with the projections of the next layer, which has not run yet.

    Raises:
        UserError: not as many ratios as layers.
    """

    reads: ClassVar[frozenset[LayerSignal]] = frozenset({"own_attention"})

    at: tuple[Count, ...] | None = None
    """Layers before which tokens leave, counted from 0; null: equal stages, for three ratios
    (8, 16, 24) of 32 layers."""
    ratios: tuple[Share, ...] = (0.5, 0.25, 0.125)
    """Share of the original visual tokens that stays at each of them; a budget scales them."""
    positions: Literal["original", "compact"] = "compact"

    def __post_init__(self) -> None:
        """See that each layer has its ratio."""
        super().__post_init__()
        self.shares(1)

    def shares(self, depth: int) -> Mapping[int, float]:
        """The ratios at the ends of the stages."""
        stages = len(self.ratios) + 1
        equal = [max(1, depth * (i + 1) // stages) for i in range(len(self.ratios))]
        return shares_at(self, self.at or equal, self.ratios)

    def score(self, signals: LayerSignals) -> Tensor:
        """Attention of the prompt's last token, mean over heads."""
        return signals["own_attention"].mean(dim=1)
