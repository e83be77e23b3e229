"""Dropping on stock models: Full equals stock token for token, and nothing is left behind."""

from typing import Any

import pytest
import torch

from hired_eval import EvenSplit, Full, HiRED
from hired_eval.errors import UserError
from tests import tiny

SIZES = [(112, 112), (60, 200), (200, 60), (100, 75), (31, 500), (1, 1), (168, 56), (333, 222)]


def inputs_for(processor: Any, sizes: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    images = [tiny.picture(w, h, seed=i) for i, (w, h) in enumerate(sizes)]
    prompts = [f"a:<image>{'b' * i}?" for i in range(len(sizes))]
    return dict(processor(images=images, text=prompts, padding=True, return_tensors="pt"))


def hooks(model: torch.nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def generate(model: Any, inputs: dict[str, torch.Tensor], **kwargs: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.generate(**inputs, max_new_tokens=6, do_sample=False, **kwargs)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_full_is_stock_for_each_shape(llava_next: tuple[Any, Any], size: tuple[int, int]) -> None:
    model, processor = llava_next
    inputs = inputs_for(processor, [size])
    stock = generate(model, inputs)
    with Full()(model):
        assert generate(model, inputs).equal(stock)
        with torch.inference_mode():
            logits = model(**inputs).logits
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(**inputs).logits)


@pytest.mark.parametrize("architecture", ["llava_next", "llava"])
def test_full_is_stock_for_a_batch(architecture: str, request: pytest.FixtureRequest) -> None:
    model, processor = request.getfixturevalue(architecture)
    inputs = inputs_for(processor, SIZES)
    assert inputs["attention_mask"].min() == 0 or architecture == "llava"
    for options in ({}, {"num_beams": 2}):
        stock = generate(model, inputs, **options)
        assert len(set(map(tuple, stock[:, -6:].tolist()))) > 1, "answers must depend on the picture"
        with Full()(model):
            assert generate(model, inputs, **options).equal(stock)


def test_a_budget_of_one_with_nothing_dropped_is_stock(llava_next: tuple[Any, Any]) -> None:
    """On pictures padded so much that the newline tokens fit the budget, nothing has to be dropped."""
    model, processor = llava_next
    inputs = inputs_for(processor, [(100, 10), (40, 1)])
    stock = generate(model, inputs)
    with EvenSplit(budget=1.0, newline="rows")(model):
        assert generate(model, inputs).equal(stock)


@pytest.mark.parametrize("architecture", ["llava_next", "llava"])
def test_dropping_shortens_the_prompt_and_keeps_it_in_the_output(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    model, processor = request.getfixturevalue(architecture)
    inputs = inputs_for(processor, SIZES[:3])
    with HiRED(budget=0.2)(model), torch.inference_mode():
        answers = generate(model, inputs)
        logits = model(**inputs).logits
    length = inputs["input_ids"].shape[1]
    assert answers[:, :length].equal(inputs["input_ids"])
    assert answers.shape[1] == length + 6
    assert logits.shape[1] < length


def test_batch_answers_are_those_of_single_images(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    together = inputs_for(processor, SIZES)
    with HiRED(budget=0.3)(model):
        batch = generate(model, together)[:, -6:]
        for i, size in enumerate(SIZES):
            image = tiny.picture(*size, seed=i)
            one = processor(images=image, text=f"a:<image>{'b' * i}?", return_tensors="pt")
            assert generate(model, dict(one))[0, -6:].equal(batch[i])


def test_several_images_in_one_prompt(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    images = [tiny.picture(112, 112, 1), tiny.picture(60, 200, 2), tiny.picture(90, 90, 3)]
    inputs = dict(
        processor(images=images, text=["x<image>y<image>z", "w<image>"], padding=True, return_tensors="pt")
    )
    stock = generate(model, inputs)
    with Full()(model):
        assert generate(model, inputs).equal(stock)
    with HiRED(budget=0.1)(model):
        assert generate(model, inputs).shape == stock.shape


def test_a_row_without_a_picture(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    text = ["x<image>y", "text alone"]
    inputs = dict(processor(images=tiny.picture(112, 112), text=text, padding=True, return_tensors="pt"))
    stock = generate(model, inputs)
    with Full()(model):
        assert generate(model, inputs).equal(stock)
    with HiRED(budget=0.2)(model):
        alone = dict(processor.tokenizer(text[1], return_tensors="pt"))
        assert generate(model, inputs)[1, -6:].equal(generate(model, alone)[0, -6:])


def test_labels_are_shortened_like_the_prompt(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    inputs = inputs_for(processor, [(112, 112)])
    labels = inputs["input_ids"].clone()
    labels[labels == model.config.image_token_id] = -100
    with torch.no_grad(), HiRED(budget=0.2)(model):
        loss = model(**inputs, labels=labels).loss
    assert torch.isfinite(loss)


@pytest.mark.parametrize("fail", [False, True])
def test_everything_is_undone_on_exit(llava_next: tuple[Any, Any], fail: bool) -> None:
    model, processor = llava_next
    inputs = inputs_for(processor, [(112, 112)])
    stock = generate(model, inputs)
    before, hooks_before = set(vars(model)), hooks(model)

    def block() -> None:
        with HiRED()(model):
            generate(model, inputs)
            if fail:
                raise RuntimeError("body")

    if fail:
        with pytest.raises(RuntimeError, match="body"):
            block()
    else:
        block()
    assert set(vars(model)) == before
    assert hooks(model) == hooks_before
    assert generate(model, inputs).equal(stock)


def test_hooks_are_removed_when_the_vision_tower_fails(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    inputs = inputs_for(processor, [(112, 112)])
    hooks_before = hooks(model)
    with pytest.raises(UserError, match="layer 9"), HiRED(final_layer=9)(model):
        generate(model, inputs)
    inputs["pixel_values"] = inputs["pixel_values"][..., :-1]
    with pytest.raises(ValueError, match="image size"), HiRED()(model):
        generate(model, inputs)
    assert hooks(model) == hooks_before


def test_other_models_are_refused_by_name() -> None:
    with (
        pytest.raises(UserError, match="does not work on Linear"),
        HiRED()(torch.nn.Linear(2, 2)),
    ):
        pass


def test_inputs_of_another_processor_are_refused(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    inputs = inputs_for(processor, [(112, 112)])
    inputs["input_ids"] = inputs["input_ids"][:, 3:]
    inputs["attention_mask"] = inputs["attention_mask"][:, 3:]
    with pytest.raises(UserError, match="placeholders"), HiRED()(model):
        generate(model, inputs)
