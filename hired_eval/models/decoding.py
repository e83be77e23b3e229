"""What a task asks of decoding: checked, and in the words of transformers' `generate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hired_eval.errors import UserError

NUMBERS: dict[str, tuple[float, bool]] = {
    "max_new_tokens": (1, True),
    "min_new_tokens": (0, True),
    "num_beams": (1, True),
    "top_k": (0, True),
    "temperature": (0, False),
    "top_p": (0, False),
    "repetition_penalty": (0, False),
    "no_repeat_ngram_size": (0, True),
    "length_penalty": (-math.inf, False),
}
"""Generation options that are numbers: the least each may be, and whether it is a whole number."""
TOKEN_IDS = ("suppress_tokens", "begin_suppress_tokens")
"""Generation options that are lists of token ids, which no answer may hold, or none may begin with."""
OF_SAMPLING = ("temperature", "top_p", "top_k")
TOP_K = 50
"""What `generate` samples from where neither task nor checkpoint names top_k (transformers 5)."""


@dataclass(frozen=True)
class Decoding:
    """How an answer is decoded.

    Attributes:
        settings: options of `generate`, without those of sampling.
        until: texts that end an answer.
        sampling: temperature, top_p and top_k as far as named; None: greedy, or beams.
        remarks: what was left out, one line each.
    """

    settings: dict[str, Any]
    until: tuple[str, ...]
    sampling: dict[str, Any] | None
    remarks: tuple[str, ...]


def read_decoding(options: dict[str, Any]) -> Decoding:
    """The decoding that a task's generation options ask for.

    As in lmms-eval's own models, answers are sampled only at a temperature above 0. An option of null is not
    set. One that `generate` does not know is meant for another model, and left out with a remark.

    Args:
        options: `generation_kwargs` of a task of lmms-eval.

    Raises:
        UserError: a value that makes no sense, or an option of `generate` that is not kept here.
    """
    given = {name: value for name, value in options.items() if value is not None}
    until = given.pop("until", [])
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
        raise UserError(f"the generation option until must be a text or a list of texts, got {until!r}")
    wanted = given.pop("do_sample", None)
    if not isinstance(wanted, bool | None):
        raise UserError(f"the generation option do_sample must be true or false, got {wanted!r}")
    settings: dict[str, Any] = {"max_new_tokens": 1024, "num_beams": 1}
    settings |= {name: _number(name, given.pop(name)) for name in NUMBERS if name in given}
    settings |= {name: _token_ids(name, given.pop(name)) for name in TOKEN_IDS if name in given}
    known = given.keys() & vars(GenerationConfig()).keys()
    if known:
        name = min(known)
        raise UserError(
            f"the generation option {name}={given[name]!r} is not kept here; take it out of the task's "
            f"generation_kwargs (kept are until, do_sample, {', '.join((*NUMBERS, *TOKEN_IDS))})"
        )
    remarks = []
    if given:
        names = ", ".join(f"{name}={value!r}" for name, value in given.items())
        remarks.append(f"generation options for other models are left out: {names}")
    of_sampling = {name: settings.pop(name) for name in OF_SAMPLING if name in settings}
    if of_sampling.get("top_p", 1) > 1:
        raise UserError(f"the generation option top_p must be from 0 to 1, got {of_sampling['top_p']!r}")
    warm = of_sampling.get("temperature", 0) > 0
    if wanted is not None and wanted != warm:
        remarks.append(
            "do_sample=true without a temperature above 0: answers are decoded without sampling"
            if wanted
            else f"do_sample=false with temperature={of_sampling['temperature']}: answers are not sampled"
        )
    sample = warm and wanted is not False
    if sample and settings["num_beams"] > 1:
        raise UserError(
            f"sampling with num_beams={settings['num_beams']} is not offered; set num_beams or temperature "
            "to null in the task's generation_kwargs"
        )
    return Decoding(settings, tuple(filter(None, stops)), of_sampling if sample else None, tuple(remarks))


def _number(name: str, value: Any) -> float:
    least, whole = NUMBERS[name]
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least or (whole and value != int(value)):
        what = "a whole number" if whole else "a number"
        bound = "" if least == -math.inf else f" of at least {least}"
        raise UserError(f"the generation option {name} must be {what}{bound}, got {value!r}")
    return int(value) if whole else float(value)


def _token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list | tuple) or not all(type(token) is int and token >= 0 for token in value):
        raise UserError(f"the generation option {name} must be a list of token ids, got {value!r}")
    return list(value)


def make_sampler(
    sampling: dict[str, Any], own: GenerationConfig, seeds: Sequence[int]
) -> LogitsProcessorList:
    """What makes greedy decoding draw: the distribution that `generate` samples from, and noise for each row.

    Args:
        sampling: of `Decoding`.
        own: the checkpoint's options, for what the task does not name.
        seeds: one for each row, so that a row's draws depend on no other row.
    """
    named: dict[str, Any] = {name: getattr(own, name, None) for name in ("top_p", "top_k")} | sampling
    top_k = TOP_K if named["top_k"] is None else named["top_k"]
    processors: list[LogitsProcessor] = [TemperatureLogitsWarper(float(named["temperature"]))]
    if top_k > 0:
        processors.append(TopKLogitsWarper(top_k))
    if named["top_p"] is not None and named["top_p"] < 1:
        processors.append(TopPLogitsWarper(named["top_p"]))
    return LogitsProcessorList([*processors, Noise(seeds)])


class Noise(LogitsProcessor):  # type: ignore[misc]
    """Adds noise to logits, so that the largest is a draw from their softmax (Gumbel, 1954).

    Args:
        seeds: one for each row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits (B, V) with their noise."""
        waits = [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators]
        noise = -torch.stack(waits).clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores.float() + noise.to(scores.device)
