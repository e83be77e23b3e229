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
from hired_eval.dropping.registry import build, build_as_typed
from hired_eval.dropping.sparsevlm import SparseVLM
from hired_eval.dropping.spatial import Spatial
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.inside import inside
from hired_eval.reporting.rows import label_of
from hired_eval.runs.loading import Models
from tests import tiny
from tests.spine import command_line, run_quietly

SIZES = [(112, 112), (60, 200), (31, 500), (100, 75)]
PROMPT = "{images}a:{question}"
EARLY = FastV(layer=1, keep=0.3)
METHODS: list[TokenDropper] = [
    EARLY,
    Composed((HiRED(budget=0.4), EARLY)),
    FastV(layer=1, keep=0.05),
    SparseVLM(budget=0.7),
]


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
    answering = DroppingVLM(Checkpoint(*parts), method, PROMPT)
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
    answering = DroppingVLM(Checkpoint(*parts), method, PROMPT)
    batch = [answering.prepare(question, "cdefg"[: 1 + i % 3]) for i, question in enumerate(questions())]
    together = answering.likelihood(batch)
    alone = [answering.likelihood([one])[0] for one in batch]
    assert [x.greedy for x in together] == [x.greedy for x in alone]
    losses = torch.tensor([[x.loss for x in together], [x.loss for x in alone]])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=1e-4)
    whole = [x.loss for x in DroppingVLM(Checkpoint(*parts), method.vision, PROMPT).likelihood(batch)]
    assert not torch.allclose(losses[0][:-1], torch.tensor(whole)[:-1], atol=1e-3)


def test_a_likelihood_is_that_of_the_answer_token_by_token(parts: tuple[Any, Any]) -> None:
    """What stays is chosen by the prompt's last token, not by the last one of the continuation."""
    answering = DroppingVLM(Checkpoint(*parts), EARLY, PROMPT)
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
    options = ["method=fastv", "method.layer=1", "method.keep=0.25", f"runs_dir={tmp_path}", "limit=3"]
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
    with pytest.raises(UserError) as refused:
        run_quietly(*tiny_run, *options, "measure=generation_attention")
    assert str(refused.value) == (
        "measure=generation_attention does not look at tokens that leave inside the language model, as those "
        "of FastV do; measure=accuracy, gallery and efficiency do"
    )


def test_a_composition_is_a_method_of_both_names(tiny_run: list[str], tmp_path: Path) -> None:
    both = ["method=hired+fastv", "method.fastv.layer=1", "method.hired.budget=0.4", f"runs_dir={tmp_path}"]
    options = [*both, "method.fastv.keep=0.25", "limit=3"]
    models = Models()
    outcome = run_quietly(*tiny_run, *options, models=models)
    record = outcome.record
    assert record.run.startswith("docvqa-mini-hired+fastv-")
    assert record.method.target == "hired_eval.dropping.HiRED + hired_eval.dropping.FastV"
    assert (record.method.options["HiRED.budget"], record.method.options["FastV.keep"]) == (0.4, 0.25)
    assert record.budget is None
    assert label_of(record) == "HiRED + FastV, FastV.keep=0.25, FastV.layer=1, HiRED.budget=0.4"
    samples = pd.read_parquet(outcome.folder / "samples.parquet")
    for row, kept, allowed in zip(samples["by_layer"], samples["kept"], samples["allowed"], strict=True):
        given, left = json.loads(row)
        assert left == given // 4
        assert (given + left) / 2 == kept <= allowed
    assert run_quietly(*tiny_run, *options, models=models).reused
    other = run_quietly(*tiny_run, *both, "budget=0.3", "limit=3", models=models)
    assert other.record.run != record.run
    assert other.record.run.startswith("docvqa-mini-hired+fastv-0.3-")
    assert label_of(other.record) == "HiRED + FastV 30 %, FastV.layer=1, HiRED.budget=0.4"
    samples = pd.read_parquet(other.folder / "samples.parquet")
    assert (samples["kept"] <= samples["allowed"]).all()
    assert other.record.tokens.kept is not None
    assert other.record.tokens.allowed is not None
    assert other.record.tokens.allowed.mean - other.record.tokens.kept.mean < 1


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (["method=hired+fastw"], "there is no method 'fastw'; did you mean fastv"),
        (["method=hired+fastv", "method.fastv.kep=0.1"], "there is no option 'kep' of method fastv"),
        (
            ["method=hired+fastv", "method.keep=0.1"],
            "method.keep: hired+fastv has the options of its methods; write method.NAME.OPTION=VALUE with "
            "NAME one of hired, fastv",
        ),
        (["method=hired+hired"], "hired+hired names hired twice; name each method once"),
        (
            ["method=hired+spatial"],
            "HiRED and Spatial both choose tokens before the language model; combine one of them with stages "
            "inside it",
        ),
        (
            ["method=fastv+dart", "limit=1", "task=docvqa"],
            "FastV and DART both act at layer 2; give them different layers",
        ),
        (
            ["method=prumerge+full", "budget=0.2"],
            "PruMerge + Full has no token budget of its own; leave budget=0.2 out",
        ),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_compositions_that_make_no_sense_are_one_line(
    typed: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(monkeypatch, *typed) == 1
    assert text in capsys.readouterr().err


def test_a_composition_by_name_in_python() -> None:
    method = build_as_typed("hired+fastv", {"hired.budget": "0.4", "fastv.layer": "1", "budget": "0.3"})
    assert method == Composed((HiRED(budget=0.4), FastV(layer=1, budget=0.3)))
    with pytest.raises(UserError) as refused:
        build("hired+fastv", keep=0.2)
    assert str(refused.value) == (
        "hired+fastv has no option 'keep' of its own; put a method's name in front, e.g. hired.keep"
    )


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
