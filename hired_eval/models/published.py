"""The published architectures by hub id: shapes and the ids of special tokens, known without the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3VLConfig,
    SiglipVisionConfig,
)

SMALL = "dummy/clip-l-small"
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


@dataclass(frozen=True)
class Vocabulary:
    """What a language model's tokens are, pieces of text left out.

    Attributes:
        rows: of the embedding.
        special: ids of special tokens.
        image: the placeholder of a visual token.
        end: ends an answer.
        pad: pads a batch.
        begin: begins every prompt, where something does.
        unknown: stands for what has no piece, where something does.
        names: what the processor calls special tokens of its own.
    """

    rows: int
    special: Mapping[str, int]
    image: str
    end: str
    pad: str
    begin: str | None = None
    unknown: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def of_text(self) -> dict[str, Any]:
        """The part that the config of a language model has."""
        begin = None if self.begin is None else self.special[self.begin]
        return {
            "vocab_size": self.rows,
            "bos_token_id": begin,
            "eos_token_id": self.special[self.end],
            "pad_token_id": self.special[self.pad],
        }


IMAGE = {"image_token": "<image>"}
LLAMA_2 = Vocabulary(
    rows=32064,
    special={"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 32000, "<pad>": 32001},
    image="<image>",
    end="</s>",
    pad="<pad>",
    begin="<s>",
    unknown="<unk>",
    names=IMAGE,
)
LLAMA_3 = Vocabulary(
    rows=128320,
    special={
        "<|begin_of_text|>": 128000,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eot_id|>": 128009,
        "<image>": 128256,
        "<pad>": 128257,
    },
    image="<image>",
    end="<|eot_id|>",
    pad="<pad>",
    begin="<|begin_of_text|>",
    names=IMAGE,
)
YI = Vocabulary(
    rows=64064,
    special={
        "<unk>": 0,
        "<|startoftext|>": 1,
        "<|im_start|>": 6,
        "<|im_end|>": 7,
        "<image>": 64000,
        "<pad>": 64001,
    },
    image="<image>",
    end="<|im_end|>",
    pad="<pad>",
    begin="<|startoftext|>",
    unknown="<unk>",
    names=IMAGE,
)
CHAT = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}


def qwen(rows: int) -> Vocabulary:
    """Qwen's tokens with an image token; families pad the embedding differently."""
    special = {**CHAT, "<image>": 151646}
    return Vocabulary(rows, special, image="<image>", end="<|im_end|>", pad="<|endoftext|>", names=IMAGE)


def qwen_vl(rows: int) -> Vocabulary:
    """Qwen's tokens with those of Qwen-VL; sizes pad the embedding differently."""
    names = {
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    }
    special = CHAT | dict(zip(names.values(), (151652, 151653, 151655, 151656), strict=True))
    return Vocabulary(rows, special, "<|image_pad|>", "<|im_end|>", "<|endoftext|>", names=names)


INTERNVL = Vocabulary(
    rows=151674,
    special={
        **CHAT,
        "<|video_pad|>": 151656,
        "<img>": 151665,
        "</img>": 151666,
        "<IMG_CONTEXT>": 151667,
    },
    image="<IMG_CONTEXT>",
    end="<|im_end|>",
    pad="<|endoftext|>",
    names={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<|video_pad|>",
    },
)


