"""LLaVA-1.5 and ShareGPT4V: CLIP with CLS, one square partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from hired_eval.dropping import PartitionLayout
from hired_eval.errors import UserError
from hired_eval.models.family import Family, Picture


class Llava(Family):
    """LLaVA-1.5 (Liu et al., CVPR 2024)."""

    stock: ClassVar = LlavaForConditionalGeneration
    tower_class: ClassVar = CLIPVisionModel
    class_token: ClassVar = True
    vision_arguments: ClassVar[tuple[str, ...]] = (
        "pixel_values", "image_sizes", "vision_feature_layer", "vision_feature_select_strategy",
    )  # fmt: skip

    def layout(self, image_size: tuple[int, int], among: int = 1) -> PartitionLayout:
        """One partition, whatever the picture's shape."""
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        return PartitionLayout(0, 0, (side, side), image_size)

    def pictures(self, arguments: Mapping[str, Any]) -> list[Picture]:
        """One partition a picture.

        Raises:
            UserError: sizes, which belong to LLaVA-Next.
        """
        if arguments.get("image_sizes") is not None:
            raise UserError("image_sizes belongs to LLaVA-Next; leave it out")
        return [
            Picture(pixels[None], self.layout((int(pixels.shape[-2]), int(pixels.shape[-1]))))
            for pixels in arguments["pixel_values"]
        ]
