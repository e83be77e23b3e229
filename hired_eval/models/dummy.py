"""The published architectures with random weights, built without the hub: for efficiency only."""

from __future__ import annotations

import json
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.clip import CLIPImageProcessor

PICTURE, PATCH = 336, 14
SMALL = "dummy/clip-l-small"
VOCABULARY, IMAGE_ID, PAD_ID, EMBEDDINGS = 32000, 32000, 32001, 32064
TOKENS = {"vocab_size": EMBEDDINGS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD_ID}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
# the words that prompts and questions are made of, a token each; other words take several tokens
WORDS = """
a an the this that these those it its is are was be do does did has have can you your i he she they them
there here and or not no yes of in on at to from by for with as into than over under above below left right
between chat curious user artificial intelligence assistant gives helpful detailed polite answers USER
ASSISTANT INST what which who whose when where why how many much question answer options option letter
directly given choices single word phrase number using based context provide image picture photo page
document chart table text title name date value total amount year color colour shape size person people man
woman child animal object sign written shown visible located following
"""


def clip_large() -> CLIPVisionConfig:
    """CLIP ViT-L/14 at 336 pixels (Radford et al. 2021): 24 layers, 576 visual tokens."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=PICTURE,
        patch_size=PATCH,
        projection_dim=768,
    )


def vicuna(size: str) -> LlamaConfig:
    """Vicuna 1.5, '7b' or '13b': the shapes of LLaMA 2 (Touvron et al. 2023)."""
    hidden, inner, layers, heads = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}[size]
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        **TOKENS,
    )


def mistral() -> MistralConfig:
    """Mistral 7B Instruct 0.2 (Jiang et al. 2023): grouped queries, no sliding window."""
    return MistralConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        sliding_window=None,
        **TOKENS,
    )


def small_llama() -> LlamaConfig:
    """A Llama of 0.2 billion parameters, for efficiency on machines without a GPU."""
    return LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=12,
        num_attention_heads=16,
        max_position_embeddings=4096,
        **TOKENS,
    )


def published_config(hub_id: str) -> LlavaConfig | LlavaNextConfig | None:
    """The architecture that a hub id of the paper stands for; None for another id.

    `dummy/clip-l-small` is no id of the hub: LLaVA-Next's vision side with a small Llama.
    """
    single = {
        "llava-hf/llava-1.5-7b-hf": "7b",
        "llava-hf/llava-1.5-13b-hf": "13b",
        "Lin-Chen/ShareGPT4V-7B": "7b",
    }
    several = {"llava-hf/llava-v1.6-vicuna-7b-hf": "7b", "llava-hf/llava-v1.6-vicuna-13b-hf": "13b"}
    if hub_id in single:
        return LlavaConfig(
            vision_config=clip_large(), text_config=vicuna(single[hub_id]), image_token_index=IMAGE_ID
        )
    others = {"llava-hf/llava-v1.6-mistral-7b-hf": mistral, SMALL: small_llama}
    if hub_id in several or hub_id in others:
        text = vicuna(several[hub_id]) if hub_id in several else others[hub_id]()
        return LlavaNextConfig(
            vision_config=clip_large(),
            text_config=text,
            image_token_index=IMAGE_ID,
            image_grid_pinpoints=PINPOINTS,
        )
    return None


def dummy_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that stands in for the published ones.

    The size of the vocabulary and the ids of special tokens are theirs; the pieces are not, so token counts
    of text are near theirs and no more than that. Every id decodes to some text.
    """
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(
        [f" {word} {word.capitalize()}\n{word.capitalize()}" for word in WORDS.split()], trainer
    )
    trained = json.loads(pieces.to_str())["model"]
    vocabulary: dict[str, int] = trained["vocab"]
    # ids that no text encodes to, so that whatever the random model generates decodes
    vocabulary |= {f"Ġ#{i}": i for i in range(len(vocabulary), VOCABULARY)}
    full = Tokenizer(models.BPE(vocabulary, [(first, second) for first, second in trained["merges"]]))
    full.pre_tokenizer = pieces.pre_tokenizer
    full.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    full.decoder = decoders.ByteLevel()
    full.add_special_tokens(
        [*special, AddedToken("<image>", normalized=False), AddedToken("<pad>", normalized=False)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=full,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )


def dummy_processor(config: LlavaConfig | LlavaNextConfig) -> ProcessorMixin:
    """The stock processor of a published architecture, with the stand-in tokenizer."""
    crop = {"height": PICTURE, "width": PICTURE}
    shared: dict[str, Any] = {
        "tokenizer": dummy_tokenizer(),
        "patch_size": PATCH,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    if isinstance(config, LlavaNextConfig):
        images = LlavaNextImageProcessor(
            size={"shortest_edge": PICTURE}, crop_size=crop, image_grid_pinpoints=config.image_grid_pinpoints
        )
        return LlavaNextProcessor(image_processor=images, **shared)
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": PICTURE}, crop_size=crop), **shared
    )


def dummy_model(
    config: LlavaConfig | LlavaNextConfig, dtype: torch.dtype, device: torch.device, attention: str, seed: int
) -> PreTrainedModel:
    """The architecture of `config` with weights drawn by the library's own initialisation.

    Parameters are allocated once, in `dtype` and on `device`, and filled in place; the global random state is
    left as it was. The same seed gives the same weights on the same kind of device.
    """
    architecture = (
        LlavaNextForConditionalGeneration
        if isinstance(config, LlavaNextConfig)
        else LlavaForConditionalGeneration
    )
    with torch.device("meta"):
        model: PreTrainedModel = architecture._from_config(config, dtype=dtype, attn_implementation=attention)
    model.to_empty(device=device)
    model.tie_weights()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.init_weights()
    return model.requires_grad_(False)
