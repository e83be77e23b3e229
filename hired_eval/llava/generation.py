"""Greedy generation in which rows that have finished leave the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

STEPS_BEFORE_LEAVING = 16
"""Calling `generate` again costs about as much as some steps, so short answers are not interrupted."""
UNDERSTOOD = {"max_new_tokens", "num_beams", "pad_token_id", "temperature", "top_p", "top_k", "do_sample"}


class HalfFinished(StoppingCriteria):  # type: ignore[misc]
    """Interrupts a batch once half of its rows have finished.

    Args:
        prompt: length of the input.
        ends: ids that end an answer.
    """

    def __init__(self, prompt: int, ends: Tensor) -> None:
        self.prompt, self.ends = prompt, ends

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """(B,): true for all rows, or for none."""
        new = input_ids[:, self.prompt :]
        stop = torch.zeros(len(new), dtype=torch.bool, device=new.device)
        if new.shape[1] < STEPS_BEFORE_LEAVING:
            return stop
        return stop | (2 * finished(new, self.ends).sum() >= len(new))


def finished(new: Tensor, ends: Tensor) -> Tensor:
    """Which rows (B,) of new token ids (B, L) hold an id that ends an answer."""
    return torch.isin(new, ends).any(dim=1)


def generate(model: Any, inputs: dict[str, Any], settings: dict[str, Any]) -> list[list[int]]:
    """New token ids of each row, as `model.generate` gives them.

    When half of the rows have finished after some steps, the others go on without them, with their part of
    the KV cache. Sampling, beams and options that count steps are left to one call of `generate`.

    Args:
        model: stock model.
        inputs: of `generate`, left-padded; may hold a KV cache.
        settings: generation options.
    """
    ends = _ends(model, inputs["input_ids"].device)
    if settings["num_beams"] > 1 or settings.keys() - UNDERSTOOD or not len(ends):
        output: Tensor = model.generate(**inputs, **settings)
        return output[:, inputs["input_ids"].shape[1] :].tolist()
    rows = list(range(len(inputs["input_ids"])))
    answers: list[list[int]] = [[] for _ in rows]
    left = settings["max_new_tokens"]
    while rows and left > 0:
        length = inputs["input_ids"].shape[1]
        result = model.generate(
            **inputs,
            **{**settings, "max_new_tokens": left},
            stopping_criteria=StoppingCriteriaList([HalfFinished(length, ends)]),
            return_dict_in_generate=True,
        )
        new = result.sequences[:, length:]
        for row, ids in zip(rows, new.tolist(), strict=True):
            answers[row] += ids
        left -= new.shape[1]
        going = (~finished(new, ends)).nonzero().squeeze(1)
        rows = [rows[i] for i in going.tolist()]
        if rows and left > 0:
            result.past_key_values.batch_select_indices(going)
            seen = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
            inputs = {
                "input_ids": result.sequences[going],
                "attention_mask": seen[going],
                "past_key_values": result.past_key_values,
            }
    return answers


def _ends(model: Any, device: torch.device) -> Tensor:
    """The ids that end an answer, (n,)."""
    ends = model.generation_config.eos_token_id
    return torch.tensor([] if ends is None else ends, dtype=torch.long, device=device).reshape(-1)
