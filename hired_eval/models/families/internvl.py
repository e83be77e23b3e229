"""InternVL: InternViT with CLS, tiles and then a thumbnail, 2 x 2 patches a token, no newline tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import InternVLForConditionalGeneration, InternVLVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from hired_eval.dropping import PartitionLayout
from hired_eval.errors import UserError
from hired_eval.models.family import Family, Picture
from hired_eval.models.signals import Projections

LEAST_TILES, MOST_TILES = 1, 12
"""Of the stock image processor."""


class InternVL(Family):
    """InternVL 3 and 3.5 in the layout of transformers (Zhu et al. 2025).

    The picture is stretched to the grid of tiles that has its shape, so that there is no padding. The
    thumbnail is the full-image; a picture of one tile has no other. The projector gets 2 x 2 patches as one
    token.
    """

    stock: ClassVar = InternVLForConditionalGeneration
    tower_class: ClassVar = InternVLVisionModel
    class_token: ClassVar = True
    vision_arguments: ClassVar[tuple[str, ...]] = (
        "pixel_values", "image_sizes", "vision_feature_layer", "vision_feature_select_strategy",
    )  # fmt: skip
    processor_options: ClassVar = {"crop_to_patches": True}

    @classmethod
    def fix_grid(cls, config: Any, image_processor: Any) -> int | None:
        """Two by two tiles and the thumbnail, 896 x 896 pixels with tiles of 448."""
        image_processor.min_patches = image_processor.max_patches = 4
        return 2 * int(config.vision_config.image_size[0])

    @property
    def layers(self) -> nn.ModuleList:
        """The vision tower's layers."""
        layers: nn.ModuleList = self.tower.encoder.layer
        return layers

    def watch(self, layer: int, projections: Projections) -> list[RemovableHandle]:
        """Behind the norms of queries and keys, which larger towers have."""
        attention: Any = self.layers[layer].attention
        return [
            attention.q_norm.register_forward_hook(projections.record_query),
            attention.k_norm.register_forward_hook(projections.record_keys),
        ]

    @property
    def merge(self) -> int:
        """Patches along each side of a token."""
        return int(1 / self.config.downsample_ratio)

    @property
    def tile(self) -> tuple[int, int]:
        """(rows, columns) of tokens of a tile."""
        vision = self.config.vision_config
        rows, cols = (
            size // patch // self.merge
            for size, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        return rows, cols

    def group(self, patches: Tensor) -> Tensor:
        """The square of patches of each token, in the order of the stock model's pixel shuffle."""
        (rows, cols), side = self.tile, self.merge
        squares = patches.reshape(len(patches), rows, side, cols, side, *patches.shape[2:])
        return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def layout(self, image_size: tuple[int, int], among: int = 1) -> PartitionLayout:
        """The grid of tiles that the stock image processor chooses."""
        processor = self.image_processor
        least = getattr(processor, "min_patches", LEAST_TILES)
        most = getattr(processor, "max_patches", MOST_TILES)
        size = tuple(self.config.vision_config.image_size)
        cols, rows = get_optimal_tiled_canvas(image_size, size, least, most)
        return self._layout_of(rows, cols)

    def _layout_of(self, rows: int, cols: int, *, grid_known: bool = True) -> PartitionLayout:
        height, width = self.config.vision_config.image_size
        # the picture as it is stretched
        stretched = height * rows, width * cols
        single = rows * cols == 1
        return PartitionLayout(
            0 if single else rows,
            0 if single else cols,
            self.tile,
            stretched,
            full_image_last=not single,
            newlines=False,
            grid_known=grid_known,
        )

    def pictures(self, arguments: Mapping[str, Any]) -> list[Picture]:
        """Each picture's tiles, by the placeholders that it has in the prompt.

        The stock processor tells neither sizes nor grids. Where `image_sizes` does not, as (height, width) of
        each picture, the grid is not known.

        Raises:
            UserError: sizes or placeholders do not fit the pixels.
        """
        pixels = arguments["pixel_values"]
        counts = self._tiles(arguments)
        if sum(counts) != len(pixels):
            raise UserError(
                f"pixel_values hold {len(pixels)} tiles, and the prompt has places for {sum(counts)}; make "
                "inputs with the model's own processor"
            )
        sizes = arguments.get("image_sizes")
        if sizes is None:
            layouts = [self._layout_of(1, max(1, n - 1), grid_known=n == 1) for n in counts]
        else:
            layouts = [self.layout((int(height), int(width))) for height, width in sizes]
        found = [layout.partitions for layout in layouts]
        if found != counts:
            raise UserError(
                f"image_sizes make pictures of {found} tiles, and the prompt has pictures of {counts}; give "
                "(height, width) of each, or leave image_sizes out"
            )
        return [Picture(p, layout) for p, layout in zip(pixels.split(counts), layouts, strict=True)]

    def _tiles(self, arguments: Mapping[str, Any]) -> list[int]:
        """Tiles of each picture, the thumbnail included: told by the image processor, or by the prompt."""
        told = arguments.get("num_patches")
        if told is not None:
            return [int(n) for n in told]
        ids = arguments.get("input_ids")
        shown = (ids if ids is not None else arguments["inputs"]) == self.config.image_token_id
        begins = shown.clone()
        begins[:, 1:] &= ~shown[:, :-1]
        # pictures are numbered from 1 in reading order
        lengths: list[int] = torch.bincount(begins.flatten().cumsum(0)[shown.flatten()])[1:].tolist()
        tokens = self.tile[0] * self.tile[1]
        uneven = [n for n in lengths if n % tokens]
        if uneven:
            raise UserError(
                f"a picture has {uneven[0]} placeholders in the prompt, and each of its tiles needs "
                f"{tokens}; make inputs with the model's own processor"
            )
        return [n // tokens for n in lengths]

    def read(self, image: Image.Image, image_processor: Any, among: int = 1) -> Picture:
        """With its size, so that the grid is known."""
        made = image_processor(images=[image], return_tensors="pt", **self.processor_options)
        return self.pictures({**made, "image_sizes": [(image.height, image.width)]})[0]

    def inputs(self, embeddings: Sequence[Tensor]) -> dict[str, Any]:
        """One tensor for all pictures of a batch."""
        if not embeddings:
            return {}
        output = BaseModelOutputWithPooling(pooler_output=torch.cat(list(embeddings))[None])
        return {"mm_encoder_outputs": {"image": output}}

    def placeholder(self, processor: Any) -> str:
        """The image token between its two marks."""
        return f"{processor.start_image_token}{processor.image_token}{processor.end_image_token}"
