"""FastV (Chen et al., ECCV 2024): tokens that the question hardly looks at leave early."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hired_eval.dropping.base import floor_share
from hired_eval.dropping.layer_stage import LayerSignals, LayerStage
from hired_eval.typed import Count, Share


@dataclass(frozen=True, kw_only=True)
class FastV(LayerStage):
    """Before one layer, the visual tokens leave that got the least attention in the layer before.

    With N tokens given to a language model of L layers and T = floor(keep * N) left at layer K, its budget
    is the mean over the layers, (K * N + (L - K) * T) / L.
    """

    layer: Count = 2
    """K: the layer before which tokens leave, counted from 0; as many layers see all of them."""
    keep: Share = 0.5
    """Share of the visual tokens that stay, above 0 and at most 1."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The one layer."""
        return (self.layer,)

    def left(self, layer: int, visual: int) -> int:
        """floor(keep * visual)."""
        return floor_share(self.keep, visual)

    def score(self, signals: LayerSignals) -> Tensor:
        """Attention of the prompt's last token, mean over heads."""
        return signals.attention.mean(dim=1)
