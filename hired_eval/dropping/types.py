"""The core types that every dropping method works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hired_eval.errors import UserError


@dataclass(frozen=True)
class VisionEncoding:
    """One image through the vision tower: P partitions, N patches each, C channels.

    Attributes:
        features: (P, N, C) output of the feature layer, before the projector, CLS removed.
        cls_attention: layer -> (P, heads, N): the CLS row of the attention, softmax over CLS and
            patches, the CLS column removed afterwards (so a row sums to less than 1).
        keys: (P, 1 + N, C) key projections of the vision tower's last layer, CLS first;
            only where a method asks for them.
        cls_query: (P, C) query projection of CLS in the last layer; likewise.
    """

    features: Tensor
    cls_attention: Mapping[int, Tensor]
    keys: Tensor | None = None
    cls_query: Tensor | None = None

    def attention_at(self, layer: int | None) -> Tensor:
        """CLS attention (P, heads, N) of `layer`, None meaning the highest recorded one.

        Raises:
            UserError: the layer was not recorded, or its attention holds NaN.
        """
        if not self.cls_attention:
            raise UserError("this dropping method needs CLS-attention, and the encoding has none")
        layer = max(self.cls_attention) if layer is None else layer
        if layer not in self.cls_attention:
            known = ", ".join(str(i) for i in sorted(self.cls_attention))
            raise UserError(f"CLS-attention of layer {layer} is not there; recorded layers: {known}")
        attention = self.cls_attention[layer]
        if bool(torch.isnan(attention).any()):
            raise UserError(
                f"CLS-attention of layer {layer} holds NaN; try another dtype, e.g. model.dtype=float32"
            )
        return attention


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
