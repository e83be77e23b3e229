"""`generate` inside the block: every argument does what it does on the stock model, or is refused by name."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LlamaForCausalLM,
    LlavaNextForConditionalGeneration,
    LogitsProcessorList,
)

from hired_eval import EvenSplit, Full, HiRED
from hired_eval.errors import UserError
from hired_eval.models.apply import REFUSED_SETTINGS
from tests import tiny

NEW = 4
BEAMS = {"num_beams": 2}
SAMPLED = {"do_sample": True, "top_k": 20}
STATIC = {"cache_implementation": "static"}


class Streamed:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []

    def put(self, value: Tensor) -> None:
        self.chunks.append(value.flatten().tolist())

    def end(self) -> None:
        self.chunks.append([])


def odd_at_odd_lengths(input_ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that counts the prompt and reads its first image."""
    return scores.roll(int((input_ids == 4).sum()) + input_ids.shape[1], dims=1)


def stops(input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
    """A stopping criterion that counts the prompt."""
    return torch.full((len(input_ids),), input_ids.shape[1] % 3 == 0)


SAME: dict[str, dict[str, Any]] = {
    # arguments of generate itself
    "inputs": {"inputs": None},
    "generation_config": {"generation_config": GenerationConfig(min_length=95, pad_token_id=0)},
    "logits_processor": {"logits_processor": LogitsProcessorList([odd_at_odd_lengths])},
    "stopping_criteria": {"stopping_criteria": [stops]},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda row, ids: [5 + len(ids) % 7, 30]},
    "synced_gpus": {"synced_gpus": False},
    "assistant_model": {"assistant_model": "text"},
    "streamer": {"streamer": "new"},
    "negative_prompt_ids": {"negative_prompt_ids": torch.tensor([[1, 7]]), "guidance_scale": 1.5},
    "negative_prompt_attention_mask": {
        "negative_prompt_ids": torch.tensor([[1, 7]]),
        "negative_prompt_attention_mask": torch.tensor([[0, 1]]),
        "guidance_scale": 1.5,
    },
    # arguments of forward
    "attention_mask": {"attention_mask": None},
    "position_ids": {"position_ids": "spread"},
    "past_key_values": {"past_key_values": None},
    "vision_feature_layer": {"vision_feature_layer": -1},
    "vision_feature_select_strategy": {"vision_feature_select_strategy": "default"},
    "labels": {"labels": torch.ones(1, 2)},
    "logits_to_keep": {"logits_to_keep": 3},
    # settings: lengths
    "max_length": {"max_length": 95},
    "min_length": {"min_length": 95, "eos_token_id": 95},
    "max_new_tokens": {"max_new_tokens": 2},
    "min_new_tokens": {"min_new_tokens": 3, "eos_token_id": 95},
    "max_time": {"max_time": 1000.0},
    "stop_strings": {"stop_strings": ["b"], "tokenizer": "its own"},
    # settings: how tokens are chosen
    "early_stopping": {**BEAMS, "early_stopping": True},
    "num_beams": BEAMS,
    "do_sample": SAMPLED,
    "temperature": {**SAMPLED, "temperature": 3.0},
    "top_k": {"do_sample": True, "top_k": 3},
    "top_p": {**SAMPLED, "top_p": 0.5},
    "min_p": {**SAMPLED, "min_p": 0.1},
    "top_h": {**SAMPLED, "top_h": 0.5},
    "typical_p": {**SAMPLED, "typical_p": 0.5},
    "epsilon_cutoff": {**SAMPLED, "epsilon_cutoff": 0.01},
    "eta_cutoff": {**SAMPLED, "eta_cutoff": 0.01},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.5},
    "length_penalty": {**BEAMS, "length_penalty": 3.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[95]]},
    "renormalize_logits": {"renormalize_logits": True},
    "forced_bos_token_id": {"forced_bos_token_id": 9},
    "forced_eos_token_id": {"forced_eos_token_id": 9},
    "remove_invalid_values": {"remove_invalid_values": True},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (1, 9.0), "eos_token_id": 33},
    "suppress_tokens": {"suppress_tokens": [95]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [95]},
    "sequence_bias": {"sequence_bias": [[[4, 30], 9.0], [[35, 44], 9.0]]},
    "guidance_scale": {"guidance_scale": 1.5},
    "watermarking_config": {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 9.0}},
    # settings: what comes back
    "num_return_sequences": {**SAMPLED, "num_return_sequences": 2},
    "output_attentions": {"output_attentions": True},
    "output_hidden_states": {"output_hidden_states": True},
    "output_scores": {"output_scores": False},
    "output_logits": {"output_logits": True},
    "return_dict_in_generate": {"return_dict_in_generate": False},
    "pad_token_id": {"pad_token_id": 7, "eos_token_id": 95},
    "bos_token_id": {"bos_token_id": 7},
    "eos_token_id": {"eos_token_id": [95, 30]},
    # settings: caches and speed
    "use_cache": {"use_cache": False},
    "cache_implementation": STATIC,
    "max_cache_len": {**STATIC, "max_cache_len": 200},
    "cache_config": {"cache_config": {"backend": "quanto"}},
    "compile_config": {"compile_config": None},
    "disable_compile": {"disable_compile": True},
    "low_memory": {"low_memory": True, **BEAMS},  # stock refuses it
    "continuous_batching_config": {"continuous_batching_config": None},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "max_matching_ngram_size": {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 3},
    "num_assistant_tokens": {"assistant_model": "text", "num_assistant_tokens": 2},
    "num_assistant_tokens_schedule": {
        "assistant_model": "itself",
        "num_assistant_tokens_schedule": "heuristic",
    },
    "assistant_confidence_threshold": {"assistant_model": "text", "assistant_confidence_threshold": 0.0},
    "assistant_ensemble_weight": {"assistant_model": "text", "assistant_ensemble_weight": 0.5},
    "assistant_lookbehind": {"assistant_lookbehind": 3},
    "target_lookbehind": {"target_lookbehind": 3},
    # settings of other architectures, and no settings
    "decoder_start_token_id": {"decoder_start_token_id": 7},
    "diversity_penalty": {"diversity_penalty": 0.0},
    "transformers_version": {},
    "_from_model_config": {},
}
"""Argument -> a call with it; Full gives what stock gives, an error of stock's included."""
REFUSED: dict[str, dict[str, Any]] = {
    "custom_generate": {"custom_generate": lambda model, input_ids, **kwargs: input_ids},
    "inputs_embeds": {"inputs_embeds": torch.zeros(1, 2, 48)},
    "mm_encoder_outputs": {"mm_encoder_outputs": {"image": torch.zeros(1)}},
    "assistant_early_exit": {"assistant_early_exit": 1},
    "constraints": {"constraints": [1]},
    "dola_layers": {"dola_layers": "low"},
    "force_words_ids": {"force_words_ids": [[7]]},
    "is_assistant": {"is_assistant": True},
    "num_beam_groups": {"num_beam_groups": 2, **BEAMS},
    "penalty_alpha": {"penalty_alpha": 0.5},
    "prefill_chunk_size": {"prefill_chunk_size": 8},
    "speculation_type": {"speculation_type": "dflash"},
    "token_healing": {"token_healing": True},
    "use_mtp": {"use_mtp": True},
}
ALWAYS_GIVEN = {"input_ids", "pixel_values", "image_sizes"}


