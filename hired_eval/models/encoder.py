"""The vision side: the tower up to the feature layer, CLS rows, the projector on kept tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
)

from hired_eval.dropping import PackedTokens, PartitionLayout, TokenDropper, VisionEncoding
from hired_eval.errors import UserError
from hired_eval.models.geometry import layout_of

LLAVA = LlavaNextForConditionalGeneration | LlavaForConditionalGeneration


@dataclass(frozen=True)
class TokenCounts:
    """Visual tokens of one image.

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
    """What the language model gets for one image.

    Attributes:
        embeddings: (kept, D) after the projector, newline tokens in place.
        counts: kept, allowed and full token counts.
        packed: the same tokens before the projector, with their places in the partitions.
        layout: geometry of the image.
    """

    embeddings: Tensor
    counts: TokenCounts
    packed: PackedTokens
    layout: PartitionLayout


def cls_attention(query: Tensor, keys: Tensor, heads: int) -> Tensor:
    """The CLS row of multi-head self-attention, without the other rows.

    softmax(q_cls K^T / sqrt(d)) per head over CLS and patches (HiRED, section on CLS-attention).

    Args:
        query: (P, C) query projection of CLS.
        keys: (P, 1 + N, C) key projections, CLS first.
        heads: number of heads; d = C / heads.

    Returns:
        (P, heads, N) float32, the CLS column removed.
    """
    partitions, length, channels = keys.shape
    per_head = channels // heads
    q = query.float().view(partitions, 1, heads, per_head) * per_head**-0.5
    k = keys.float().view(partitions, length, heads, per_head)
    # a product and a sum read the keys where they are; a matrix product would copy them head by head first
    logits: Tensor = (k * q).sum(dim=-1).transpose(1, 2)
    return logits.softmax(dim=-1)[..., 1:]


