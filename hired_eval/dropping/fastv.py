"""FastV (Chen et al., ECCV 2024): tokens that the question hardly looks at leave early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hired_eval.dropping.layer_stage import LayerSignals, ShareStage
from hired_eval.typed import Count, Share


@dataclass(frozen=True, kw_only=True)
class FastV(ShareStage):
    """Before one layer, the visual tokens leave that got the least attention in the layer before.

    With N tokens given to a language model of L layers and T = floor(keep * N) left at layer K, the mean over
    the layers is (K * N + (L - K) * T) / L; a budget is that mean, and T as much as it allows.
    """

    layer: Count = 2
    """K: the layer before which tokens leave, counted from 0; as many layers see all of them."""
    keep: Share = 0.5
    """Share of the visual tokens that stay, above 0 and at most 1, where no budget is set."""

    def shares(self, depth: int) -> Mapping[int, float]:
        """The one layer and its share."""
        return {self.layer: self.keep}

    def score(self, signals: LayerSignals) -> Tensor:
        """Attention of the prompt's last token, mean over heads."""
        return signals["attention"].mean(dim=1)
