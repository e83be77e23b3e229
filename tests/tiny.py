"""Tiny random LLaVA models with stock processors, for differential tests against stock transformers."""

from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip import CLIPImageProcessor

SIZE, PATCH = 56, 14
SIDE = SIZE // PATCH
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
QWEN = ("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "max_position_embeddings pad_token_id bos_token_id eos_token_id").split()  # fmt: skip
WORDS = [chr(c) for c in range(33, 127)] + ["Ġ"]


INSIDE: dict[str, dict[str, Any]] = {
    "fastv": {"layer": 1},
    "pyramiddrop": {},
    "sparsevlm": {},
    "dart": {"layer": 1},
}
"""The methods inside the language model, with options for the two layers that it has here."""


def tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    fast.padding_side = "left"
    return fast


def _parts() -> dict[str, Any]:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return {"vision_config": vision, "text_config": text, "image_token_id": 4, "vision_feature_layer": -2}


def _spread(model: torch.nn.Module) -> None:
    """Larger weights than at initialisation, so that answers depend on the picture."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_tokens" not in name:
                parameter.mul_(4)


def llava_next(seed: int = 0) -> tuple[LlavaNextForConditionalGeneration, LlavaNextProcessor]:
    torch.manual_seed(seed)
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(image_grid_pinpoints=PINPOINTS, **_parts())
    ).eval()
    _spread(model)
    images = LlavaNextImageProcessor(
        size={"height": SIZE, "width": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_grid_pinpoints=PINPOINTS,
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return model, processor


def llava(seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(LlavaConfig(**_parts())).eval()
    _spread(model)
    images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = LlavaProcessor(
        images,
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return model, processor


def llava_onevision(seed: int = 0) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    """With grids of up to 3 x 3 partitions, those of more than four partitions' worth of tokens shrunk."""
    torch.manual_seed(seed)
    pinpoints = [[SIZE * i, SIZE * j] for i in range(1, 4) for j in range(1, 4)]
    parts = _parts()
    parts["vision_config"] = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=SIZE,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    parts["text_config"] = Qwen2Config(
        **{k: v for k, v in parts["text_config"].to_dict().items() if k in QWEN}
    )
    config = LlavaOnevisionConfig(
        **parts | {"vision_feature_layer": -1}, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4", image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    _spread(model)
    size = {"height": SIZE, "width": SIZE}
    images = LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints)
    processor = LlavaOnevisionProcessor(
        images, tokenizer(), LlavaOnevisionVideoProcessor(), num_image_tokens=SIDE**2,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_4",
    )  # fmt: skip
    return model, processor


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A random picture with structure at several scales."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 3, 3, generator=g)
    fine = torch.rand(1, 3, height, width, generator=g)
    pixels = 0.7 * torch.nn.functional.interpolate(coarse, (height, width)) + 0.3 * fine
    return Image.fromarray((pixels[0].permute(1, 2, 0) * 255).byte().numpy())