class VisionEncoder:
    """The vision tower and projector of a stock LLaVA model, seen by a dropping method.

    Args:
        model: stock LLaVA or LLaVA-Next.
        feature_layer: in place of the configuration's `vision_feature_layer`; None for that.
        select_strategy: in place of its `vision_feature_select_strategy`; None for that.

    Raises:
        UserError: the model is not LLaVA or LLaVA-Next, its vision tower has no CLS token, or its features
            come from several layers.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        feature_layer: int | list[int] | None = None,
        select_strategy: str | None = None,
    ) -> None:
        if not isinstance(model, LLAVA):
            if any(isinstance(module, LLAVA) for module in model.modules()):
                raise UserError(
                    f"{type(model).__name__} holds a LLaVA model; apply token dropping to that one, then "
                    f"call the {type(model).__name__}"
                )
            raise UserError(
                f"{type(model).__name__} is not a LLaVA model; token dropping works on "
                "LlavaNextForConditionalGeneration and LlavaForConditionalGeneration"
            )
        self.model: PreTrainedModel = model
        self.config = model.config
        self.tower: Any = model.model.vision_tower
        if not isinstance(self.tower, CLIPVisionModel):
            raise UserError(
                f"the vision tower is {type(self.tower).__name__}, and token dropping needs the CLS token "
                "of a CLIP vision tower"
            )
        layer = self.config.vision_feature_layer if feature_layer is None else feature_layer
        if not isinstance(layer, int):
            raise UserError(
                f"vision_feature_layer={layer}: features of several layers are "
                "not supported; set one layer, e.g. model.feature_layer=-2"
            )
        if (select_strategy or self.config.vision_feature_select_strategy) != "default":
            raise UserError("only vision_feature_select_strategy='default' (CLS removed) is supported")
        layers = len(self.tower.encoder.layers)
        self.feature_layer = layers + layer if layer < 0 else layer - 1
        if not 0 <= self.feature_layer < layers:
            raise UserError(
                f"vision_feature_layer={layer} is outside the vision tower, which has {layers} layers"
            )

    def layout(self, image_size: tuple[int, int]) -> PartitionLayout:
        """The partition layout of an image of `image_size` (height, width)."""
        return layout_of(self.config, image_size)

    def encode(
        self, pixel_values: Tensor, dropper: TokenDropper, *, also: frozenset[int] = frozenset()
    ) -> VisionEncoding:
        """One image through the vision tower, no deeper than the method needs.

        Args:
            pixel_values: (P, 3, S, S) partitions of one image, the full-image first.
            dropper: says which layers' CLS-attention and whether keys are recorded.
            also: further layers whose CLS-attention is recorded; the feature layer's is, wherever the method
                asks for any, since None as a layer means that one.

        Raises:
            UserError: the method asks for a layer that the vision tower lacks.
        """
        layers = self.tower.encoder.layers
        attention_layers = self.layers_read(dropper) | also
        wanted = set(attention_layers)
        last = len(layers) - 1
        for layer in wanted:
            if not 0 <= layer <= last:
                raise UserError(
                    f"{type(dropper).__name__} asks for CLS-attention of layer {layer}, and the vision tower "
                    f"has layers 0 to {last}"
                )
        key_layer = last if dropper.key_layer == "last" else self.feature_layer
        if dropper.needs_keys:
            wanted.add(key_layer)
        heads = self.tower.config.num_attention_heads
        projections = {
            i: _Projections(heads, row=i in attention_layers, keep=dropper.needs_keys and i == key_layer)
            for i in sorted(wanted)
        }
        with _recorded({layers[i]: projection for i, projection in projections.items()}):
            features = self._run(pixel_values, max(wanted, default=0))
        # a device map may put the tower's layers on several devices
        here = features.device
        source = projections[key_layer] if dropper.needs_keys else None
        return VisionEncoding(
            # contiguous, as an encoding from the cache is: a method may ask for a view
            features=features.contiguous(),
            cls_attention={
                i: projections[i].cls_attention.to(here).contiguous() for i in sorted(attention_layers)
            },
            keys=source.keys.to(here).contiguous() if source else None,
            cls_query=source.query.to(here) if source else None,
            feature_layer=self.feature_layer,
        )

    def layers_read(self, dropper: TokenDropper) -> frozenset[int]:
        """Layers whose CLS-attention a method gets: those it asks for, and with them the feature layer."""
        asked = dropper.attention_layers(self.feature_layer)
        return asked | {self.feature_layer} if asked else asked

    def _run(self, pixel_values: Tensor, deepest_projection: int) -> Tensor:
        """Features (P, N, C) of the feature layer; layers behind it run only as far as a projection needs."""
        hidden = self.tower.pre_layrnorm(self.tower.embeddings(pixel_values))
        features: Tensor = hidden
        layers = self.tower.encoder.layers
        for i in range(max(self.feature_layer, deepest_projection) + 1):
            if i > self.feature_layer and i == deepest_projection:
                normed = layers[i].layer_norm1(hidden)
                layers[i].self_attn.q_proj(normed[:, :1])
                layers[i].self_attn.k_proj(normed)
                break
            hidden = layers[i](hidden, None)
            if i == self.feature_layer:
                features = hidden[:, 1:]
        return features

    def visual_tokens(
        self, pixel_values: Tensor, image_size: tuple[int, int], dropper: TokenDropper
    ) -> VisualTokens:
        """Encode one image, drop tokens, and project the kept ones.

        Args:
            pixel_values: (P', 3, S, S) partitions of the image, P' >= P where a batch was padded.
            image_size: original (height, width).
            dropper: the dropping method.

        Raises:
            UserError: see `encode`.
            RuntimeError: the method kept more tokens than its budget allows.
        """
        return self.select(
            self.encode(self.partitions(pixel_values, image_size), dropper), image_size, dropper
        )

    def partitions(self, pixel_values: Tensor, image_size: tuple[int, int]) -> Tensor:
        """(P, 3, S, S) partitions of an image among (P', 3, S, S), on the tower's device, in its dtype."""
        count = self.layout(image_size).partitions
        return pixel_values[:count].to(self.tower.device, self.tower.dtype)

    def select(
        self, encoding: VisionEncoding, image_size: tuple[int, int], dropper: TokenDropper
    ) -> VisualTokens:
        """Drop tokens of an encoded image, and project the kept ones.

        Args:
            encoding: holds what the method reads.
            image_size: original (height, width).
            dropper: the dropping method.

        Raises:
            UserError: the encoding cannot be used.
            RuntimeError: the method kept more tokens than its budget allows.
        """
        layout = self.layout(image_size)
        kept = dropper.drop(encoding, layout)
        packed = dropper.pack(kept, layout)
        counts = TokenCounts(packed.length, dropper.allowed(layout), layout.stock_tokens)
        if counts.allowed is not None and counts.kept > counts.allowed:
            raise RuntimeError(f"{dropper} kept {counts.kept} tokens where {counts.allowed} are allowed")
        return VisualTokens(self._project(packed), counts, packed, layout)

    def _project(self, packed: PackedTokens) -> Tensor:
        """(kept, D): the projector on the kept tokens alone, newline tokens put in."""
        embeddings: Tensor = self.model.model.multi_modal_projector(packed.features)
        newlines = packed.length - len(embeddings)
        if newlines == 0:
            return embeddings
        places = torch.arange(len(embeddings), device=embeddings.device)
        behind = packed.newlines_after.to(places.device)
        places = places + torch.cumsum(behind, 0) - behind
        newline: Tensor = self.model.model.image_newline.to(embeddings)
        with_newlines = newline.repeat(len(embeddings) + newlines, 1)
        return with_newlines.index_copy(0, places, embeddings)


class _Projections:
    """What a layer's projections give while the vision tower runs: its CLS row, or its keys and CLS query.

    Args:
        heads: number of attention heads.
        row: the CLS row is wanted; it is made as soon as the keys are there, so that they need not stay in
            memory.
        keep: keys and CLS query are wanted.
    """

    query: Tensor
    keys: Tensor
    cls_attention: Tensor

    def __init__(self, heads: int, *, row: bool, keep: bool) -> None:
        self.heads, self.row, self.keep = heads, row, keep

    def record_query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of the query projection, which runs before the key projection."""
        # a copy, so that the other rows need not stay in memory
        self.query = output[:, 0].detach().clone()

    def record_keys(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of the key projection."""
        # without gradients: a layer that is run again for them is run without hooks, and must be the same
        output = output.detach()
        if self.row:
            self.cls_attention = cls_attention(self.query, output, self.heads)
        if self.keep:
            self.keys = output


@contextmanager
def _recorded(layers: dict[Any, _Projections]) -> Iterator[None]:
    """Record the projections of layers of the vision tower while the block runs."""
    handles = []
    try:
        for layer, projections in layers.items():
            handles.append(layer.self_attn.q_proj.register_forward_hook(projections.record_query))
            handles.append(layer.self_attn.k_proj.register_forward_hook(projections.record_keys))
        yield
    finally:
        for handle in handles:
            handle.remove()