def clip_large() -> CLIPVisionConfig:
    """CLIP ViT-L/14 at 336 pixels (Radford et al. 2021): 24 layers, 576 visual tokens."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def siglip() -> SiglipVisionConfig:
    """SigLIP SO400M/14 at 384 pixels (Zhai et al. 2023), its last layer left out: 26 layers, 729 tokens."""
    return SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )


def intern_vit() -> InternVLVisionConfig:
    """InternViT-300M/14 at 448 pixels (Chen et al. 2024): 24 layers, 1024 patches, 256 visual tokens."""
    return InternVLVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        attention_bias=True,
        image_size=448,
        patch_size=14,
    )


def text(
    kind: type[Any], shape: tuple[int, int, int, int, int], vocabulary: Vocabulary, **options: Any
) -> PreTrainedConfig:
    """A language model.

    Args:
        kind: class of its config.
        shape: width, width of the feed-forward part, layers, heads, KV heads.
        vocabulary: its tokens.
        options: what else its config says.
    """
    hidden, inner, layers, heads, kv_heads = shape
    config: PreTrainedConfig = kind(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **options,
        **vocabulary.of_text,
    )
    return config


def rotary(theta: float) -> dict[str, Any]:
    """Positions as the first version of rotary embedding has them, on another base."""
    return {"rope_type": "default", "rope_theta": theta}


def vicuna(size: str) -> PreTrainedConfig:
    """Vicuna 1.5, '7b' or '13b': the shapes of LLaMA 2 (Touvron et al. 2023)."""
    shape = {"7b": (4096, 11008, 32, 32, 32), "13b": (5120, 13824, 40, 40, 40)}[size]
    return text(LlamaConfig, shape, LLAMA_2, max_position_embeddings=4096, rms_norm_eps=1e-5)


def mistral() -> PreTrainedConfig:
    """Mistral 7B Instruct 0.2 (Jiang et al. 2023): grouped queries, no sliding window."""
    return text(
        MistralConfig,
        (4096, 14336, 32, 32, 8),
        LLAMA_2,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_parameters=rotary(1e6),
        sliding_window=None,
    )


def small_llama() -> PreTrainedConfig:
    """A Llama of 0.2 billion parameters, for efficiency on machines without a GPU."""
    return text(LlamaConfig, (1024, 2816, 12, 16, 16), LLAMA_2, max_position_embeddings=4096)


def llama_3() -> PreTrainedConfig:
    """Llama 3 8B Instruct (Grattafiori et al. 2024)."""
    return text(
        LlamaConfig,
        (4096, 14336, 32, 32, 8),
        LLAMA_3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters=rotary(5e5),
    )


def yi() -> PreTrainedConfig:
    """Nous Hermes 2 Yi 34B: the shapes of Yi (01.AI 2024)."""
    return text(
        LlamaConfig,
        (7168, 20480, 60, 56, 8),
        YI,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters=rotary(5e6),
    )


QWEN_SHAPES = {
    "0.5b": (896, 4864, 24, 14, 2),
    "1.5b": (1536, 8960, 28, 12, 2),
    "7b": (3584, 18944, 28, 28, 4),
    "14b": (5120, 13824, 48, 40, 8),
    "72b": (8192, 24576, 80, 64, 64),
}
"""Qwen 2 and 2.5 up to 14B, and Qwen 1.5 72B (Qwen team 2024)."""


def qwen_text(size: str, vocabulary: Vocabulary, *, tied: bool = False) -> PreTrainedConfig:
    """Qwen 1.5, 2 and 2.5, which differ in sizes alone."""
    return text(
        Qwen2Config,
        QWEN_SHAPES[size],
        vocabulary,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters=rotary(1e6),
        tie_word_embeddings=tied,
    )


def _llava(language: PreTrainedConfig) -> LlavaConfig:
    return LlavaConfig(vision_config=clip_large(), text_config=language, image_token_id=32000)


def _llava_next(language: PreTrainedConfig, vocabulary: Vocabulary = LLAMA_2) -> LlavaNextConfig:
    return LlavaNextConfig(
        vision_config=clip_large(),
        text_config=language,
        image_token_id=vocabulary.special[vocabulary.image],
        image_grid_pinpoints=PINPOINTS,
    )


def _llava_onevision(size: str, rows: int, *, tied: bool) -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=qwen_text(size, qwen(rows), tied=tied),
        image_token_id=151646,
        image_grid_pinpoints=[[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)],
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=tied,
    )


def _internvl(size: str) -> InternVLConfig:
    return InternVLConfig(
        vision_config=intern_vit(), text_config=qwen_text(size, INTERNVL), tie_word_embeddings=False
    )


def _qwen2_5_vl(shape: tuple[int, int, int, int, int], rows: int, *, tied: bool) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL (Bai et al. 2025): windows of 112 pixels in 28 of the tower's 32 layers."""
    hidden, inner, layers, heads, kv_heads = shape
    language = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rotary(1e6) | {"mrope_section": [16, 24, 24]},
        **qwen_vl(rows).of_text,
    }
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": hidden}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=language, tie_word_embeddings=tied)


