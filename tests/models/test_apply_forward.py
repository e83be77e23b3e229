"""`model(...)` inside the block: each argument does what it does on the stock model, or is refused."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from transformers.utils.generic import TransformersKwargs

from hired_eval import Full, HiRED
from hired_eval.errors import UserError
from hired_eval.models.apply import FORWARD
from hired_eval.models.families.llava_next import LlavaNext
from tests import tiny
from tests.models.test_apply_generate import assert_same

LENGTH = 167
"""Of the longer row."""
POSITIONS = torch.arange(LENGTH).expand(2, -1) + torch.tensor([[0], [7]])
SAME: dict[str, dict[str, Any]] = {
    "attention_mask": {"attention_mask": None},
    "position_ids": {"position_ids": POSITIONS},
    "past_key_values": {"past_key_values": "empty"},
    "vision_feature_layer": {"vision_feature_layer": 2},
    "vision_feature_select_strategy": {"vision_feature_select_strategy": "default"},
    "labels": {"labels": torch.arange(2 * LENGTH).view(2, -1) % 90},
    "use_cache": {"use_cache": False},
    "logits_to_keep": {"logits_to_keep": 5},
    "output_attentions": {"output_attentions": True},
    "output_hidden_states": {"output_hidden_states": True},
    "return_dict": {"return_dict": False},
    "num_items_in_batch": {
        "labels": torch.arange(2 * LENGTH).view(2, -1) % 90,
        "num_items_in_batch": torch.tensor(7),
    },
}
REFUSED: dict[str, dict[str, Any]] = {
    "inputs_embeds": {"inputs_embeds": torch.zeros(2, LENGTH, 48)},
    "mm_encoder_outputs": {"mm_encoder_outputs": {"image": torch.zeros(1)}},
    "output_router_logits": {"output_router_logits": True},
    "cu_seq_lens_q": {"cu_seq_lens_q": torch.tensor([0, 9])},
    "cu_seq_lens_k": {"cu_seq_lens_k": torch.tensor([0, 9])},
    "max_length_q": {"max_length_q": 9},
    "max_length_k": {"max_length_k": 9},
    "is_causal": {"is_causal": False},
    "seq_idx": {"seq_idx": torch.zeros(2, LENGTH)},
    # of no argument's name, but given to what lies below
    "cache_position": {"cache_position": torch.arange(LENGTH)},
    "token_type_ids": {"token_type_ids": torch.zeros(2, LENGTH)},
    "shift_labels": {"shift_labels": torch.zeros(2, LENGTH)},
    "logits_to_keep as a tensor": {"logits_to_keep": torch.tensor([3, 4])},
    "vision_feature_layer": {"vision_feature_layer": [-2, -1]},
    "vision_feature_select_strategy": {"vision_feature_select_strategy": "full"},
    "attention_mask must be": {"attention_mask": torch.zeros(2, 1, LENGTH, LENGTH)},
    "attention_mask covers": {"attention_mask": torch.ones(2, LENGTH - 1)},
}
ALWAYS_GIVEN = {"input_ids", "pixel_values", "image_sizes"}


@pytest.fixture(scope="module")
def inputs(llava_next: tuple[Any, Any]) -> dict[str, Tensor]:
    images = [tiny.picture(112, 112, 1), tiny.picture(60, 200, 2), tiny.picture(90, 90, 3)]
    text = ["x<image>y<image>z", "w<image>"]
    return dict(llava_next[1](images=images, text=text, padding=True, return_tensors="pt"))


def forward(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> Any:
    if options.get("past_key_values") == "empty":
        options = {**options, "past_key_values": DynamicCache()}
    with torch.no_grad():
        return model(**{**inputs, **options})


@pytest.mark.parametrize("name", SAME)
def test_full_is_stock_for_each_argument(
    name: str, llava_next: tuple[Any, Any], inputs: dict[str, Tensor]
) -> None:
    model, _ = llava_next
    assert inputs["input_ids"].shape[1] == LENGTH
    stock = forward(model, inputs, SAME[name])
    with Full()(model):
        assert_same(forward(model, inputs, SAME[name]), stock)
    with HiRED(budget=0.2)(model):
        assert not isinstance(forward(model, inputs, SAME[name]), type(None))


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_cannot_be_as_on_stock_is_refused_by_name(
    name: str, llava_next: tuple[Any, Any], inputs: dict[str, Tensor]
) -> None:
    model, _ = llava_next
    with Full()(model), pytest.raises(UserError, match=name):
        forward(model, inputs, REFUSED[name])


def test_no_argument_of_forward_is_left_out() -> None:
    """One that a new version of transformers brings must be tried and sorted here."""
    known = {*TransformersKwargs.__optional_keys__, "return_dict"}
    for architecture in (LlavaForConditionalGeneration, LlavaNextForConditionalGeneration):
        known |= inspect.signature(architecture.forward).parameters.keys() - {"self", "kwargs"}
    assert known <= SAME.keys() | REFUSED.keys() | ALWAYS_GIVEN
    assert SAME.keys() | ALWAYS_GIVEN == FORWARD | {*LlavaNext.vision_arguments}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 5])
def test_padding_stays_on_its_side(
    side: str, extra: int, llava_next: tuple[Any, Any], inputs: dict[str, Tensor]
) -> None:
    """Full is stock, and logits of the text are those of a row alone, however the batch is padded."""
    model, _ = llava_next
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if side == "right":
        lengths = mask.sum(dim=1)
        ids = torch.stack([row.roll(int(n), 0) for row, n in zip(ids, lengths, strict=True)])
        mask = torch.stack([row.roll(int(n), 0) for row, n in zip(mask, lengths, strict=True)])
    pad = (extra, 0) if side == "left" else (0, extra)
    ids, mask = (torch.nn.functional.pad(value, pad) for value in (ids, mask))
    padded = {**inputs, "input_ids": ids, "attention_mask": mask}
    stock = forward(model, padded, {"labels": ids}).logits
    with Full()(model):
        torch.testing.assert_close(forward(model, padded, {}).logits, stock)
    with HiRED(budget=0.2)(model):
        together = forward(model, padded, {}).logits
        row = {
            "input_ids": ids[1:, mask[1].bool()],
            "pixel_values": inputs["pixel_values"][2:],
            "image_sizes": inputs["image_sizes"][2:],
        }
        alone = forward(model, row, {}).logits[0]
    place = slice(-len(alone), None) if side == "left" else slice(len(alone))
    torch.testing.assert_close(together[1, place], alone, rtol=1e-3, atol=1e-3)


def test_a_hidden_image_and_a_hidden_word(llava_next: tuple[Any, Any], inputs: dict[str, Tensor]) -> None:
    model, _ = llava_next
    mask = inputs["attention_mask"].clone()
    last = inputs["input_ids"].shape[1] - 1
    second = (inputs["input_ids"][0] == 4).nonzero()[-1]
    mask[0, second - 75 : second + 1] = 0
    mask[1, last] = 1
    stock = forward(model, inputs, {"attention_mask": mask}).logits
    with Full()(model):
        torch.testing.assert_close(forward(model, inputs, {"attention_mask": mask}).logits, stock)


def test_positions_close_up_over_dropped_tokens(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    one = dict(processor(images=tiny.picture(112, 112), text="a:<image>b?", return_tensors="pt"))
    with HiRED(budget=0.2)(model):
        counted = torch.arange(one["input_ids"].shape[1])[None]
        stock = forward(model, one, {}).logits
        torch.testing.assert_close(forward(model, one, {"position_ids": counted}).logits, stock)


def test_labels_and_positions_stay_with_their_tokens(
    llava_next: tuple[Any, Any], inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each label is the id of its token, so what the loss is given equals what the model is given."""
    model, _ = llava_next
    given: dict[str, Tensor] = {}
    monkeypatch.setattr(model, "loss_function", lambda **kwargs: given.update(kwargs), raising=False)
    read = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.update(kwargs, input_ids=(*args, kwargs.get("input_ids"))[0]),
        with_kwargs=True,
    )
    with read, HiRED(budget=0.2)(model):
        forward(model, inputs, {"labels": inputs["input_ids"]})
    shown = given["attention_mask"].bool()
    assert given["labels"][shown].equal(given["input_ids"][shown])
    assert given["labels"][~shown].unique().tolist() in ([-100], [-100, 0], [0])
    assert shown.sum() < inputs["attention_mask"].sum()