@pytest.fixture(scope="module")
def inputs(llava_next: tuple[Any, Any]) -> dict[str, Any]:
    return dict(llava_next[1](images=tiny.picture(112, 112), text="a:<image>b?", return_tensors="pt"))


def outcome(llava_next: tuple[Any, Any], inputs: dict[str, Any], options: dict[str, Any]) -> Any:
    """What `generate` gives back and streams, or the kind of its error."""
    model, processor = llava_next
    default = {"max_new_tokens": NEW, "return_dict_in_generate": True, "output_scores": True}
    if {"max_length", "generation_config"} & options.keys():
        default.pop("max_new_tokens")
    if "generation_config" in options:
        default = {}
    options = {**inputs, **default, **options}
    if options.get("assistant_model") == "text":
        torch.manual_seed(1)
        options["assistant_model"] = LlamaForCausalLM(model.config.text_config).eval()
    if options.get("assistant_model") == "itself":
        options["assistant_model"] = model
    if "tokenizer" in options:
        options["tokenizer"] = processor.tokenizer
    if options.get("position_ids") == "spread":
        options["position_ids"] = 3 * torch.arange(inputs["input_ids"].shape[1])[None]
    if "inputs" in options:
        options["inputs"] = options.pop("input_ids")
    streamer = options["streamer"] = Streamed() if "streamer" in options else None
    torch.manual_seed(0)
    try:
        return model.generate(**options), streamer and streamer.chunks
    except (ValueError, UserError) as error:
        return type(error), str(error)


