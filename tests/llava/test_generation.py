"""Rows that have finished leave the batch, and every answer stays what it was."""

from typing import Any

import pytest
import torch

from hired_eval import Full
from hired_eval.llava import generation
from hired_eval.llava.answering import DroppingLlava, Question
from hired_eval.llava.checkpoint import Checkpoint
from tests import tiny


@pytest.fixture
def restless() -> tuple[Any, Any]:
    """A tiny model whose answers end after very different numbers of tokens."""
    model, processor = tiny.llava_next()
    directions = torch.randn(48, 100, generator=torch.Generator().manual_seed(0))
    model.generation_config.eos_token_id = [2, *range(7, 19)]
    model.lm_head.register_forward_hook(
        lambda module, args, logits: logits + 50 * torch.sin(30 * args[0] @ directions)
    )
    return model, processor


def answers(checkpoint: tuple[Any, Any], options: dict[str, Any], share: bool) -> tuple[list[str], int]:
    """Answers to eight questions, and how many rows went through the language model."""
    llava = DroppingLlava(Checkpoint(*checkpoint), Full(), "U:{images}\n{question} A:", share_prefix=share)
    rows: list[int] = []
    handle = checkpoint[0].model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    pictures = [tiny.picture(60, 60, seed=i) for i in range(4)]
    prepared = [llava.prepare(Question(f"{'a' * i}?", (pictures[i // 2],))) for i in range(8)]
    try:
        return [a.text for a in llava.answer(prepared, dict(options))], sum(rows)
    finally:
        handle.remove()


@pytest.mark.parametrize("share", [True, False])
def test_finished_rows_leave_and_answers_stay(
    restless: tuple[Any, Any], share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_new_tokens": 60}
    monkeypatch.setattr(generation, "STEPS_BEFORE_LEAVING", 10**6)
    plain, all_rows = answers(restless, options, share)
    monkeypatch.setattr(generation, "STEPS_BEFORE_LEAVING", 4)
    leaving, fewer_rows = answers(restless, options, share)
    assert leaving == plain
    assert len({len(text) for text in plain}) > 3, "answers must differ in length"
    assert fewer_rows < 0.9 * all_rows


def test_no_answer_is_longer_than_allowed(restless: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "STEPS_BEFORE_LEAVING", 1)
    for length in (1, 2, 9):
        texts, _ = answers(restless, {"max_new_tokens": length}, True)
        assert max(len(text.split(" ")) for text in texts) <= length


def test_options_that_count_steps_are_left_to_one_call(
    restless: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "STEPS_BEFORE_LEAVING", 1)
    calls: list[int] = []
    stock = restless[0].generate
    monkeypatch.setattr(restless[0], "generate", lambda **kwargs: calls.append(1) or stock(**kwargs))
    answers(restless, {"max_new_tokens": 12, "min_new_tokens": 5}, True)
    assert len(calls) == 1
    answers(restless, {"max_new_tokens": 12}, True)
    assert len(calls) > 2