def _qwen3_vl(
    shape: tuple[int, int, int, int, int], tower: tuple[int, int, int], stacked: list[int], *, tied: bool
) -> Qwen3VLConfig:
    """Qwen3-VL (Qwen team 2025).

    Args:
        shape: of the language model, as in `text`.
        tower: width, width of the feed-forward part, layers.
        stacked: layers of the tower that feed DeepStack.
        tied: whether the embedding is the output layer too.
    """
    hidden, inner, layers, heads, kv_heads = shape
    language = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rotary(5e6) | {"mrope_section": [24, 20, 20], "mrope_interleaved": True},
        **qwen_vl(151936).of_text,
    }
    vision = {
        "hidden_size": tower[0],
        "intermediate_size": tower[1],
        "depth": tower[2],
        "out_hidden_size": hidden,
        "deepstack_visual_indexes": stacked,
    }
    return Qwen3VLConfig(vision_config=vision, text_config=language, tie_word_embeddings=tied)


PUBLISHED: Mapping[str, tuple[Vocabulary, Callable[[], Any]]] = {
    "llava-hf/llava-1.5-7b-hf": (LLAMA_2, lambda: _llava(vicuna("7b"))),
    "llava-hf/llava-1.5-13b-hf": (LLAMA_2, lambda: _llava(vicuna("13b"))),
    "Lin-Chen/ShareGPT4V-7B": (LLAMA_2, lambda: _llava(vicuna("7b"))),
    "llava-hf/llava-v1.6-vicuna-7b-hf": (LLAMA_2, lambda: _llava_next(vicuna("7b"))),
    "llava-hf/llava-v1.6-vicuna-13b-hf": (LLAMA_2, lambda: _llava_next(vicuna("13b"))),
    "llava-hf/llava-v1.6-mistral-7b-hf": (LLAMA_2, lambda: _llava_next(mistral())),
    SMALL: (LLAMA_2, lambda: _llava_next(small_llama())),
    "llava-hf/llama3-llava-next-8b-hf": (LLAMA_3, lambda: _llava_next(llama_3(), LLAMA_3)),
    "llava-hf/llava-v1.6-34b-hf": (YI, lambda: _llava_next(yi(), YI)),
    "llava-hf/llava-next-72b-hf": (
        qwen(152064),
        lambda: _llava_next(qwen_text("72b", qwen(152064)), qwen(152064)),
    ),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (
        qwen(152000),
        lambda: _llava_onevision("0.5b", 152000, tied=True),
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (
        qwen(152128),
        lambda: _llava_onevision("7b", 152128, tied=False),
    ),
    "OpenGVLab/InternVL3-1B-hf": (INTERNVL, lambda: _internvl("0.5b")),
    "OpenGVLab/InternVL3-2B-hf": (INTERNVL, lambda: _internvl("1.5b")),
    "OpenGVLab/InternVL3-8B-hf": (INTERNVL, lambda: _internvl("7b")),
    "OpenGVLab/InternVL3-14B-hf": (INTERNVL, lambda: _internvl("14b")),
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        qwen_vl(151936),
        lambda: _qwen2_5_vl((2048, 11008, 36, 16, 2), 151936, tied=True),
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        qwen_vl(152064),
        lambda: _qwen2_5_vl((3584, 18944, 28, 28, 4), 152064, tied=False),
    ),
    "Qwen/Qwen3-VL-4B-Instruct": (
        qwen_vl(151936),
        lambda: _qwen3_vl((2560, 9728, 36, 32, 8), (1024, 4096, 24), [5, 11, 17], tied=True),
    ),
    "Qwen/Qwen3-VL-8B-Instruct": (
        qwen_vl(151936),
        lambda: _qwen3_vl((4096, 12288, 36, 32, 8), (1152, 4304, 27), [8, 16, 24], tied=False),
    ),
}
"""Vocabulary and architecture by hub id. `dummy/clip-l-small` is no id of the hub: it is LLaVA-Next's vision
side with a small Llama."""


def published_config(hub_id: str) -> Any:
    """The architecture that a hub id stands for; None for another id."""
    return PUBLISHED[hub_id][1]() if hub_id in PUBLISHED else None


def vocabulary_of(config: Any) -> Vocabulary:
    """The vocabulary of a published architecture, known by its size and its image token."""
    rows, image = config.text_config.vocab_size, config.image_token_id
    known = [vocabulary for vocabulary, _ in PUBLISHED.values()]
    return next(one for one in known if (one.rows, one.special[one.image]) == (rows, image))
