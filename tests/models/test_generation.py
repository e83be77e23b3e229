"""Answers are those of one question at a time on the stock model, whatever the model and the options."""

import random
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from loguru import logger
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
)

from hired_eval import Full
from hired_eval.dropping.registry import build
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.generation import can_answer_together, can_share_prefixes
from tests import tiny

PROMPT = "U:{images}\n{question} A:"
Decoding = Literal["eager", "static"]
FEW = {"max_new_tokens": 20}
TEXT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**TEXT, "intermediate_size": 96, "num_key_value_heads": 2}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 110, "factor": 4.0,
    "short_factor": [1.0] * 6, "long_factor": [4.0] * 6,
}  # fmt: skip
LAYERS = ["sliding_attention", "full_attention"]
# a language model, whether it shares prefixes, whether it answers questions together
MODELS: dict[str, tuple[PretrainedConfig, bool, bool]] = {
    "plain": (LlamaConfig(**GROUPED), True, True),
    "ungrouped": (OPTConfig(**TEXT, ffn_dim=96, word_embed_proj_dim=48), True, True),
    "window": (MistralConfig(**GROUPED, sliding_window=16), False, True),
    "windows in some layers": (
        Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=16, max_window_layers=1), False, True,
    ),
    "window unused": (Qwen2Config(**GROUPED, use_sliding_window=False, sliding_window=16), True, True),
    "types of layers": (
        Gemma3TextConfig(**GROUPED, head_dim=12, sliding_window=16, layer_types=LAYERS), False, True,
    ),
    "long rope": (LlamaConfig(**GROUPED, rope_parameters=LONG), False, False),
    "dynamic rope": (
        LlamaConfig(**GROUPED, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        False, False,
    ),
}  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"min_length": 105},
    {"min_new_tokens": 9},
    {"suppress_tokens": [30, 31, 32, 33, 34]},
    {"begin_suppress_tokens": list(range(5, 60))},
    {"forced_eos_token_id": 50},
    {"exponential_decay_length_penalty": (3, 1.5)},
    {"bad_words_ids": [[40, 41], [42]]},
    {"num_return_sequences": 1, "return_dict_in_generate": True},
    {"cache_implementation": "static"},
    {"use_cache": False},
]


def model_of(text: PretrainedConfig) -> tuple[Any, Any]:
    """A tiny LLaVA-Next around that language model."""
    torch.manual_seed(0)
    parts = {**tiny._parts(), "text_config": text}
    model = LlavaNextForConditionalGeneration(LlavaNextConfig(image_grid_pinpoints=tiny.PINPOINTS, **parts))
    tiny._spread(model)
    model.generation_config.eos_token_id = [2, *range(7, 12)]
    return model.eval(), tiny.llava_next()[1]


def asked() -> list[Question]:
    """Eight questions of different lengths about two pictures."""
    pictures = [tiny.picture(112, 112, 1), tiny.picture(60, 90, 2)]
    texts = ["what", "what is it and why is it so long", "why", "who is it and where has it been"]
    return [Question(text, (pictures[i % 2],)) for i in range(2) for text in texts]


