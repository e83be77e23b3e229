"""From a LLaVA configuration and an image's size to its partition layout."""

from __future__ import annotations

from transformers import PretrainedConfig
from transformers.image_processing_utils import select_best_resolution

from hired_eval.dropping import PartitionLayout


def layout_of(config: PretrainedConfig, image_size: tuple[int, int]) -> PartitionLayout:
    """The partition layout of an image.

    Args:
        config: of LLaVA-Next (sub-image grid by best resolution) or LLaVA (one partition).
        image_size: original (height, width) in pixels.
    """
    partition = config.vision_config.image_size
    side = partition // config.vision_config.patch_size
    if config.model_type != "llava_next":
        return PartitionLayout(0, 0, side, image_size)
    height, width = select_best_resolution(image_size, config.image_grid_pinpoints)
    return PartitionLayout(height // partition, width // partition, side, image_size)


def stock_token_count(config: PretrainedConfig, image_size: tuple[int, int]) -> int:
    """Visual tokens that the stock model gives to the LLM for an image, newline tokens included."""
    return layout_of(config, image_size).stock_tokens