def test_training_goes_through_the_kept_tokens() -> None:
    model, processor = tiny.llava_next()
    one = dict(processor(images=tiny.picture(112, 112), text="a:<image>b?", return_tensors="pt"))
    one["labels"] = one["input_ids"].masked_fill(one["input_ids"] == 4, -100)

    def gradients(context: AbstractContextManager[Any]) -> dict[str, Tensor]:
        model.zero_grad()
        with context:
            model(**one).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.train()
    for _ in range(2):
        stock = gradients(nullcontext())
        assert_same(gradients(Full()(model)), stock)
        fewer = gradients(HiRED(budget=0.2)(model))
        assert fewer.keys() == stock.keys() - {"model.image_newline"}
        assert all(bool(torch.isfinite(gradient).all()) for gradient in fewer.values())
        model.activation_checkpointing_enable()


def test_the_configuration_is_read_at_the_call(
    llava_next: tuple[Any, Any], inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = llava_next
    with Full()(model):
        monkeypatch.setattr(model.config, "vision_feature_layer", -1)
        changed = forward(model, inputs, {}).logits
        monkeypatch.setattr(model.config, "vision_feature_layer", [-1, -2])
        with pytest.raises(UserError, match="several layers"):
            forward(model, inputs, {})
    monkeypatch.setattr(model.config, "vision_feature_layer", -1)
    torch.testing.assert_close(changed, forward(model, inputs, {}).logits)


@pytest.mark.parametrize("form", ["list", "tuples", "flat pixels", "long ints"])
def test_image_sizes_in_any_form(form: str, llava_next: tuple[Any, Any], inputs: dict[str, Tensor]) -> None:
    model, _ = llava_next
    sizes = inputs["image_sizes"]
    with Full()(model):
        wanted = forward(model, inputs, {}).logits
        flat = [inputs["pixel_values"][i, :partitions] for i, partitions in enumerate((5, 4, 5))]
        options: dict[str, Any] = {
            "list": {"image_sizes": sizes.tolist()},
            "tuples": {"image_sizes": [tuple(size) for size in sizes.tolist()]},
            "long ints": {"image_sizes": list(sizes)},
            "flat pixels": {"pixel_values": torch.cat(flat)},
        }[form]
        assert forward(model, inputs, options).logits.equal(wanted)


def test_text_alone_is_left_alone(llava_next: tuple[Any, Any]) -> None:
    model, _ = llava_next
    ids = torch.arange(20, 40)[None]
    mask = torch.zeros(1, 1, 20, 20).masked_fill(torch.ones(20, 20).triu(1).bool(), float("-inf"))
    calls: list[dict[str, Any]] = [
        {"input_ids": ids, "attention_mask": mask},
        {"inputs_embeds": model.get_input_embeddings()(ids)},
        {"input_ids": ids, "logits_to_keep": torch.tensor([1])},
        {"input_ids": ids, "pixel_values": None, "mm_encoder_outputs": {}},
    ]
    for call in calls:
        stock = forward(model, call, {})
        with HiRED()(model):
            assert_same(forward(model, call, {}), stock)