def stock(parts: tuple[Any, Any], question: Question) -> str:
    model, processor = parts
    text = PROMPT.format(images="<image>", question=question.text)
    inputs = processor(images=list(question.images), text=text, return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(
            **inputs, **FEW, do_sample=False, num_beams=1, pad_token_id=0, return_dict_in_generate=False,
            tokenizer=processor.tokenizer,
        )  # fmt: skip
    new: str = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return new


@pytest.mark.parametrize("kind", MODELS)
def test_a_question_is_answered_as_alone_on_every_kind_of_language_model(kind: str) -> None:
    text, shares, together = MODELS[kind]
    parts = model_of(text)
    assert (can_share_prefixes(parts[0].config), can_answer_together(parts[0].config)) == (shares, together)
    llava = DroppingVLM(Checkpoint(*parts), Full(), PROMPT)
    prepared = [llava.prepare(question) for question in asked()]
    assert all(bool(p.shared) == shares for p in prepared)
    expected = [stock(parts, question) for question in asked()]
    assert [a.text for a in llava.answer(prepared, FEW)] == expected
    static = DroppingVLM(Checkpoint(*parts), Full(), PROMPT, decoding="static")
    assert [a.text for a in static.answer([static.prepare(q) for q in asked()], FEW)] == expected
    scored = [llava.prepare(question, " yes") for question in asked()]
    losses = torch.tensor([x.loss for x in llava.likelihood(scored)])
    alone = DroppingVLM(Checkpoint(*parts), Full(), PROMPT, share_prefix=False)
    one_by_one = torch.tensor([alone.likelihood([alone.prepare(q, " yes")])[0].loss for q in asked()])
    torch.testing.assert_close(losses, one_by_one, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Any]:
    return model_of(MODELS["plain"][0])


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Lines that are logged."""
    lines: list[str] = []
    number = logger.add(lines.append, format="{message}", level="WARNING")
    yield lines
    logger.remove(number)


def test_static_decoding_takes_the_cache_of_the_batch_before(
    plain: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    given = []
    generate = plain[0].generate
    monkeypatch.setattr(plain[0], "generate", lambda **k: given.append(k["past_key_values"]) or generate(**k))
    llava = DroppingVLM(Checkpoint(*plain), Full(), PROMPT, decoding="static")
    prepared = [llava.prepare(question) for question in asked()]
    for size in (4, 4, 3):
        llava.answer(prepared[:size], FEW)
    llava.release()
    llava.answer(prepared[:3], FEW)
    assert given[0] is given[1]
    assert len({id(cache) for cache in given}) == 3, "one for each number of rows, and one after the release"
    assert all(cache.layers[0].max_cache_len % 256 == 0 for cache in given)
    assert told == []


@pytest.mark.parametrize(
    ("kind", "method", "reason"),
    [
        ("plain", "fastv", "drops tokens inside it"),
        ("window", "full", "has layers that attend to a part alone"),
    ],
)
def test_static_decoding_says_where_it_cannot_be(
    kind: str, method: str, reason: str, told: list[str]
) -> None:
    parts = model_of(MODELS[kind][0])
    dropper = build(method, **({"layer": 1} if method == "fastv" else {}))
    eager, static = (
        DroppingVLM(Checkpoint(*parts), dropper, PROMPT, decoding=decoding)
        for decoding in ("eager", "static")
    )
    assert [line.strip() for line in told] == [
        f"decoding=static needs one length of all layers of the language model, which {reason}; "
        "decoding eagerly"
    ]
    questions = asked()[:3]
    expected = eager.answer([eager.prepare(q) for q in questions], FEW)
    assert static.answer([static.prepare(q) for q in questions], FEW) == expected


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o)))
def test_a_checkpoints_own_options_count_as_on_the_stock_model(
    plain: tuple[Any, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in options.items():
        monkeypatch.setattr(plain[0].generation_config, name, value)
    llava = DroppingVLM(Checkpoint(*plain), Full(), PROMPT)
    prepared = [llava.prepare(question) for question in asked()[:4]]
    expected = [stock(plain, question) for question in asked()[:4]]
    assert [a.text for a in llava.answer(prepared, FEW)] == expected


@pytest.mark.parametrize(("seed", "decoding"), [(0, "eager"), (1, "static")])
@pytest.mark.parametrize("share", [True, False])
def test_order_company_sharing_and_decoding_change_no_answer(
    plain: tuple[Any, Any], seed: int, decoding: Decoding, share: bool
) -> None:
    questions = asked()
    expected = [stock(plain, question) for question in questions]
    order = random.Random(seed).sample(range(8), 8)
    llava = DroppingVLM(Checkpoint(*plain), Full(), PROMPT, share_prefix=share, decoding=decoding)
    for size in (1, 3, 8):
        for start in range(0, 8, size):
            members = order[start : start + size]
            answers = llava.answer([llava.prepare(questions[i]) for i in members], FEW)
            assert [a.text for a in answers] == [expected[i] for i in members]
