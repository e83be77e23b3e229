"""The core types that every dropping method works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from hired_eval.errors import UserError

Signal = Literal["cls_attention", "received_attention", "keys"]
"""What a stage may read of the vision tower in addition to features: CLS rows, the attention that each token
receives, or keys and the CLS query."""


@dataclass(frozen=True)
class VisionEncoding:
    """One image through the vision tower: P partitions, N patches each, C channels.

    Attributes:
        features: (P, N, C) output of the feature layer, before the projector, CLS removed.
        cls_attention: layer -> (P, heads, N): the CLS row of the attention, softmax over CLS and
            patches, the CLS column removed afterwards (so a row sums to less than 1).
        keys: (P, 1 + N, C) key projections, CLS first, of the layer that the method names (`key_layer`);
            only where a method asks for them.
        cls_query: (P, C) query projection of CLS in that layer; likewise.
        feature_layer: the layer whose output feeds the projector, counted from 0: what None as a layer means.
        received_attention: layer -> (P, N): the attention that each patch receives, mean over heads and over
            all queries, that of CLS included where there is one.
        added: (P, N, k * D) what the language model adds to each token behind its first k layers, with which
            methods have nothing to do (DeepStack of Qwen3-VL); None for nothing.
    """

    features: Tensor
    cls_attention: Mapping[int, Tensor]
    keys: Tensor | None = None
    cls_query: Tensor | None = None
    feature_layer: int | None = None
    received_attention: Mapping[int, Tensor] = field(default_factory=dict)
    added: Tensor | None = None

    def attention_at(self, layer: int | None) -> Tensor:
        """CLS attention (P, heads, N) of `layer`, None meaning the feature layer.

        In an encoding made by hand that does not name its feature layer, it is the highest recorded one.

        Raises:
            UserError: the layer was not recorded, or its attention holds NaN.
        """
        return self._recorded("CLS-attention", self.cls_attention, layer)

    def received_at(self, layer: int | None) -> Tensor:
        """Attention received (P, N) in `layer`, None as in `attention_at`.

        Raises:
            UserError: the layer was not recorded, or its attention holds NaN.
        """
        return self._recorded("attention received", self.received_attention, layer)

    def _recorded(self, what: str, recorded: Mapping[int, Tensor], layer: int | None) -> Tensor:
        if not recorded:
            raise UserError(f"this dropping method needs {what}, and the encoding has none")
        if layer is None:
            layer = max(recorded) if self.feature_layer is None else self.feature_layer
        if layer not in recorded:
            known = ", ".join(str(i) for i in sorted(recorded))
            raise UserError(f"{what} of layer {layer} was not recorded; recorded layers: {known}")
        refuse_nan(f"{what} of layer {layer}", recorded[layer])
        return recorded[layer]

    def keys_and_query(self) -> tuple[Tensor, Tensor]:
        """Keys (P, 1 + N, C) and CLS query (P, C).

        Raises:
            UserError: they were not recorded.
        """
        if self.keys is None or self.cls_query is None:
            raise UserError("this dropping method needs keys and the CLS query, and the encoding lacks them")
        return self.keys, self.cls_query


def refuse_nan(what: str, values: Tensor) -> None:
    """Stop where numbers that decide what is kept are not numbers.

    Raises:
        UserError: naming what holds NaN.
    """
    if bool(torch.isnan(values).any()):
        raise UserError(f"{what} holds NaN; try another dtype, e.g. model.dtype=float32")


@dataclass(frozen=True)
class KeptTokens:
    """What a method keeps, per partition, the full-image first.

    Attributes:
        indices: (n_i,) int64 token positions in partition i, row-major; for a merged token the position
            of its centre; -1 for a token made of many.
        features: (n_i, C), in the order of `indices`.
    """

    indices: list[Tensor]
    features: list[Tensor]
