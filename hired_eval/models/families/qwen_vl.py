"""Qwen2.5-VL and Qwen3-VL: pictures at their own resolution, 2 x 2 patches a token, positions in two axes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLVisionModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.vision_utils import get_vision_window_index

from hired_eval.dropping import PackedTokens, PartitionLayout, VisionEncoding, VisionStage
from hired_eval.errors import UserError
from hired_eval.models.family import Family, Picture
from hired_eval.models.signals import Projections

if TYPE_CHECKING:
    from hired_eval.models.visual_tokens import VisualTokens

NARROWEST = 200
"""How many times a picture's longer side may be its shorter one, for the stock image processor."""


FIXED_SIDE = 1008
"""Pixels on a side of the one grid that papers compare methods on."""


class QwenVL(Family):
    """What Qwen2.5-VL and Qwen3-VL have in common.

    A picture is one partition of rows x columns tokens. The stock image processor scales it to whole tokens,
    and to a number of pixels that its settings allow: tokens and budget are those of the scaled picture.
    Features are the four patches of a token behind the tower's last layer; the merger is the projector.

    Positions in the language model have three planes, time, row and column (M-RoPE). Those of the whole
    prompt are the stock model's, and kept tokens keep theirs. A token made of many has that of the picture's
    middle.
    """

    class_token: ClassVar = False
    vision_arguments: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    vision_modules: ClassVar[tuple[str, ...]] = ("model.visual",)

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return self.model.model.visual

    @property
    def layers(self) -> nn.ModuleList:
        """The vision tower's layers."""
        layers: nn.ModuleList = self.tower.blocks
        return layers

    @property
    def after_layers(self) -> nn.Module:
        """The merger."""
        merger: nn.Module = self.tower.merger
        return merger

    @property
    def merge(self) -> int:
        """Patches on a side of a token."""
        return int(self.tower.spatial_merge_size)

    @classmethod
    def fix_grid(cls, config: Any, image_processor: Any) -> int | None:
        """1008 x 1008 pixels: 36 x 36 tokens of 28 pixels; of 32 pixels 32 x 32, as stock rounds."""
        token = image_processor.merge_size * image_processor.patch_size
        side: int = round(FIXED_SIDE / token) * token
        pixels = {"shortest_edge": side**2, "longest_edge": side**2}
        image_processor.size = dict(image_processor.size) | pixels
        return side

    def find_feature_layer(self, given: Mapping[str, Any]) -> int:
        """The last layer.

        Raises:
            UserError: the configuration names another.
        """
        if getattr(self.config, "vision_feature_layer", None) is not None:
            raise UserError(
                f"{self.stock.__name__} merges the patches behind the last layer of its vision tower; leave "
                "feature_layer out"
            )
        return len(self.layers) - 1

    def layout(self, image_size: tuple[int, int], among: int = 1) -> PartitionLayout:
        """One partition, as large as the image processor scales the picture.

        Raises:
            UserError: one side is more than 200 times the other.
        """
        side, size = self.merge * self.tower.patch_size, self.image_processor.size
        self._refuse_narrow(image_size)
        height, width = smart_resize(*image_size, side, size["shortest_edge"], size["longest_edge"])
        return self._layout(height // side, width // side)

    def read(self, image: Image.Image, image_processor: Any, among: int = 1) -> Picture:
        """As in every family.

        Raises:
            UserError: one side is more than 200 times the other.
        """
        self._refuse_narrow((image.height, image.width))
        return super().read(image, image_processor, among)

    def _refuse_narrow(self, image_size: tuple[int, int]) -> None:
        if max(image_size) > NARROWEST * min(image_size):
            raise UserError(
                f"a picture of {image_size[1]} x {image_size[0]} pixels is too narrow for "
                f"{self.stock.__name__}, which takes sides of 1 to {NARROWEST} at most; leave it out"
            )

    def _layout(self, rows: int, cols: int) -> PartitionLayout:
        # the scaled picture's size: that of the picture itself is not told in a call on the stock model
        side = self.merge * self.tower.patch_size
        return PartitionLayout(0, 0, (rows, cols), (rows * side, cols * side), newlines=False)

    def pictures(self, arguments: Mapping[str, Any]) -> list[Picture]:
        """Each picture's patches, (1, rows, columns, values of four patches).

        Raises:
            UserError: no grid, or another number of patches than it has.
        """
        pixels, grid = arguments["pixel_values"], arguments.get("image_grid_thw")
        if grid is None:
            raise UserError(
                f"{self.stock.__name__} needs image_grid_thw with pixel_values; pass all that its processor "
                "made"
            )
        sizes = [(int(rows) // self.merge, int(cols) // self.merge) for _, rows, cols in grid]
        patches = [rows * cols * self.merge**2 for rows, cols in sizes]
        if sum(patches) != len(pixels):
            raise UserError(
                f"pixel_values of {len(pixels)} patches are not those of {len(sizes)} images of {patches} "
                "patches, as image_grid_thw has it; pass both as the processor made them"
            )
        return [
            Picture(part.reshape(1, *size, -1), self._layout(*size))
            for part, size in zip(pixels.split(patches), sizes, strict=True)
        ]

    def placeholder(self, processor: Any) -> str:
        """The image token between the marks of a picture's start and end."""
        return f"<|vision_start|>{processor.image_token}<|vision_end|>"

    def run(self, pixels: Tensor) -> Any:
        """The tower's own forward on S pictures of one shape, (S, rows, columns, values of four patches)."""
        count, rows, cols = pixels.shape[:3]
        grid = torch.tensor([[1, rows * self.merge, cols * self.merge]] * count, device=pixels.device)
        return self.tower(pixels.reshape(count * rows * cols * self.merge**2, -1), grid_thw=grid)

    def group(self, patches: Tensor) -> Tensor:
        """The four patches of a token follow each other in the tower."""
        count, tokens = len(patches), patches.shape[1] // self.merge**2
        return patches.reshape(count, tokens, self.merge**2, *patches.shape[2:])

    def watch(self, layer: int, projections: Projections) -> list[RemovableHandle]:
        """Hooks on a layer that projects queries, keys and values at once, and rotates the first two."""
        attention: Any = self.layers[layer].attn
        given: dict[str, Any] = {}

        def remember(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            given.update(kwargs)

        def record(module: nn.Module, args: Any, output: Tensor) -> None:
            rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision
            query, key, _ = output.view(len(output), 3, self.heads, -1).unbind(1)
            pictures = len(given["cu_seqlens"]) - 1
            query, key = (
                rotated.reshape(pictures, -1, output.shape[1] // 3)
                for rotated in rotate(query, key, *given["position_embeddings"])
            )
            projections.record_query(module, args, query)
            projections.record_keys(module, args, key)

        return [
            attention.register_forward_pre_hook(remember, with_kwargs=True),
            attention.qkv.register_forward_hook(record),
        ]

    def embed(
        self, packed: PackedTokens, layout: PartitionLayout, added: Tensor | None = None
    ) -> tuple[PackedTokens, Tensor]:
        """Kept tokens through the merger."""
        patches = packed.features.view(-1, packed.features.shape[-1] // self.merge**2)
        return packed, self.tower.merger(patches)

    def places(self, image: VisualTokens) -> Tensor:
        """(kept,) the placeholders of a picture that its kept tokens have, -1 replaced by the middle."""
        rows, cols = image.layout.tile
        index = image.packed.index
        return torch.where(index < 0, rows // 2 * cols + cols // 2, index)

    def find_positions(self, input_ids: Sequence[int], images: Sequence[VisualTokens]) -> Tensor:
        """(3, n) the stock model's positions of the whole prompt, those of kept tokens taken."""
        whole, columns = self.columns(input_ids, images)
        ids = torch.tensor([whole])
        sizes = [image.layout.tile for image in images]
        grid = torch.tensor([[1, rows * self.merge, cols * self.merge] for rows, cols in sizes])
        shown = (ids == self.config.image_token_id).int()
        positions, _ = self.model.model.get_rope_index(ids, shown, grid)
        taken: Tensor = positions[:, 0].to(columns.device)[:, columns]
        return taken

    def find_given_positions(
        self, input_ids: Tensor, arguments: Mapping[str, Any], cached: int
    ) -> Tensor | None:
        """(3, B, L) as the stock model counts; behind a KV cache the count goes on from where it was.

        Raises:
            UserError: a prompt with images continues a KV cache.
        """
        model, mask = self.model.model, arguments.get("attention_mask")
        kinds, grid = arguments.get("mm_token_type_ids"), arguments.get("image_grid_thw")
        if arguments.get("pixel_values") is not None:
            if cached:
                raise UserError(
                    f"{self.stock.__name__} counts positions by the whole prompt, and this prompt with "
                    "images continues a KV cache; give the whole conversation without it"
                )
            if kinds is None or grid is None:
                return None  # the stock model, too, then counts one by one
            positions: Tensor
            positions, model.rope_deltas = model.get_rope_index(
                input_ids, kinds, image_grid_thw=grid, attention_mask=mask
            )
            return positions
        if model.rope_deltas is None:
            return None
        if mask is None:
            mask = input_ids.new_ones(len(input_ids), cached + input_ids.shape[1])
        counted = (mask.long().cumsum(-1) - 1).clamp(min=0)
        times = len(counted) // len(model.rope_deltas)
        moved: Tensor = model.rope_deltas.repeat_interleave(times, dim=0)
        return (counted + moved)[None].expand(3, -1, -1)

    def count_parts(self, layout: PartitionLayout) -> dict[str, Any]:
        """The merger is as wide in between as the patches that it gets."""
        return {"between": self.merge**2 * self.config.vision_config.hidden_size}


class Qwen25VL(QwenVL):
    """Qwen2.5-VL (Bai et al., 2025): 28 x 28 pixels a token, most of its layers attend within windows."""

    stock: ClassVar = Qwen2_5_VLForConditionalGeneration
    tower_class: ClassVar = Qwen2_5_VisionTransformerPretrainedModel

    def refuse_what_is_not_there(self, stage: VisionStage, also: frozenset[int] = frozenset()) -> None:
        """As in both models, with attention of layers that attend to the whole picture.

        Raises:
            UserError: as in both models, or a layer attends within windows.
        """
        super().refuse_what_is_not_there(stage, also)
        whole = self.tower.fullatt_block_indexes
        for layer in self.received_read(stage):
            if layer not in whole:
                raise UserError(
                    f"layer {layer} of {self.tower_class.__name__} attends within windows, so that attention "
                    "received says nothing of the whole picture; let the method's options name a layer that "
                    f"sees all of it: {', '.join(map(str, whole))}"
                )

    def look(
        self, pixels: Tensor, stages: Sequence[VisionStage], *, also: frozenset[int] = frozenset()
    ) -> Callable[[VisionStage], VisionEncoding]:
        """As in both models; in the tower tokens are in the order of its windows, here in raster order."""
        in_windows, _ = self._windows(*pixels.shape[1:3])
        look = super().look(pixels, stages, also=also)

        def show(stage: VisionStage) -> VisionEncoding:
            found = look(stage)
            order = in_windows.argsort().to(found.features.device)
            received = {layer: values[:, order] for layer, values in found.received_attention.items()}
            keys = None if found.recorded_keys is None else found.keys[:, order]
            features = found.features[:, order]
            return replace(found, features=features, recorded_keys=keys, received_attention=received)

        return show

    def count_parts(self, layout: PartitionLayout) -> dict[str, Any]:
        """Gated feed-forward parts, and windows in most layers."""
        patches = layout.tokens_per_partition * self.merge**2
        _, bounds = self._windows(*layout.tile)
        windows = int(bounds.diff().square().sum())
        pairs = [
            patches**2 if layer in self.tower.fullatt_block_indexes else windows
            for layer in range(len(self.layers))
        ]
        return super().count_parts(layout) | {"matrices": 3, "pairs": tuple(pairs)}

    def _windows(self, rows: int, cols: int) -> tuple[Tensor, Tensor]:
        """The tokens of a picture window after window, and where each window begins among the patches."""
        grid = torch.tensor([[1, rows * self.merge, cols * self.merge]])
        order, bounds = get_vision_window_index(
            grid, self.merge, self.tower.window_size, self.tower.patch_size
        )
        return order, bounds


class Qwen3VL(QwenVL):
    """Qwen3-VL (Qwen team, 2025): 32 x 32 pixels a token, and DeepStack.

    Behind each of its first layers the language model adds to a visual token what mergers of earlier layers
    of the tower make of it. These features go along with their token: those of a merged token's centre, and
    nothing for a token made of many. Embeddings are (n, (1 + k) * D) where k layers add to them.
    """

    stock: ClassVar = Qwen3VLForConditionalGeneration
    tower_class: ClassVar = Qwen3VLVisionModel

    def look(
        self, pixels: Tensor, stages: Sequence[VisionStage], *, also: frozenset[int] = frozenset()
    ) -> Callable[[VisionStage], VisionEncoding]:
        """As in both models, with what the language model adds to each token, (S, N, k * D)."""
        added: list[Tensor] = []
        handles = [
            merger.register_forward_hook(lambda module, args, output: added.append(output))
            for merger in self.tower.deepstack_merger_list
        ]
        try:
            look = super().look(pixels, stages, also=also)
        finally:
            for handle in handles:
                handle.remove()

        def show(stage: VisionStage) -> VisionEncoding:
            found = look(stage)
            by_token = torch.cat([part.to(found.features.device) for part in added], dim=-1)
            return replace(found, added=by_token.view(*found.features.shape[:2], -1))

        return show

    def embed(
        self, packed: PackedTokens, layout: PartitionLayout, added: Tensor | None = None
    ) -> tuple[PackedTokens, Tensor]:
        """Kept tokens through the merger, and what is added to them later beside them."""
        packed, embeddings = super().embed(packed, layout)
        assert added is not None
        own = added[0].index_select(0, packed.index.clamp(min=0))
        own = own.masked_fill((packed.index < 0)[:, None], 0)
        return packed, torch.cat([embeddings, own], dim=-1)

    def count_parts(self, layout: PartitionLayout) -> dict[str, Any]:
        """A merger for each layer that DeepStack takes."""
        return super().count_parts(layout) | {"stacked": len(self.tower.deepstack_merger_list)}

    def inputs(self, embeddings: Sequence[Tensor]) -> dict[str, Any]:
        """The stock model's argument, DeepStack features apart."""
        if not embeddings:
            return {}
        layers = 1 + len(self.tower.deepstack_merger_list)
        first, *added = zip(*(tokens.chunk(layers, dim=-1) for tokens in embeddings), strict=True)
        output = BaseModelOutputWithDeepstackFeatures(pooler_output=first, deepstack_features=added)
        return {"mm_encoder_outputs": {"image": output}}
