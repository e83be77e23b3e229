"""LLaVA-OneVision: full execution is the stock model, on every shape of picture, in mixed batches."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hired_eval.dropping import PartitionLayout
from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.method_configs import method_configs
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from tests import tiny
from tests.models.stock import assert_full_is_stock, generate

SHRUNK = [(500, 500), (400, 300), (170, 160)]
SIZES = [(56, 56), (112, 112), (60, 200), (200, 60), (31, 500), (1, 1), (2, 400), *SHRUNK]
WITHOUT_CLS = ["random", "spatial", "downsample", "divprune"]


def inputs_of(processor: Any, prompts: list[list[tuple[int, int]]]) -> dict[str, torch.Tensor]:
    """A batch of prompts with a picture of each size."""
    images = [[tiny.picture(w, h, seed=w + h) for w, h in sizes] for sizes in prompts]
    text = ["a:" + "<image>" * len(sizes) + "b" * i + "?" for i, sizes in enumerate(prompts)]
    return dict(
        processor(images=[row for row in images if row], text=text, padding=True, return_tensors="pt")
    )


def test_large_grids_are_shrunk(llava_onevision: tuple[Any, Any]) -> None:
    layouts = [family_of(llava_onevision[0]).layout((h, w)) for w, h in SIZES]
    assert [layout.shrunk is not None for layout in layouts] == [size in SHRUNK for size in SIZES]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_full_is_stock_for_each_shape(llava_onevision: tuple[Any, Any], size: tuple[int, int]) -> None:
    model, processor = llava_onevision
    inputs = inputs_of(processor, [[size]])
    assert_full_is_stock(model, inputs)


def test_full_is_stock_in_a_mixed_batch(llava_onevision: tuple[Any, Any]) -> None:
    model, processor = llava_onevision
    inputs = inputs_of(processor, [[size] for size in SIZES])
    stock = generate(model, inputs)
    assert len(set(map(tuple, stock.tolist()))) > 1, "answers must depend on the picture"
    with build("full")(model):
        assert generate(model, inputs).equal(stock)


def test_full_is_stock_with_several_pictures_and_none(llava_onevision: tuple[Any, Any]) -> None:
    model, processor = llava_onevision
    inputs = inputs_of(processor, [[(60, 200), (500, 500)], [], [(112, 112)], [(1, 1), (9, 8), (70, 70)]])
    stock = generate(model, inputs)
    with build("full")(model):
        assert generate(model, inputs).equal(stock)


@pytest.mark.parametrize("sizes", [*([size] for size in SIZES), [(60, 200), (500, 500)], []], ids=str)
def test_answers_of_the_evaluation_are_stock(
    llava_onevision: tuple[Any, Any], sizes: list[tuple[int, int]]
) -> None:
    model, processor = llava_onevision
    pictures = tuple(tiny.picture(w, h, seed=w + h) for w, h in sizes)
    answering = DroppingVLM(Checkpoint(model, processor), build("full"), "a:{images}{question}")
    prepared = answering.prepare(Question("b?", pictures))
    pixels = processor.image_processor(images=[list(pictures)], return_tensors="pt") if pictures else {}
    # which refuses another number of placeholders than its own
    stock = generate(model, {"input_ids": torch.tensor([prepared.input_ids]), **pixels})
    answer = answering.answer([prepared], {"max_new_tokens": 6})[0].text
    assert answer == processor.tokenizer.decode(stock[0], skip_special_tokens=True)


@pytest.mark.parametrize("method", WITHOUT_CLS)
def test_methods_without_cls_keep_their_budget_alone_and_in_a_batch(
    llava_onevision: tuple[Any, Any], method: str
) -> None:
    model, processor = llava_onevision
    family, answers = family_of(model), []
    for newline in ("none", "rows"):
        dropper = build(method, budget=0.3, newline=newline)
        answering = DroppingVLM(Checkpoint(model, processor), dropper, "{images}{question}")
        prompts = [[size] for size in SIZES] + [[(60, 200), (500, 500)]]
        batch = []
        for sizes in prompts:
            pictures = tuple(tiny.picture(w, h, seed=w + h) for w, h in sizes)
            batch.append(answering.prepare(Question("b?", pictures)))
            for (width, height), counts in zip(sizes, batch[-1].counts, strict=True):
                layout = family.layout((height, width), len(sizes))
                assert counts.kept <= counts.allowed == int(0.3 * layout.total_tokens + 1e-9)
                assert counts.kept < counts.full == layout.stock_tokens
        together = answering.answer(batch, {"max_new_tokens": 4})
        alone = [answering.answer([one], {"max_new_tokens": 4})[0] for one in batch]
        assert together == alone
        answers.append([answer.text for answer in together])
    assert answers[0] != answers[1], "newline tokens must matter"


RANKING = [name for name in method_configs() if isinstance(build(name), RankingByAttention)]


@pytest.mark.parametrize("method", RANKING)
def test_attention_received_serves_in_place_of_cls(llava_onevision: tuple[Any, Any], method: str) -> None:
    model, processor = llava_onevision
    kept = []
    for signal in ("received", "auto"):
        dropper = replace(build(method), signal=signal)  # type: ignore[call-arg]
        answering = DroppingVLM(Checkpoint(model, processor), dropper, "{images}{question}")
        for size in [(112, 112), (60, 200), (500, 500)]:
            prepared = answering.prepare(Question("b?", (tiny.picture(*size, seed=3),)))
            (image,) = prepared.images
            assert 0 < image.counts.kept <= (image.counts.allowed or image.layout.total_tokens)
            kept.append((image.packed.partition.tolist(), image.packed.index.tolist()))
    assert kept[:3] == kept[3:]


def test_auto_is_cls_attention_where_there_is_a_cls_token(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    kept = {}
    for signal in ("cls", "auto", "received"):
        dropper = build("hired", budget=0.3, signal=signal)
        answering = DroppingVLM(Checkpoint(model, processor), dropper, "{images}{question}")
        (image,) = answering.prepare(Question("b?", (tiny.picture(112, 112),))).images
        kept[signal] = image.packed.index.tolist(), image.packed.partition.tolist()
    assert kept["auto"] == kept["cls"] != kept["received"]


@pytest.mark.parametrize("method", ["hired", "visionzip", "prumerge"])
def test_methods_that_need_cls_are_refused_by_name(llava_onevision: tuple[Any, Any], method: str) -> None:
    model, processor = llava_onevision
    inputs = inputs_of(processor, [[(112, 112)]])
    names = ", ".join(["full", "spatial", "spatial_sampling", "random", "downsample", "divprune"])
    names += ", hiprune, dart_embedding, cdpruner"
    needs = "needs the CLS token, which SiglipVisionModel"
    with pytest.raises(UserError, match=needs) as refused, build(method)(model):
        generate(model, inputs)
    assert set(str(refused.value).rpartition(": ")[2].split(", ")) == set(names.split(", "))


def test_a_newline_token_stands_behind_a_picture_among_several() -> None:
    layout = PartitionLayout(0, 0, (4, 4), (9, 9), newline_behind=True)
    assert (layout.stock_tokens, layout.total_tokens) == (17, 16)