def leaves(value: Any) -> Iterator[Any]:
    """The tensors and other values within tuples, outputs and caches."""
    if isinstance(value, Cache):
        value = [layer.keys for layer in value.layers] + [layer.values for layer in value.layers]
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, tuple | list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def assert_same(found: Any, wanted: Any) -> None:
    for one, other in zip(leaves(found), leaves(wanted), strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("name", SAME)
def test_full_is_stock_for_each_argument(
    name: str, llava_next: tuple[Any, Any], inputs: dict[str, Any]
) -> None:
    stock = outcome(llava_next, inputs, SAME[name])
    with Full()(llava_next[0]):
        assert_same(outcome(llava_next, inputs, SAME[name]), stock)


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_cannot_be_as_on_stock_is_refused_by_name(
    name: str, llava_next: tuple[Any, Any], inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = llava_next
    with Full()(model):
        kind, text = outcome(llava_next, inputs, REFUSED[name])
        assert kind is UserError
        assert name in text
        if name in REFUSED_SETTINGS and name != "custom_generate":
            # from a configuration, too
            config = GenerationConfig(max_new_tokens=2)
            setattr(config, name, REFUSED[name][name])
            assert outcome(llava_next, inputs, {"generation_config": config})[0] is UserError
            monkeypatch.setattr(model.generation_config, name, REFUSED[name][name], raising=False)
            assert outcome(llava_next, inputs, {})[0] is UserError


def test_no_argument_of_generate_is_left_out() -> None:
    """One that a new version of transformers brings must be tried and sorted here."""
    known = {
        *inspect.signature(LlavaNextForConditionalGeneration.generate).parameters,
        *inspect.signature(LlavaNextForConditionalGeneration.forward).parameters,
        *GenerationConfig().to_dict(),
    } - {"self", "kwargs"}
    assert known == SAME.keys() | REFUSED.keys() | ALWAYS_GIVEN
    assert REFUSED.keys() >= REFUSED_SETTINGS.keys()


def test_paged_caches_and_hidden_states_of_assisted_decoding_are_refused(
    llava_next: tuple[Any, Any], inputs: dict[str, Any]
) -> None:
    with Full()(llava_next[0]):
        assert "paged" in outcome(llava_next, inputs, {"cache_implementation": "paged"})[1]
        states = {"prompt_lookup_num_tokens": 2, "output_hidden_states": True}
        assert "output_hidden_states" in outcome(llava_next, inputs, states)[1]


@pytest.mark.parametrize(
    ("options", "new"),
    [
        ({"max_length": 5}, 5),
        ({"generation_config": {"max_length": 5}}, 5),
        ({"model": {"max_length": 5}}, 5),
        ({"min_length": 3, "max_new_tokens": 9}, 4),
        ({"generation_config": {"min_length": 3, "max_new_tokens": 9}}, 4),
        ({"model": {"min_length": 3}, "max_new_tokens": 9}, 4),
        ({"min_new_tokens": 3, "max_new_tokens": 9}, 4),
        ({"stopping_criteria": 6}, 6),
        ({}, 20),
    ],
    ids=str,
)
def test_limits_count_the_prompt_as_it_was_given(
    options: dict[str, Any], new: int, llava_next: tuple[Any, Any], inputs: dict[str, Any]
) -> None:
    """`max_length` and `min_length` are given beyond the prompt; with a minimum, the end is likeliest."""
    model, _ = llava_next
    length = inputs["input_ids"].shape[1]

    def beyond(limits: dict[str, Any]) -> dict[str, Any]:
        return {k: v + length if k in ("max_length", "min_length") else v for k, v in limits.items()}

    options = beyond(options)
    settings = beyond(options.pop("model", {}))
    if "generation_config" in options:
        options["generation_config"] = GenerationConfig(
            **beyond(options["generation_config"]), pad_token_id=0
        )
    if "stopping_criteria" in options:
        limit = length + options["stopping_criteria"]
        options["stopping_criteria"] = [lambda ids, scores, **_: torch.tensor([ids.shape[1] >= limit])]
        options["max_new_tokens"] = 9
    if "min_" in str((options, settings)):
        options["sequence_bias"] = [[[2], 1e3]]
    with HiRED(budget=0.2)(model), pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(model.generation_config, name, value)
        assert model.generate(**inputs, **options).shape[1] == length + new


def test_whatever_reads_the_prompt_gets_it_as_it_was_given(
    llava_next: tuple[Any, Any], inputs: dict[str, Any]
) -> None:
    model, _ = llava_next
    prompt = inputs["input_ids"][0].tolist()
    seen: dict[str, list[int]] = {}

    def note(name: str, result: Callable[[Any], Any]) -> Callable[..., Any]:
        def read(*arguments: Any, **kwargs: Any) -> Any:
            ids = next(a for a in arguments if isinstance(a, Tensor) and a.dtype == torch.long)
            seen[name] = ids.flatten().tolist()
            return result(arguments[-1])

        return read

    streamer = Streamed()
    with HiRED(budget=0.2)(model):
        output = model.generate(
            **inputs,
            max_new_tokens=3,
            streamer=streamer,
            logits_processor=[note("processor", lambda scores: scores)],
            stopping_criteria=[note("criterion", lambda _: torch.tensor([False]))],
            prefix_allowed_tokens_fn=note("prefix", lambda _: list(range(5, 40))),
        )[0].tolist()
    assert seen == {"processor": output[:-1], "criterion": output, "prefix": output[:-1]}
    assert streamer.chunks[0] == prompt == output[: len(prompt)]


@pytest.mark.parametrize(
    "options",
    [{"use_cache": False}, STATIC, {"prompt_lookup_num_tokens": 3}, {"assistant_model": "text"}, BEAMS],
    ids=str,
)
def test_shortened_prompts_give_the_same_in_every_loop(
    options: dict[str, Any], llava_next: tuple[Any, Any], inputs: dict[str, Any]
) -> None:
    """Greedy decoding without a cache, by one's own forward passes, is the measure of the other loops."""
    model, _ = llava_next
    with EvenSplit(budget=0.3)(model), torch.no_grad():
        if options == BEAMS:
            wanted = outcome(llava_next, inputs, {**BEAMS, "use_cache": False})[0].sequences
        else:
            ids = inputs["input_ids"]
            for _ in range(NEW):
                logits = model(**{**inputs, "input_ids": ids, "attention_mask": None}).logits
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            wanted = ids
        assert outcome(llava_next, inputs, options)[0].sequences.equal(wanted)
