"""Blocks left in any order, entered again, with wrapped or copied models: the model is as it was."""

import asyncio
import copy
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration, TextIteratorStreamer

from hired_eval import Full, HiRED
from hired_eval.errors import UserError
from tests import tiny

FEW, SOME, ALL = 18, 34, 92
"""Places of the prompt at budgets of 0.2 and 0.4, and without dropping."""


@pytest.fixture
def model() -> LlavaNextForConditionalGeneration:
    return tiny.llava_next()[0]


@pytest.fixture(scope="module")
def inputs(llava_next: tuple[Any, Any]) -> dict[str, Tensor]:
    return dict(llava_next[1](images=tiny.picture(112, 112), text="a:<image>b?", return_tensors="pt"))


def places(model: Any, inputs: dict[str, Tensor]) -> int:
    with torch.no_grad():
        return int(model(**inputs).logits.shape[1])


def test_blocks_are_left_in_any_order(model: Any, inputs: dict[str, Tensor]) -> None:
    before = dict(vars(model)), dict(vars(model.model))
    first, second, third = HiRED(budget=0.2)(model), HiRED(budget=0.4)(model), Full()(model)
    for context, now in ((first, FEW), (second, SOME), (third, ALL)):
        context.__enter__()
        assert places(model, inputs) == now
    for context, now in ((second, ALL), (third, FEW), (first, ALL)):
        context.__exit__(None, None, None)
        assert places(model, inputs) == now
    assert (vars(model), vars(model.model)) == before


def test_one_block_is_entered_again_and_within_itself(model: Any, inputs: dict[str, Tensor]) -> None:
    block = HiRED(budget=0.2)(model)
    for _ in range(2):
        with block:
            with block:
                assert places(model, inputs) == FEW
            assert places(model, inputs) == FEW
        assert places(model, inputs) == ALL


def test_a_generator_that_holds_a_block_open(model: Any, inputs: dict[str, Tensor]) -> None:
    def answers(budget: float) -> Any:
        with HiRED(budget=budget)(model):
            while True:
                yield places(model, inputs)

    few, some = answers(0.2), answers(0.4)
    assert (next(few), next(some)) == (FEW, SOME)
    few.close()
    assert next(some) == SOME
    some.close()
    assert places(model, inputs) == ALL


def test_a_second_thread_is_refused_until_the_first_has_left(model: Any, inputs: dict[str, Tensor]) -> None:
    def other() -> int:
        with HiRED(budget=0.4)(model):
            return places(model, inputs)

    with ThreadPoolExecutor(1) as pool:
        with HiRED(budget=0.2)(model):
            with pytest.raises(UserError, match="another thread"):
                pool.submit(other).result()
            assert places(model, inputs) == FEW
        assert pool.submit(other).result() == SOME
    assert places(model, inputs) == ALL


def test_a_second_task_is_refused_and_a_task_inside_the_block_is_not(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    async def one(budget: float) -> int:
        with HiRED(budget=budget)(model):
            await asyncio.sleep(0)
            return places(model, inputs)

    async def both() -> list[Any]:
        return await asyncio.gather(one(0.2), one(0.4), return_exceptions=True)

    first, second = asyncio.run(both())
    assert first == FEW
    assert isinstance(second, UserError)
    with Full()(model):
        assert asyncio.run(one(0.2)) == FEW
    assert places(model, inputs) == ALL


def test_a_thread_that_streams_the_answer_drops_as_well(
    llava_next: tuple[Any, Any], inputs: dict[str, Tensor]
) -> None:
    model, processor = llava_next
    with HiRED(budget=0.2)(model):
        wanted = model.generate(**inputs, max_new_tokens=4)
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
        worker = Thread(target=model.generate, kwargs={**inputs, "max_new_tokens": 4, "streamer": streamer})
        worker.start()
        assert "".join(streamer) == processor.tokenizer.decode(wanted[0, ALL:])
        worker.join()


def test_copies_made_inside_are_stock_and_run_their_own_weights(
    model: Any, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    keys = list(model.state_dict())
    with HiRED(budget=0.2)(model):
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        saved = torch.load(file, weights_only=False)
        model.save_pretrained(tmp_path)
        loaded = LlavaNextForConditionalGeneration.from_pretrained(tmp_path).eval()
        assert list(model.state_dict()) == keys
        assert places(model, inputs) == FEW
        for other in (copied, saved, loaded):
            assert places(other, inputs) == ALL
    for other in (copied, saved, loaded):
        for weight in other.parameters():
            weight.data.zero_()
        with torch.no_grad():
            assert not other(**inputs).logits.any()
        with HiRED(budget=0.4)(other):
            assert places(other, inputs) < ALL
        assert places(other, inputs) == ALL
    with torch.no_grad():
        assert model(**inputs).logits.any()


def test_a_wrapper_put_around_a_method_inside_stays_and_wraps_stock(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    calls = []

    def wrap() -> None:
        inner = model.forward

        def outer(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return inner(*args, **kwargs)

        model.forward = outer

    with HiRED(budget=0.2)(model):
        wrap()
        assert places(model, inputs) == FEW
        with HiRED(budget=0.4)(model):
            assert places(model, inputs) == SOME
    assert places(model, inputs) == ALL
    with HiRED(budget=0.4)(model):
        assert places(model, inputs) == SOME
    assert places(model, inputs) == ALL
    assert len(calls) == 5


def test_a_method_of_the_instances_own_comes_back(model: Any, inputs: dict[str, Tensor]) -> None:
    stock = model.forward
    model.forward = own = lambda **kwargs: stock(**kwargs)
    with HiRED(budget=0.2)(model):
        assert places(model, inputs) == FEW
    assert model.forward is own


def test_wrapped_models_are_refused_and_their_inner_model_is_not(inputs: dict[str, Tensor]) -> None:
    from peft import LoraConfig, get_peft_model

    with pytest.raises(UserError, match="OptimizedModule holds"):
        HiRED()(torch.compile(tiny.llava_next()[0])).__enter__()
    adapted = get_peft_model(tiny.llava_next()[0], LoraConfig(target_modules=["q_proj"]))
    parallel = torch.nn.DataParallel(tiny.llava_next()[0])
    for wrapped, inner in (
        (adapted, adapted.get_base_model()),
        (parallel, parallel.module),
    ):
        with pytest.raises(UserError, match="apply it to that one"), HiRED()(wrapped):
            pass
        assert places(wrapped, inputs) == ALL
        with HiRED(budget=0.2)(inner):
            assert places(wrapped, inputs) == FEW
        assert places(wrapped, inputs) == ALL


def test_the_inner_model_is_not_used_around_the_block(model: Any, inputs: dict[str, Tensor]) -> None:
    vision = {name: inputs[name] for name in ("pixel_values", "image_sizes")}
    stock = model.get_image_features(**vision).pooler_output
    with HiRED()(model):
        for use, given in (
            (model.model, inputs),
            (model.get_image_features, vision),
            (model.model.get_image_features, vision),
        ):
            with pytest.raises(UserError, match="would drop nothing"):
                use(**given)
    assert model.get_image_features(**vision).pooler_output[0].equal(stock[0])
