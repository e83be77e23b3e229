"""Measurements inside the model, on a tiny one: what they record agrees with the model itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hired_eval.dropping import Full, HiRED
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint, load_checkpoint
from hired_eval.records.folder import read_record
from hired_eval.records.store import Store
from hired_eval.reporting.figures import figure2, figure3
from hired_eval.reporting.gallery import entries
from hired_eval.runs.loading import Models
from hired_eval.runs.probes import (
    GENERATED,
    join_accepted,
    partition_of_placeholders,
    partitions_of,
    read_attention,
)
from tests import tiny
from tests.data import truncated_png, write_docvqa
from tests.spine import run_quietly

PROMPT = "ab{images} {question}:"


@pytest.fixture(scope="module")
def eager(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), dtype="float32", device="cpu", attention="eager")


@torch.inference_mode()
def test_attention_is_that_of_the_stock_model_in_one_pass(eager: Checkpoint) -> None:
    """With a KV cache or in one pass over prompt and answer, generated tokens attend alike."""
    llava = DroppingVLM(eager, Full(), PROMPT, share_prefix=False)
    picture = tiny.picture(100, 75)
    prepared = llava.prepare(Question("what?", (picture,)))
    found, answer = read_attention(llava, prepared)
    assert found.shape == (len(prepared.input_ids),)
    assert abs(found.sum() - 1) < 1e-5
    inputs = llava.processor(images=[picture], text="ab<image> what?:", return_tensors="pt")
    ids = eager.model.generate(**inputs, max_new_tokens=GENERATED, do_sample=False)
    new = ids[:, inputs["input_ids"].shape[1] :]
    assert answer == llava.tokenizer.decode(new[0], skip_special_tokens=True)
    steps = [t for t in new[0].tolist() if t != llava.tokenizer.eos_token_id]
    whole = {**inputs, "input_ids": torch.tensor([inputs["input_ids"][0].tolist() + steps])}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    attention = torch.stack(eager.model(**whole, output_attentions=True).attentions)[:, 0].mean(dim=(0, 1))
    length = len(prepared.input_ids)
    expected = attention[length:, :length].sum(dim=0)
    np.testing.assert_allclose(found, (expected / expected.sum()).numpy(), atol=2e-4)


@torch.inference_mode()
def test_placeholders_are_told_apart_with_newline_tokens(eager: Checkpoint) -> None:
    llava = DroppingVLM(eager, Full(), PROMPT)
    prepared = llava.prepare(Question("x", (tiny.picture(112, 112),)))
    partition = partition_of_placeholders(prepared)
    side = tiny.SIDE
    assert len(partition) == prepared.counts[0].kept
    assert (partition[: side * side] == 0).all()
    # 2 x 2 sub-images of side x side tokens, and one newline token a row, with the sub-image at the row's end
    assert np.bincount(partition).tolist() == [side**2, side**2, side**2 + side, side**2, side**2 + side]


@torch.inference_mode()
def test_partitions_are_what_the_vision_tower_sees(eager: Checkpoint) -> None:
    llava = DroppingVLM(eager, HiRED(), PROMPT)
    pixels = partitions_of(llava, tiny.picture(112, 112).convert("L").convert("RGB"))
    assert pixels.shape == (5, tiny.SIZE, tiny.SIZE, 3)
    assert pixels.dtype == np.uint8
    assert (np.abs(pixels[..., 0].astype(int) - pixels[..., 2]) <= 1).all(), "grey stays grey"
    assert pixels.std() > 10


@pytest.mark.parametrize("kind", ["generation_attention", "cls_attention", "gallery"])
def test_a_measurement_leaves_a_record_that_reports_read(
    kind: str, tiny_run: list[str], tmp_path: Path
) -> None:
    overrides = [*tiny_run, f"runs_dir={tmp_path}", f"measure={kind}", "limit=3"]
    models = Models()
    outcome = run_quietly(*overrides, "method=full", models=models)
    assert outcome.record.status == "complete"
    assert outcome.record.samples == 3
    store = Store(tmp_path)
    arrays = store.arrays(outcome.record)
    if kind == "generation_attention":
        assert arrays["kinds"].tolist() == ["system", "text", "full-image", "sub-images"]
        np.testing.assert_allclose(arrays["mass"].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(arrays["token_share"].sum(axis=1), 1)
        assert (np.diff(arrays["cumulative"], axis=1) >= -1e-9).all()
        figure2(store)
    elif kind == "cls_attention":
        assert arrays["maps"].shape == (3, 4, tiny.SIDE**2)
        assert (arrays["maps"].sum(axis=-1) <= 4 + 1e-5).all(), "four heads, each at most 1"
        figure3(store)
    else:
        assert [e.benchmark for e in entries(store)] == ["DocVQA"] * 3
        assert (
            len(arrays["kept_0"]) + arrays["layout_0"][0] * tiny.SIDE
            >= store.samples(outcome.record)["kept"][0]
        )
    assert run_quietly(*overrides, "method=full", models=models).reused


def test_a_gallery_shows_the_tokens_of_the_method(tiny_run: list[str], tmp_path: Path) -> None:
    overrides = [*tiny_run, f"runs_dir={tmp_path}", "measure=gallery", "limit=1"]
    for method in ("full", "hired"):
        run_quietly(*overrides, f"method={method}")
    (entry,) = entries(Store(tmp_path))
    assert [s.label for s in entry.shown] == ["Full", "HiRED 20 %"]
    assert entry.shown[1].kept < entry.shown[0].kept == entry.shown[0].full


def test_a_gallery_alone_says_what_lmms_eval_says_of_each_answer(tmp_path: Path) -> None:
    options = ["task=docvqa", "method=spatial", "budget=0.4", f"runs_dir={tmp_path}"]
    gallery = run_quietly(*options, "measure=gallery", "limit=6").record
    accuracy = run_quietly(*options, "limit=12", "order=dataset").record
    store = Store(tmp_path)
    scores = store.samples(accuracy).set_index("doc_id")["score"]
    shown = store.samples(gallery).set_index("doc_id")["score"]
    assert set(shown) >= {0.0, 1.0}
    assert shown.to_dict() == {number: scores[number] for number in shown.index}


def test_a_failed_run_leaves_a_record_that_says_so(tiny_run: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer 9"):
        run_quietly(*tiny_run, f"runs_dir={tmp_path}", "method.final_layer=9")
    (file,) = tmp_path.glob("*/record.json")
    record = read_record(file.parent)
    assert record is not None
    assert record.status == "failed"
    assert "layer 9" in (record.error or "")
    assert Store(tmp_path).failed() == [record]
    assert Store(tmp_path).accuracy() == []


def test_a_sweep_loads_its_model_once(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def counted(source: str, **options: object) -> Checkpoint:
        loads.append(source)
        return load_checkpoint(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("hired_eval.models.checkpoint.load_checkpoint", counted)
    models = Models()
    for budget in (0.2, 0.4):
        run_quietly(*tiny_run, f"runs_dir={tmp_path}", f"budget={budget}", models=models)
    assert len(loads) == 1
    run_quietly(*tiny_run, f"runs_dir={tmp_path}", "model.dtype=bfloat16", models=models)
    assert len(loads) == 2


def test_an_unknown_measurement_is_refused(tiny_run: list[str]) -> None:
    with pytest.raises(UserError, match=r"measure must be 'accuracy', .*gallery.*, got 'speed'"):
        run_quietly(*tiny_run, "measure=speed")


@pytest.mark.parametrize(
    ("named", "target", "document", "shown"),
    [
        ("answer", "answer", {"answers": [{"answer": "star"}, {"answer": "star"}, {"answer": "a star"}]},
         "star, a star"),
        ("answer", "answer", {"answers": ["stop", "stop", "STOP"]}, "stop, STOP"),
        ("answers", ["42", "forty-two"], {"answers": ["42", "forty-two"]}, "42, forty-two"),
        ("answer", "yes", {"answer": "yes"}, "yes"),
    ],
    ids=["vqav2", "textvqa", "docvqa", "chartqa"],
)  # fmt: skip
def test_accepted_answers_are_shown_once_each(
    named: str, target: Any, document: dict[str, Any], shown: str
) -> None:
    task: Any = SimpleNamespace(
        config=SimpleNamespace(doc_to_target=named), doc_to_target=lambda document: target
    )
    assert join_accepted(task, document) == shown


def test_a_truncated_picture_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """lmms-eval has Pillow fill up what is missing; a picture of grey must not pass for the benchmark's."""
    damaged = write_docvqa(tmp_path / "damaged", 4, [tiny.picture(60, 60), truncated_png()])
    settings = (
        "measure=gallery",
        f"model.path={tiny_checkpoint}",
        f"data.path={damaged}",
        f"runs_dir={tmp_path}",
    )
    with pytest.raises(UserError, match=r"docvqa_val document 2: its image cannot be read: .*truncated"):
        run_quietly(*settings)


def test_a_picture_of_more_than_eight_bits_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    deep = write_docvqa(tmp_path / "deep", 2, [Image.new("I;16", (60, 60))])
    settings = (
        "measure=gallery",
        f"model.path={tiny_checkpoint}",
        f"data.path={deep}",
        f"runs_dir={tmp_path}",
    )
    with pytest.raises(UserError, match=r"docvqa_val document 0: an image of mode I;16 has more than 8 bits"):
        run_quietly(*settings)
