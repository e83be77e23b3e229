"""KV caches made inside the block: what goes on with them is what goes on without them."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from hired_eval import EvenSplit, Full, HiRED
from hired_eval.dropping import TokenDropper
from hired_eval.errors import UserError
from tests import tiny

NEW = 5
METHODS = [Full(), HiRED(budget=0.2), EvenSplit(budget=1.0, newline="rows")]


@pytest.fixture
def batch(llava_next: tuple[Any, Any]) -> dict[str, Tensor]:
    """Two rows, of one and of two pictures, one of them padded."""
    images = [tiny.picture(112, 112, 1), tiny.picture(60, 200, 2), tiny.picture(90, 90, 3)]
    text = ["x<image>y<image>z", "w<image>"]
    return dict(llava_next[1](images=images, text=text, padding=True, return_tensors="pt"))


@pytest.fixture
def one(llava_next: tuple[Any, Any]) -> dict[str, Tensor]:
    return dict(llava_next[1](images=tiny.picture(112, 112), text="a:<image>b?", return_tensors="pt"))


def followed(output: Any, inputs: dict[str, Tensor], *, text: int = 4) -> dict[str, Tensor]:
    """The prompt of a second turn."""
    ids = output.sequences
    more = torch.arange(20, 20 + text).expand(len(ids), -1)
    new = torch.ones(len(ids), ids.shape[1] - inputs["attention_mask"].shape[1] + text, dtype=torch.long)
    return {
        "input_ids": torch.cat([ids, more], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], new], dim=1),
    }


def generate(model: Any, **inputs: Any) -> Any:
    """Without an end, so that no padding follows."""
    options = {"max_new_tokens": NEW, "return_dict_in_generate": True, "output_logits": True}
    return model.generate(**{**options, **inputs}, eos_token_id=None)


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(torch.stack(one.logits), torch.stack(other.logits))
    assert one.sequences.equal(other.sequences)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("which", ["one", "batch"])
def test_a_second_and_a_third_turn_are_those_without_the_cache(
    which: str, method: TokenDropper, llava_next: tuple[Any, Any], request: pytest.FixtureRequest
) -> None:
    model, _ = llava_next
    inputs = request.getfixturevalue(which)
    with method(model):
        turn = generate(model, **inputs)
        for _ in range(2):
            text = followed(turn, inputs)
            without = generate(model, **{**inputs, **text})
            turn = generate(model, **text, past_key_values=turn.past_key_values)
            assert_same(turn, without)


def test_the_new_tokens_alone_may_be_given(llava_next: tuple[Any, Any], one: dict[str, Tensor]) -> None:
    model, _ = llava_next
    with HiRED(budget=0.2)(model):
        turn = generate(model, **one)
        text = followed(turn, one)
        without = generate(model, **{**one, **text})
        for counted in ("as given", "in the cache"):
            cache = copy.deepcopy(turn.past_key_values)
            new = text["input_ids"][:, turn.sequences.shape[1] - 1 :]
            mask = text["attention_mask"]
            if counted == "in the cache":
                mask = torch.ones(1, cache.get_seq_length() + new.shape[1])
            found = generate(model, input_ids=new, attention_mask=mask, past_key_values=cache)
            assert torch.stack(found.logits).allclose(torch.stack(without.logits), atol=1e-4)


def test_a_picture_in_the_second_turn(llava_next: tuple[Any, Any], one: dict[str, Tensor]) -> None:
    model, processor = llava_next
    picture = tiny.picture(60, 200, 2)
    more = dict(processor(images=picture, text="<image>c", return_tensors="pt"))
    both = [tiny.picture(112, 112), picture]
    for method in (Full(), HiRED(budget=0.2)):
        with method(model):
            turn = generate(model, **one)
            ids = torch.cat([turn.sequences, more["input_ids"]], dim=1)
            mask = torch.ones_like(ids)
            pixels = dict(processor(images=both, text="<image><image>", return_tensors="pt"))
            without = generate(model, **{**pixels, "input_ids": ids, "attention_mask": mask})
            new = {**more, "input_ids": ids, "attention_mask": mask}
            second = generate(model, **new, past_key_values=turn.past_key_values)
            assert_same(second, without)
            third = followed(second, {"attention_mask": mask})
            assert_same(
                generate(model, **third, past_key_values=second.past_key_values),
                generate(model, **{**pixels, **third}),
            )


@pytest.mark.parametrize(
    ("counts", "which"),
    [
        ("the prompt as it was given", "batch"),
        ("the prompt as it was given", "one"),
        # padding needs a mask of the prompt as it was given, as on the stock model
        ("the cache", "one"),
        ("nothing", "one"),
    ],
)
def test_a_loop_of_ones_own_goes_on_as_generate_does(
    counts: str, which: str, llava_next: tuple[Any, Any], request: pytest.FixtureRequest
) -> None:
    model, _ = llava_next
    inputs = request.getfixturevalue(which)
    for method in (Full(), HiRED(budget=0.2)):
        with method(model), torch.no_grad():
            wanted = generate(model, **inputs)
            seen = inputs["attention_mask"]
            output = model(**inputs, position_ids=(seen.cumsum(-1) - 1).clamp(min=0))
            for step in range(NEW):
                torch.testing.assert_close(output.logits[:, -1], wanted.logits[step])
                new = output.logits[:, -1:].argmax(-1)
                seen = torch.cat([seen, torch.ones_like(new)], dim=1)
                cached = output.past_key_values.get_seq_length()
                options = {
                    "the prompt as it was given": {
                        "attention_mask": seen,
                        "position_ids": seen.cumsum(-1)[:, -1:] - 1,
                    },
                    "the cache": {
                        "attention_mask": torch.ones(1, cached + 1),
                        "position_ids": torch.tensor([[cached]]),
                    },
                    "nothing": {},
                }[counts]
                output = model(input_ids=new, past_key_values=output.past_key_values, **options)


def test_a_cache_goes_along_when_it_is_copied_saved_and_repeated(
    llava_next: tuple[Any, Any], batch: dict[str, Tensor]
) -> None:
    model, _ = llava_next
    with HiRED(budget=0.2)(model), torch.no_grad():
        first = generate(model, **batch)
        text = followed(first, batch)
        wanted = generate(model, **{**batch, **text}).sequences
        cache = first.past_key_values

        def goes_on(cache: Any, rows: Tensor) -> None:
            found = generate(model, **{k: v[rows] for k, v in text.items()}, past_key_values=cache)
            assert found.sequences.equal(wanted[rows])

        saved = io.BytesIO()
        torch.save(cache, saved)
        saved.seek(0)
        goes_on(torch.load(saved, weights_only=False), torch.tensor([0, 1]))
        goes_on(copy.deepcopy(cache), torch.tensor([0, 1]))
        repeated = copy.deepcopy(cache)
        repeated.batch_repeat_interleave(2)
        goes_on(repeated, torch.tensor([0, 0, 1, 1]))
        chosen = copy.deepcopy(cache)
        chosen.batch_select_indices(torch.tensor([1]))
        goes_on(chosen, torch.tensor([1]))
        swapped = copy.deepcopy(cache)
        swapped.reorder_cache(torch.tensor([1, 0]))
        goes_on(swapped, torch.tensor([1, 0]))
        cut = copy.deepcopy(cache)
        cut.crop(-NEW + 1)
        goes_on(cut, torch.tensor([0, 1]))


def test_an_empty_cache_of_the_callers_own(llava_next: tuple[Any, Any], batch: dict[str, Tensor]) -> None:
    model, _ = llava_next
    config = model.config.get_text_config()
    with HiRED(budget=0.2)(model):
        wanted = generate(model, **batch)
        for cache in (DynamicCache(), StaticCache(config=config, max_cache_len=300)):
            assert_same(generate(model, **batch, past_key_values=cache), wanted)
            text = followed(wanted, batch)
            assert_same(generate(model, **text, past_key_values=cache), generate(model, **{**batch, **text}))


def test_a_cache_that_was_emptied_is_like_any_other(
    llava_next: tuple[Any, Any], one: dict[str, Tensor]
) -> None:
    model, _ = llava_next
    with HiRED(budget=0.2)(model), torch.no_grad():
        cache = model(**one).past_key_values
    cache.reset()
    ids = torch.arange(20, 30)[None]
    stock = model(ids).logits
    torch.testing.assert_close(model(ids, past_key_values=cache).logits, stock)


def test_stock_does_not_go_on_with_a_shortened_prompt(
    llava_next: tuple[Any, Any], one: dict[str, Tensor]
) -> None:
    model, _ = llava_next
    with HiRED(budget=0.2)(model):
        turn = generate(model, **one)
        text = followed(turn, one)
        with pytest.raises(UserError, match="go on with it through"):
            model.model.language_model(torch.tensor([[7]]), past_key_values=turn.past_key_values)
    with pytest.raises(UserError, match="inside a `with method"):
        generate(model, **text, past_key_values=turn.past_key_values)
    with EvenSplit(budget=0.5)(model):
        # another block may: what is in the cache stays as it is
        again = generate(model, **text, past_key_values=turn.past_key_values)
    with HiRED(budget=0.2)(model):
        assert again.sequences.equal(generate(model, **{**one, **text}).sequences)


def test_where_nothing_was_dropped_the_cache_is_stocks(
    llava_next: tuple[Any, Any], one: dict[str, Tensor]
) -> None:
    model, _ = llava_next
    with Full()(model):
        turn = generate(model, **one)
    text = followed(turn, one)
    assert_same(
        generate(model, **text, past_key_values=turn.past_key_values), generate(model, **{**one, **text})
    )
