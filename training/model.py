"""The bundled model's configuration, tokenizer and processor, all of stock classes."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
)

from hired_eval.mini.canvas import PATCH, PINPOINTS, SIDE
from hired_eval.mini.pages import KINDS
from hired_eval.mini.questions import ask_all, scienceqa
from hired_eval.mini.seeds import page_rng
from hired_eval.mini.vocabulary import GROUPS, POST_PROMPTS

IMAGE = "<image>"
PROMPT = "USER: {image}{question} ASSISTANT:"
# The prompt form above as a chat template; the answer follows after a space.
CHAT_TEMPLATE = """{%- macro parts(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}
{%- for part in content if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}{%- endmacro -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{ 'USER: ' + parts(message['content']) + ' ' }}
{%- else -%}{{ 'ASSISTANT: ' + parts(message['content']) + '</s>' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"""


def build_tokenizer(pages: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word of the vocabulary, after a space, is one token.

    The benchmarks' fixed question endings are one token each.
    """
    texts = [f" {word}" for members in GROUPS.values() for word in members] * 3
    for kind in KINDS:
        for index in range(pages):
            rng = page_rng("tokenizer", kind, index)
            texts += [f"USER: {q.prompt} ASSISTANT: {q.answer}" for q in ask_all(KINDS[kind](rng), rng)]
            texts += [f"USER: {q.prompt} ASSISTANT: {q.answer}" for q in scienceqa(None, rng)]
    endings = sorted({p for p in POST_PROMPTS.values() if p})
    for ending in endings:
        texts = [t.replace(ending, "") for t in texts]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=2,
        show_progress=False,
        special_tokens=["<pad>", "<s>", "</s>", IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(e, normalized=False) for e in endings])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=2048,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
    )


def build_image_processor() -> LlavaNextImageProcessor:
    """The stock LLaVA-Next image processor for the mini model's partitions."""
    size = {"height": SIDE, "width": SIDE}
    return LlavaNextImageProcessor(size=size, crop_size=size, image_grid_pinpoints=PINPOINTS)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    """The stock LLaVA-Next processor for the mini model."""
    return LlavaNextProcessor(
        image_processor=build_image_processor(),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 7) -> LlavaNextForConditionalGeneration:
    """A LLaVA-Next of 3 M parameters with random weights; token embeddings have unit length."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    model = LlavaNextForConditionalGeneration(config)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table.copy_(torch.nn.functional.normalize(torch.randn_like(table), dim=-1))
        newline = model.model.image_newline
        newline.copy_(torch.nn.functional.normalize(torch.randn_like(newline), dim=-1))
    model.tie_weights()
    return model


def export(model: LlavaNextForConditionalGeneration, folder: Path) -> None:
    """Save a bfloat16 copy of the weights and the processor; the model itself stays as it is.

    Casting the state (and not the module) leaves the rotary frequencies, which are not saved, alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    dtype, model.config.dtype = getattr(model.config, "dtype", None), torch.bfloat16
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    model.save_pretrained(folder, state_dict=state)
    model.config.dtype = dtype
