"""Which questions can be answered together: what of a model and of its options looks at one row alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import DynamicCache, GenerationConfig, PretrainedConfig
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

# options of `generate` that padding and the other rows of a batch do not reach: those that look at the logits
# of a step, or at how many tokens are new
ROWWISE = {
    "max_new_tokens", "min_new_tokens", "max_length", "early_stopping", "length_penalty", "do_sample",
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "exponential_decay_length_penalty",
    "renormalize_logits", "remove_invalid_values", "pad_token_id", "bos_token_id", "eos_token_id",
    "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "transformers_version",
}  # fmt: skip
# values with which other options do nothing; None does nothing everywhere
IDLE = {
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "use_cache": True, "min_length": 0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "diversity_penalty": 0.0, "guidance_scale": 1.0, "is_assistant": False,
    "token_healing": False, "low_memory": False, "use_mtp": False, "disable_compile": False,
}  # fmt: skip


def looks_at_rows_alone(config: GenerationConfig, settings: Mapping[str, Any]) -> bool:
    """Whether no option of a generation reaches beyond a row's own new tokens.

    Others, e.g. a repetition penalty, read the padding of a row too, or choose another cache or way of
    decoding: with them an answer would depend on what is answered beside it.

    Args:
        config: the checkpoint's own generation options.
        settings: options that take precedence over it.
    """
    options = {**config.to_diff_dict(), **settings}
    return all(
        name in ROWWISE or name.startswith("_") or value is None or value == IDLE.get(name)
        for name, value in options.items()
    )


def can_share_prefixes(config: PretrainedConfig) -> bool:
    """Whether the KV cache of a prompt's beginning serves every question that follows it.

    It does where each layer attends to all that is before, whatever stands between: a window or chunk counts
    places of padding, and a recurrent state cannot be cut. It also must not depend on how long the prompt is.

    Args:
        config: of a LLaVA model.
    """
    return _layers(config) <= {DynamicLayer} and _has_fixed_rotation(config)


def can_answer_together(config: PretrainedConfig) -> bool:
    """Whether questions of different lengths can go through the language model in one left-padded batch.

    Not where rotary frequencies follow the longest row, nor where a state runs over the padding.

    Args:
        config: of a LLaVA model.
    """
    attention = {DynamicLayer, DynamicSlidingWindowLayer, DummyLayer}
    return _layers(config) <= attention and _has_fixed_rotation(config)


def _layers(config: PretrainedConfig) -> set[type]:
    """The kinds of layers of the cache that transformers makes for a language model."""
    return {type(layer) for layer in DynamicCache(config=config.get_text_config(decoder=True)).layers}


def _has_fixed_rotation(config: PretrainedConfig) -> bool:
    """Whether rotary frequencies are the same for every length (transformers' `dynamic_rope_update`)."""
    found = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return not any("dynamic" in kind or kind == "longrope" for kind in _rotations(found))


def _rotations(parameters: Mapping[str, Any]) -> Iterator[str]:
    """Kinds of rotary embedding, of the model or of each type of layer."""
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _rotations(value)
        elif name in ("rope_type", "type") and isinstance(value, str):
            yield value
