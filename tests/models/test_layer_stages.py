"""Stages inside the language model, alone and behind a stage before it, by both ways of applying a method."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from hired_eval.dropping import TokenDropper
from hired_eval.dropping.composed import Composed
from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.full import Full
from hired_eval.dropping.hired import HiRED
from hired_eval.dropping.spatial import Spatial
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingLlava, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.inside import inside
from tests import tiny
from tests.spine import run_quietly

SIZES = [(112, 112), (60, 200), (31, 500), (100, 75)]
PROMPT = "{images}a:{question}"
EARLY = FastV(layer=1, keep=0.3)
METHODS: list[TokenDropper] = [EARLY, Composed((HiRED(budget=0.4), EARLY)), FastV(layer=1, keep=0.05)]


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    """A language model whose attention is far from even, so that it matters which tokens stay."""
    model, processor = tiny.llava_next(seed=3)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.q_proj.weight.mul_(6)
    return model, processor


def questions() -> list[Question]:
    shown = [(tiny.picture(*size, seed=i),) for i, size in enumerate(SIZES)]
    return [Question("b" * (2 + i) + "?", pictures) for i, pictures in enumerate([*shown, ()])]


def answers(parts: tuple[Any, Any], method: TokenDropper, *, together: bool) -> list[str]:
    answering = DroppingLlava(Checkpoint(*parts), method, PROMPT)
    batch = [answering.prepare(question) for question in questions()]
    groups = [batch] if together else [[one] for one in batch]
    return [a.text for group in groups for a in answering.answer(group, {"max_new_tokens": 8})]


def generated(parts: tuple[Any, Any], method: TokenDropper, chosen: list[int]) -> list[str]:
    """The same answers through `with method(model)` on the stock model."""
    model, processor = parts
    asked = [questions()[i] for i in chosen]
    images = [picture for question in asked for picture in question.images]
    text = ["<image>" * len(q.images) + f"a:{q.text}" for q in asked]
    inputs = processor(images=images or None, text=text, padding=True, return_tensors="pt")
    with method(model), torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return list(processor.tokenizer.batch_decode(new, skip_special_tokens=True))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_answers_do_not_depend_on_the_batch_or_the_way_of_applying(
    parts: tuple[Any, Any], method: TokenDropper
) -> None:
    expected = answers(parts, method, together=True)
    assert answers(parts, method, together=False) == expected
    everything = list(range(len(expected)))
    assert generated(parts, method, everything) == expected
    assert [generated(parts, method, [i])[0] for i in everything] == expected
    assert expected[:-1] != answers(parts, method.vision, together=True)[:-1], "it must matter what stays"


def test_nothing_dropped_is_stock(parts: tuple[Any, Any]) -> None:
    whole = FastV(layer=1, keep=1.0)
    assert answers(parts, whole, together=True) == answers(parts, Full(), together=True)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_likelihoods_do_not_depend_on_the_batch(parts: tuple[Any, Any], method: TokenDropper) -> None:
    answering = DroppingLlava(Checkpoint(*parts), method, PROMPT)
    batch = [answering.prepare(question, "cdefg"[: 1 + i % 3]) for i, question in enumerate(questions())]
    together = answering.likelihood(batch)
    alone = [answering.likelihood([one])[0] for one in batch]
    assert [x.greedy for x in together] == [x.greedy for x in alone]
    losses = torch.tensor([[x.loss for x in together], [x.loss for x in alone]])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=1e-4)
    whole = [x.loss for x in DroppingLlava(Checkpoint(*parts), method.vision, PROMPT).likelihood(batch)]
    assert not torch.allclose(losses[0][:-1], torch.tensor(whole)[:-1], atol=1e-3)


def test_a_likelihood_is_that_of_the_answer_token_by_token(parts: tuple[Any, Any]) -> None:
    """What stays is chosen by the prompt's last token, not by the last one of the continuation."""
    answering = DroppingLlava(Checkpoint(*parts), EARLY, PROMPT)
    question = questions()[0]
    model, ids = parts[0], torch.tensor([answering.prepare(question).input_ids])
    images = [image.embeddings for image in answering.prepare(question).images]
    scored = answering.prepare(question, "cd")
    with inside(model, [EARLY]) as stages, torch.inference_mode():
        stages.expect(ids == model.config.image_token_id)
        output = model(input_ids=ids, use_cache=True, **answering.family.inputs(images))
        losses, last = [], scored.input_ids[-scored.scored :]
        for token in last:
            losses.append(-output.logits[0, -1].log_softmax(-1)[token])
            output = model(
                input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True
            )
    assert answering.likelihood([scored])[0].loss == pytest.approx(float(torch.stack(losses).mean()), 1e-4)


def test_records_hold_the_counts_of_each_layer(tiny_run: list[str], tmp_path: Path) -> None:
    method = ["method=full", "~method.newline", "method._target_=hired_eval.dropping.fastv.FastV"]
    options = [*method, "+method.layer=1", "+method.keep=0.25", f"runs_dir={tmp_path}", "limit=3"]
    outcome = run_quietly(*tiny_run, *options)
    samples = pd.read_parquet(outcome.folder / "samples.parquet")
    given = samples["full"]
    assert [json.loads(row) for row in samples["by_layer"]] == [[n, n // 4] for n in given]
    assert samples["kept"].tolist() == [(n + n // 4) / 2 for n in given]
    tokens = outcome.record.tokens
    assert tokens.kept is not None
    assert tokens.kept.mean == pytest.approx(samples["kept"].mean())
    again = run_quietly(*tiny_run, *options)
    assert again.reused
    with pytest.raises(UserError, match="measure=efficiency does not look at tokens that leave inside"):
        run_quietly(*tiny_run, *options, "measure=efficiency")


def test_everything_is_undone(parts: tuple[Any, Any]) -> None:
    model = parts[0]
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    stock = answers(parts, Full(), together=True)
    for method in METHODS:
        generated(parts, method, [0, 1])
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == before
    assert answers(parts, Full(), together=True) == stock


def test_what_could_not_come_out_right_is_refused(parts: tuple[Any, Any]) -> None:
    model, processor = parts
    inputs = dict(processor(images=tiny.picture(60, 60), text="<image>a", return_tensors="pt"))
    with EARLY(model), torch.inference_mode():
        with pytest.raises(UserError, match="use_cache=False"):
            model.generate(**inputs, max_new_tokens=2, use_cache=False)
        first = model(**inputs, use_cache=True)
        mask = inputs["attention_mask"].repeat(1, 2)
        with pytest.raises(UserError, match="give the whole conversation"):
            model(**inputs | {"attention_mask": mask}, past_key_values=first.past_key_values)
    with pytest.raises(UserError, match="HiRED and Spatial both choose"):
        Composed((HiRED(), Spatial()))
    with pytest.raises(UserError, match="both act at layer 1"):
        Composed((EARLY, EARLY))
