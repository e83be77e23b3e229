"""positions=compact|original, held against the stock model with dropped tokens masked."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import InternVLProcessor

from hired_eval.dropping import PartitionLayout
from hired_eval.dropping.registry import build
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.shortened_inputs import encode_images
from hired_eval.models.visual_tokens import VisualTokens
from tests import tiny
from tests.models.stock import generate

SIZES = [(100, 50), (90, 100)]
LARGE = [(160, 150), (50, 160)]
"""Grids that OneVision shrinks, among others."""
ONE_DIMENSIONAL = ["llava", "llava_next", "llava_onevision", "internvl"]
PROMPT = "a{images}{question}"
EVERY = [*ONE_DIMENSIONAL, "qwen2_5_vl"]


def stock_order(layout: PartitionLayout) -> list[tuple[int, int]]:
    """(partition, index) of each visual token of the stock model, (-1, row) for a newline token."""
    rows, cols = layout.tile
    if layout.full_image_last or not layout.sub_images:
        return [(p, i) for p in range(layout.partitions) for i in range(rows * cols)]
    top, bottom, left, right = layout.unpadded()
    order = [(0, i) for i in range(rows * cols)]
    for y in range(top, bottom):
        order += [
            (1 + y // rows * layout.cols + x // cols, y % rows * cols + x % cols) for x in range(left, right)
        ]
        order.append((-1, y - top))
    return order


def places(image: VisualTokens) -> list[int]:
    """Where an image's kept tokens and newline tokens are among the stock model's."""
    order = stock_order(image.layout)
    packed, found = image.packed, []
    for partition, index, newlines in zip(
        packed.partition.tolist(), packed.index.tolist(), packed.newlines_after.tolist(), strict=True
    ):
        found.append(order.index((partition, index)))
        if newlines:
            found.append(next(i for i in range(found[-1], len(order)) if order[i][0] == -1))
    return found


def prompts(processor: Any, sizes: list[tuple[int, int]]) -> Any:
    """Two questions, one of them longer, about one picture each."""
    mark = getattr(processor, "image_token", "<image>")
    mark = f"<|vision_start|>{mark}<|vision_end|>" if "vision" in str(processor.image_token) else mark
    images = [tiny.picture(w, h, seed=w) for w, h in sizes]
    texts = [f"a{mark}bc", f"abcd{mark}e"]
    processor.tokenizer.padding_side = "left"
    made = processor(images=images, text=texts, return_tensors="pt", padding=True)
    if isinstance(processor, InternVLProcessor):
        # which the processor does not tell
        made["image_sizes"] = [(h, w) for w, h in sizes]
    return made


def masked(model: Any, inputs: Any, method: Any) -> tuple[Any, list[list[int]]]:
    """The stock model's inputs with dropped tokens hidden, and the columns left of each row's image."""
    with torch.inference_mode():
        _, images = encode_images(model, method, dict(inputs))
    mask, left = inputs["attention_mask"].clone(), []
    for row, image in enumerate(images):
        columns = (inputs["input_ids"][row] == model.config.image_token_id).nonzero().squeeze(1)
        kept = columns[places(image)]
        mask[row, columns] = 0
        mask[row, kept] = 1
        left.append(kept.tolist())
    return {**inputs, "attention_mask": mask}, left


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_full_is_stock_with_either(architecture: str, positions: str, request: pytest.FixtureRequest) -> None:
    model, processor = request.getfixturevalue(architecture)
    inputs = prompts(processor, LARGE)
    with torch.inference_mode():
        logits = model(**inputs).logits
        stock = generate(model, inputs)
        with build("full", positions=positions)(model):
            torch.testing.assert_close(model(**inputs).logits, logits)
            assert generate(model, inputs).equal(stock)


@pytest.mark.parametrize("architecture", ONE_DIMENSIONAL)
@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("newline", ["none", "rows"])
def test_kept_tokens_have_the_positions_that_are_asked_for(
    architecture: str, positions: str, newline: str, request: pytest.FixtureRequest
) -> None:
    model, processor = request.getfixturevalue(architecture)
    inputs = prompts(processor, SIZES)
    method = build("random", budget=0.4, newline=newline, positions=positions)
    hidden, left = masked(model, inputs, method)
    count = (inputs["attention_mask"] if positions == "original" else hidden["attention_mask"]).cumsum(-1) - 1
    told = {**hidden, "position_ids": count.clamp(min=0)}
    with torch.inference_mode():
        expected, logits = generate(model, told), model(**told).logits[:, -1]
        other = {**hidden, "position_ids": (hidden["attention_mask"].cumsum(-1) - 1).clamp(min=0)}
        if positions == "original":
            assert not torch.allclose(model(**other).logits[:, -1], logits), "positions decide"
        with method(model):
            given = {**inputs, "position_ids": (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)}
            torch.testing.assert_close(model(**given).logits[:, -1], logits)
            assert generate(model, inputs).equal(expected)
    assert all(len(columns) for columns in left)


@pytest.mark.parametrize("architecture", ["llava_next", "internvl"])
def test_without_mask_and_positions_the_prompt_is_counted_as_it_was_given(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    model, processor = request.getfixturevalue(architecture)
    mark = processor.image_token
    inputs = processor(images=tiny.picture(*SIZES[0]), text=f"a{mark}bc", return_tensors="pt")
    method = build("random", budget=0.3, positions="original")
    hidden, _ = masked(model, inputs, method)
    hidden["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]
    following = torch.tensor([[7, 8]])
    with torch.inference_mode():
        first = model(**hidden, use_cache=True)
        length = inputs["input_ids"].shape[1]
        second = model(
            input_ids=following,
            past_key_values=first.past_key_values,
            attention_mask=torch.cat([hidden["attention_mask"], torch.ones(1, 2, dtype=torch.long)], dim=1),
            position_ids=torch.arange(length, length + 2)[None],
        )
        with method(model):
            del inputs["attention_mask"]
            ours = model(**inputs, use_cache=True)
            torch.testing.assert_close(ours.logits[:, -1], first.logits[:, -1])
            more = model(input_ids=following, past_key_values=ours.past_key_values)
    torch.testing.assert_close(more.logits, second.logits)


@pytest.mark.parametrize("architecture", ["llava_next", "internvl", "qwen2_5_vl"])
def test_questions_are_answered_as_with_the_method_applied_to_the_model(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    model, processor = request.getfixturevalue(architecture)
    checkpoint = Checkpoint(model, processor)
    images = [tiny.picture(w, h, seed=w) for w, h in SIZES]
    questions = [Question("bc", (images[0],)), Question("e", (images[1],)), Question("b", ())]

    def answers(share: bool, together: bool, method: str = "random", **options: Any) -> list[str]:
        answering = DroppingVLM(checkpoint, build(method, **options), PROMPT, share_prefix=share)
        ready = [answering.prepare(question) for question in questions]
        batches = [ready] if together else [[one] for one in ready]
        return [a.text for batch in batches for a in answering.answer(batch, {"max_new_tokens": 6})]

    assert answers(True, True, "full") == answers(True, True, "full", positions="original")
    original = {"budget": 0.4, "positions": "original"}
    once = answers(False, False, **original)
    assert answers(True, True, **original) == answers(False, True, **original) == once
    answering = DroppingVLM(checkpoint, build("random", **original), PROMPT)
    for question, text in zip(questions[:2], once, strict=False):
        ready = answering.prepare(question)
        assert ready.positions is not None
        given = int(ready.positions.max()) + 1
        dropped = sum(image.counts.full - image.counts.kept for image in ready.images)
        if architecture != "qwen2_5_vl":
            assert given == len(ready.input_ids) + dropped
        mark = answering.family.placeholder(processor)
        if architecture == "internvl":
            mark = processor.image_token  # around which its processor puts the other marks
        prompt = f"a{mark}{question.text}"
        inputs = processor(images=question.images[0], text=prompt, return_tensors="pt")
        if architecture == "internvl":
            inputs["image_sizes"] = [question.images[0].size[::-1]]
        with build("random", **original)(model):
            new: Tensor = generate(model, inputs)
        assert processor.tokenizer.decode(new[0], skip_special_tokens=True) == text
