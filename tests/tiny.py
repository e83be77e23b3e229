"""Tiny random LLaVA models with stock processors, for differential tests against stock transformers."""

from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
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
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
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


def tokenizer(*more: str, **names: str) -> PreTrainedTokenizerFast:
    """A token a character, and special ones: those of LLaVA, more, and what a processor calls them."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *more]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=names or ["<image>"],
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


def internvl(seed: int = 0) -> tuple[InternVLForConditionalGeneration, InternVLProcessor]:
    """Tiles of 4 x 4 patches, 2 x 2 tokens; grids of up to 12 tiles."""
    torch.manual_seed(seed)
    vision = InternVLVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=SIZE,
        patch_size=PATCH, attention_bias=True, use_qk_norm=True,
    )  # fmt: skip
    marks = ("<img>", "</img>", "<video>")
    text = _parts()["text_config"].to_dict() | {"vocab_size": 5 + len(marks) + len(WORDS)}
    config = InternVLConfig(
        vision_config=vision, text_config=Qwen2Config(**{k: v for k, v in text.items() if k in QWEN}),
        image_token_id=4, image_seq_length=SIDE**2 // 4, tie_word_embeddings=False,
    )  # fmt: skip
    model = InternVLForConditionalGeneration(config).eval()
    _spread(model)
    embeddings = model.model.vision_tower.embeddings
    with torch.no_grad():
        # zeros at initialisation, so that all patches would be alike to CLS
        embeddings.cls_token.normal_()
        embeddings.position_embeddings.normal_(std=0.3)
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<image>"}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": SIZE, "width": SIZE}),
        tokenizer(*marks, **names, video_token="<video>"), InternVLVideoProcessor(),
        image_seq_length=SIDE**2 // 4,
    )  # fmt: skip
    return model, processor


VISION = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
MOST_PIXELS = 28 * 28 * 40


def _qwen(depth: int, sections: list[int], **of_tower: Any) -> dict[str, Any]:
    tower = {
        "depth": depth, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 48,
        **of_tower,
    }  # fmt: skip
    text = {
        "vocab_size": 9 + len(WORDS), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections},
    }  # fmt: skip
    ids = {f"{name}_id": i for i, name in enumerate(VISION, 5)}
    return {"vision_config": tower, "text_config": text, **ids}


def qwen2_5_vl(seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """With windows of 2 x 2 tokens, which all layers but the second and the last attend in."""
    torch.manual_seed(seed)
    tower = {"patch_size": PATCH, "window_size": 4 * PATCH, "fullatt_block_indexes": [1, 3]}
    config = Qwen2_5_VLConfig(**_qwen(4, [2, 2, 2], **tower))
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    _spread(model)
    images = Qwen2VLImageProcessor(patch_size=PATCH, min_pixels=28 * 28 * 4, max_pixels=MOST_PIXELS)
    return model, Qwen2_5_VLProcessor(images, tokenizer(*VISION.values(), **VISION), Qwen2VLVideoProcessor())


def qwen3_vl(seed: int = 0) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """With DeepStack features of two layers, behind the first two layers of the language model."""
    torch.manual_seed(seed)
    tower = {"patch_size": 16, "deepstack_visual_indexes": [0, 2], "num_position_embeddings": 64}
    parts = _qwen(4, [2, 2, 2], **tower)
    parts["text_config"] |= {"head_dim": 12}
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**parts)).eval()
    _spread(model)
    images = Qwen2VLImageProcessor(patch_size=16, min_pixels=32 * 32 * 4, max_pixels=32 * 32 * 40)
    return model, Qwen3VLProcessor(images, tokenizer(*VISION.values(), **VISION), Qwen3VLVideoProcessor())


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A random picture with structure at several scales."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 3, 3, generator=g)
    fine = torch.rand(1, 3, height, width, generator=g)
    pixels = 0.7 * torch.nn.functional.interpolate(coarse, (height, width)) + 0.3 * fine
    return Image.fromarray((pixels[0].permute(1, 2, 0) * 255).byte().numpy())
