"""The published architectures with random weights, built without the hub: for efficiency only."""

from __future__ import annotations

import json
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from transformers.models.clip import CLIPImageProcessor

from hired_eval.models.families import FAMILIES
from hired_eval.models.published import Vocabulary, vocabulary_of

PIECES = 3997
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


def dummy_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that stands in for a published one.

    The size of the vocabulary and the ids of special tokens are those of the published one; the pieces are
    not, so token counts of text are near its counts and no more than that. Every id decodes to some text.

    Args:
        vocabulary: its size and special tokens.
    """
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    pieces.train_from_iterator(
        [f" {word} {word.capitalize()}\n{word.capitalize()}" for word in WORDS.split()], trainer
    )
    trained = json.loads(pieces.to_str())["model"]
    taken = set(vocabulary.special.values())
    free = [i for i in range(max(taken)) if i not in taken]
    by_id = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    # ids that no text encodes to, so that whatever the random model generates decodes
    fillers = [f"Ġ#{i}" for i in free[len(by_id) :]]
    entries = {**vocabulary.special, **dict(zip([*by_id, *fillers], free, strict=True))}
    full = Tokenizer(models.BPE(entries, [(first, second) for first, second in trained["merges"]]))
    full.pre_tokenizer = pieces.pre_tokenizer
    if vocabulary.begin is not None:
        begin = (vocabulary.begin, vocabulary.special[vocabulary.begin])
        full.post_processor = processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    full.decoder = decoders.ByteLevel()
    full.add_special_tokens([AddedToken(token, normalized=False) for token in vocabulary.special])
    return PreTrainedTokenizerFast(
        tokenizer_object=full,
        unk_token=vocabulary.unknown,
        bos_token=vocabulary.begin,
        eos_token=vocabulary.end,
        pad_token=vocabulary.pad,
        extra_special_tokens=dict(vocabulary.names),
        clean_up_tokenization_spaces=False,
    )


def dummy_processor(config: Any) -> ProcessorMixin:
    """The stock processor of a published architecture, with the stand-in tokenizer."""
    vision: Any = config.vision_config
    tokenizer = dummy_tokenizer(vocabulary_of(config))
    if isinstance(config, InternVLConfig):
        height, width = vision.image_size
        tile = GotOcr2ImageProcessor(
            size={"height": height, "width": width},
            image_mean=IMAGENET_DEFAULT_MEAN,
            image_std=IMAGENET_DEFAULT_STD,
        )
        return InternVLProcessor(tile, tokenizer, InternVLVideoProcessor(), config.image_seq_length)
    if isinstance(config, Qwen2_5_VLConfig | Qwen3VLConfig):
        patch = vision.patch_size
        if isinstance(config, Qwen2_5_VLConfig):
            limits, mean = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}, OPENAI_CLIP_MEAN
            kind, video, std = Qwen2_5_VLProcessor, Qwen2VLVideoProcessor(), OPENAI_CLIP_STD
        else:
            limits, mean = {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}, IMAGENET_STANDARD_MEAN
            kind, video, std = Qwen3VLProcessor, Qwen3VLVideoProcessor(), IMAGENET_STANDARD_STD
        native = Qwen2VLImageProcessor(size=limits, patch_size=patch, image_mean=mean, image_std=std)
        return kind(native, tokenizer, video)
    side = vision.image_size
    square = {"height": side, "width": side}
    if isinstance(config, LlavaOnevisionConfig):
        return LlavaOnevisionProcessor(
            LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=config.image_grid_pinpoints),
            tokenizer,
            LlavaOnevisionVideoProcessor(),
            num_image_tokens=(side // vision.patch_size) ** 2,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            vision_aspect_ratio=config.vision_aspect_ratio,
        )
    shared: dict[str, Any] = {
        "tokenizer": tokenizer,
        "patch_size": vision.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    if isinstance(config, LlavaNextConfig):
        images = LlavaNextImageProcessor(
            size={"shortest_edge": side}, crop_size=square, image_grid_pinpoints=config.image_grid_pinpoints
        )
        return LlavaNextProcessor(image_processor=images, **shared)
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square), **shared
    )


def dummy_model(
    config: Any, dtype: torch.dtype, device: torch.device, attention: str, seed: int
) -> PreTrainedModel:
    """The architecture of `config` with weights drawn by the library's own initialisation.

    Parameters are allocated once, in `dtype` and on `device`, and filled in place; the global random state is
    left as it was. The same seed gives the same weights on the same kind of device.
    """
    architecture = FAMILIES[config.model_type].stock
    with torch.device("meta"):
        model: PreTrainedModel = architecture._from_config(config, dtype=dtype, attn_implementation=attention)
    model.to_empty(device=device)
    model.tie_weights()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.init_weights()
    return model.requires_grad_(False)
