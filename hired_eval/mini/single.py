"""The bundled checkpoint as a single-partition model, standing in for LLaVA-1.5."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, CLIPImageProcessor, LlavaConfig, LlavaNextConfig, LlavaProcessor


def write_single_partition(source: Path, target: Path) -> None:
    """Write the weights of a LlavaNextForConditionalGeneration as a LlavaForConditionalGeneration.

    Every tensor but the newline embedding, which a single-partition model has no use for, stays as it is.
    The picture is squashed to a square, as LLaVA-Next does with its full-image.

    Args:
        source: folder of the LLaVA-Next checkpoint.
        target: existing folder to write to.
    """
    tensors = load_file(source / "model.safetensors")
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith("image_newline")}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    old = LlavaNextConfig.from_pretrained(source)
    config = LlavaConfig(
        vision_config=old.vision_config,
        text_config=old.text_config,
        image_token_index=old.image_token_index,
        image_seq_length=old.image_seq_length,
        vision_feature_layer=old.vision_feature_layer,
        vision_feature_select_strategy=old.vision_feature_select_strategy,
        projector_hidden_act=old.projector_hidden_act,
        tie_word_embeddings=True,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = torch.bfloat16
    config.save_pretrained(target)
    processor = AutoProcessor.from_pretrained(source)
    side = old.vision_config.image_size
    size = {"height": side, "width": side}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=processor.tokenizer,
        patch_size=old.vision_config.patch_size,
        vision_feature_select_strategy=old.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=processor.chat_template,
    ).save_pretrained(target)
    (target / "generation_config.json").write_bytes((source / "generation_config.json").read_bytes())
