"""LLaVA-Next: CLIP with CLS, the full-image and a grid of sub-images, padding removed, newline tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from transformers import LlavaNextForConditionalGeneration
from transformers.image_processing_utils import select_best_resolution

from hired_eval.dropping import PartitionLayout
from hired_eval.errors import UserError
from hired_eval.models.families.llava import Llava
from hired_eval.models.family import Family, Picture


class LlavaNext(Llava):
    """LLaVA-Next (Liu et al., 2024): the grid of sub-images that fits the picture best."""

    stock: ClassVar = LlavaNextForConditionalGeneration

    @classmethod
    def fix_grid(cls, config: Any, image_processor: Any) -> int | None:
        """Two by two sub-images, 672 x 672 pixels with CLIP-L/14-336; no unpadding, and no newline tokens."""
        side = 2 * config.vision_config.image_size
        config.image_grid_pinpoints = image_processor.image_grid_pinpoints = [[side, side]]
        config.fixed_grid = True
        return None

    def layout(self, image_size: tuple[int, int], among: int = 1) -> PartitionLayout:
        """The full-image and the grid of best resolution."""
        partition = self.config.vision_config.image_size
        height, width = select_best_resolution(image_size, self.config.image_grid_pinpoints)
        fixed = getattr(self.config, "fixed_grid", False)
        return replace(
            super().layout(image_size),
            rows=height // partition,
            cols=width // partition,
            newlines=not fixed,
            unpads=not fixed,
        )

    def pictures(self, arguments: Mapping[str, Any]) -> list[Picture]:
        """Each picture's partitions, by its size.

        Raises:
            UserError: no sizes, or sizes that do not fit the pixels.
        """
        layouts = [self.layout(size) for size in picture_sizes(self, arguments)]
        return split_pictures(arguments["pixel_values"], layouts)


def picture_sizes(family: Family, arguments: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(height, width) of each picture of a call.

    Raises:
        UserError: there are none.
    """
    if arguments.get("image_sizes") is None:
        raise UserError(
            f"{type(family).__name__} needs image_sizes with pixel_values; pass all that its processor made"
        )
    return [(int(height), int(width)) for height, width in arguments["image_sizes"]]


def split_pictures(pixel_values: Any, layouts: list[PartitionLayout]) -> list[Picture]:
    """Pixels of a call, divided among its pictures.

    Args:
        pixel_values: (pictures, P', 3, S, S), P' >= P where a batch was padded; or (sum of P, 3, S, S).
        layouts: of each picture.

    Raises:
        UserError: another number of pictures or partitions.
    """
    partitions = [layout.partitions for layout in layouts]
    if pixel_values.dim() == 4:
        fits = sum(partitions) == len(pixel_values)
    else:
        fits = len(layouts) == len(pixel_values) and max(partitions) <= pixel_values.shape[1]
    if not fits:
        raise UserError(
            f"pixel_values of shape {tuple(pixel_values.shape)} are not those of {len(layouts)} images of "
            f"{partitions} partitions, as image_sizes has it; pass both as the processor made them"
        )
    pixels = pixel_values.split(partitions) if pixel_values.dim() == 4 else pixel_values
    return [Picture(p[: layout.partitions], layout) for p, layout in zip(pixels, layouts, strict=True)]
