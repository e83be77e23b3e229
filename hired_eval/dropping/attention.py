"""Which attention ranks tokens: what CLS pays to them, or what they receive from all tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from hired_eval.dropping.base import VisionStage
from hired_eval.dropping.types import VisionEncoding


@dataclass(frozen=True, kw_only=True)
class RankingByAttention(VisionStage):
    """A stage that ranks tokens by CLS-attention, or by another attention where it is told to."""

    reads: ClassVar = frozenset({"cls_attention"})

    signal: Literal["cls", "received", "auto"] = "cls"
    """CLS-attention; the attention that each token receives, mean over heads and all queries, which needs no
    CLS token; or auto: CLS-attention where there is a CLS token, and elsewhere attention received."""

    def layers_ranking(self, feature_layer: int) -> frozenset[int]:
        """Vision-tower layers whose attention is read, counted from 0.

        Args:
            feature_layer: the layer whose output feeds the projector.
        """
        return frozenset({feature_layer})

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        """The layers, unless attention received is asked for, or the CLS row is made of keys."""
        if self.signal == "received" or "cls_attention" not in self.reads:
            return frozenset()
        return self.layers_ranking(feature_layer)

    def received_layers(self, feature_layer: int) -> frozenset[int]:
        """The layers, unless CLS-attention is asked for."""
        return frozenset() if self.signal == "cls" else self.layers_ranking(feature_layer)

    @property
    def needs_cls(self) -> bool:
        """With signal=cls."""
        return self.signal == "cls"

    @property
    def takes_either(self) -> bool:
        """With signal=auto."""
        return self.signal == "auto"

    def takes_received(self, encoding: VisionEncoding) -> bool:
        """Whether attention received ranks the tokens of this encoding."""
        has_cls = bool(encoding.cls_attention) or encoding.recorded_query is not None
        return self.signal == "received" or (self.signal == "auto" and not has_cls)

    def attention(self, encoding: VisionEncoding, layer: int | None) -> Tensor:
        """Attention (S, heads, N) that tokens get in a layer; attention received is that of one head.

        Raises:
            UserError: the layer was not recorded.
        """
        if self.takes_received(encoding):
            return encoding.received_at(layer)[:, None]
        return encoding.attention_at(layer)
