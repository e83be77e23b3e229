"""LLaVA-OneVision: SigLIP without CLS, grids up to nine partitions' worth of tokens, larger ones shrunk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import LlavaOnevisionForConditionalGeneration, SiglipVisionModel

from hired_eval.dropping import PackedTokens, PartitionLayout
from hired_eval.models.families.llava_next import LlavaNext, picture_sizes, split_pictures
from hired_eval.models.family import Picture

if TYPE_CHECKING:
    from hired_eval.models.visual_tokens import VisualTokens

SHRINKS_ABOVE = 1.1
"""How much longer the sides of a grid may be than those of the largest one that is not shrunk."""


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision (Li et al., 2024).

    A picture that is alone in its prompt is divided like one of LLaVA-Next. Of a larger grid than
    `anyres_max_9` allows, the stock model shrinks the projected tokens (bilinear). A method that drops tokens
    chooses among those before the shrink, and its budget is a share of those behind it. A picture among
    several is one partition with a newline token.
    """

    stock: ClassVar = LlavaOnevisionForConditionalGeneration
    tower_class: ClassVar = SiglipVisionModel
    class_token: ClassVar = False
    vision_arguments: ClassVar[tuple[str, ...]] = (
        "pixel_values", "image_sizes", "batch_num_images", "vision_aspect_ratio", "vision_feature_layer",
        "vision_feature_select_strategy",
    )  # fmt: skip

    def __init__(
        self, model: Any, arguments: Mapping[str, Any] | None = None, image_processor: Any = None
    ) -> None:
        super().__init__(model, arguments, image_processor)
        allowed = (arguments or {}).get("vision_aspect_ratio") or self.config.vision_aspect_ratio
        self.most = int(allowed.removeprefix("anyres_max_"))

    def layout(self, image_size: tuple[int, int], among: int = 1) -> PartitionLayout:
        """The full-image and the grid of best resolution, shrunk where it has too many tokens."""
        layout = super().layout(image_size)
        if among > 1:
            return replace(layout, rows=0, cols=0, newline_behind=layout.newlines)
        top, bottom, left, right = layout.unpadded()
        ratio = math.sqrt((bottom - top) * (right - left) / (self.most * layout.tokens_per_partition))
        if ratio <= SHRINKS_ABOVE:
            return layout
        return replace(layout, shrunk=(int((bottom - top) // ratio), int((right - left) // ratio)))

    def pictures(self, arguments: Mapping[str, Any]) -> list[Picture]:
        """Each picture's partitions, by its size and by how many its prompt has.

        Raises:
            UserError: no sizes, or sizes that do not fit the pixels.
        """
        sizes = picture_sizes(self, arguments)
        counts = arguments.get("batch_num_images")
        numbers = [1] * len(sizes) if counts is None else [int(n) for n in counts for _ in range(int(n))]
        layouts = [self.layout(size, number) for size, number in zip(sizes, numbers, strict=True)]
        return split_pictures(arguments["pixel_values"], layouts)

    def read(self, image: Image.Image, image_processor: Any, among: int = 1) -> Picture:
        """Divided where it is alone in its prompt, and whole among several."""
        prompt = [image] * min(among, 2)
        return self.pictures(image_processor(images=[prompt], return_tensors="pt"))[0]

    def find_places(self, image: VisualTokens) -> Tensor:
        """As in every family; the tokens of a shrunk grid are all of those that the stock model gives."""
        layout, packed = image.layout, image.packed
        if layout.shrunk is None or not bool((packed.index < 0).any()):
            return super().find_places(image)
        (rows, cols), first = layout.shrunk, layout.tokens_per_partition
        if len(packed.index) != first + rows * cols:
            return super().find_places(image)
        whole = torch.arange(layout.stock_tokens, device=packed.index.device)
        newline = (whole >= first) & ((whole - first) % (cols + 1) == cols)
        return whole if packed.newlines_after.any() else whole[~newline]

    def embed(
        self, packed: PackedTokens, layout: PartitionLayout, added: Tensor | None = None
    ) -> tuple[PackedTokens, Tensor]:
        """As in every family; a whole grid that is too large is shrunk as the stock model does it."""
        top, bottom, left, right = layout.unpadded()
        everything = layout.tokens_per_partition + (bottom - top) * (right - left)
        if layout.shrunk is None or len(packed.features) < everything:
            return super().embed(packed, layout)
        embeddings = self.model.model.multi_modal_projector(packed.features)
        rows, cols = layout.shrunk
        first = layout.tokens_per_partition

        def shrink(tokens: Tensor) -> Tensor:
            grid = tokens[first:].view(1, bottom - top, right - left, -1).permute(0, 3, 1, 2)
            small = interpolate(grid, [rows, cols], mode="bilinear")[0].flatten(1).T
            return torch.cat([tokens[:first], small])

        made_of_many = packed.index.new_full((rows * cols,), -1)
        newlines = packed.newlines_after.new_zeros(first + rows * cols)
        if packed.length > everything:
            newlines[first + cols - 1 :: cols] = 1
        small = PackedTokens(
            shrink(packed.features),
            torch.cat([packed.partition[:first], made_of_many + 2]),
            torch.cat([packed.index[:first], made_of_many]),
            newlines,
            len(newlines) + rows * (packed.length > everything),
        )
        return small, self.put_newlines(small, shrink(embeddings))
