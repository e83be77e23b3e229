"""Qwen2.5-VL and Qwen3-VL: full execution is the stock model; kept tokens keep their place in the picture."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl

from hired_eval.dropping import SelectingDropper
from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Prepared, Question
from hired_eval.models.checkpoint import Checkpoint, set_resolution
from hired_eval.models.families import family_of
from hired_eval.models.images import pad_to_square
from tests import tiny

SIZES = [(100, 60), (300, 40), (40, 300), (700, 500), (28, 28), (1, 1), (3, 200)]
PROMPTS = [*([size] for size in SIZES), [], [(300, 40), (40, 300)], [(28, 28), (100, 60), (1, 1)]]
FEW = [PROMPTS[i] for i in (0, 3, 7, 9)]
WITHOUT_CLS: list[tuple[str, dict[str, Any]]] = [
    ("random", {}),
    ("spatial", {}),
    ("downsample", {}),
    ("divprune", {}),
    ("topk_cls", {"signal": "received"}),
    ("hired", {"signal": "auto", "initial_layer": 1}),
    ("visionzip", {"signal": "received"}),
]
TEMPLATE = "a:{images}{question}"


@dataclass(frozen=True, kw_only=True)
class Received(SelectingDropper):
    """Keep the tokens that receive most attention, in a layer or in the last one."""

    reads: ClassVar = frozenset({"received_attention"})
    layer: int | None = None

    def received_layers(self, feature_layer: int) -> frozenset[int]:
        return frozenset({feature_layer if self.layer is None else self.layer})

    def score(self, encoding: Any, layouts: Any) -> torch.Tensor:
        received: torch.Tensor = encoding.received_at(self.layer)
        return received


class ReceivedAndKeys(Received):
    reads: ClassVar = frozenset({"received_attention", "keys"})
    needs_cls = False


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def qwen(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    pair: tuple[Any, Any] = request.getfixturevalue(request.param)
    return pair


def pictures(sizes: list[tuple[int, int]]) -> tuple[Any, ...]:
    return tuple(tiny.picture(w, h, seed=w + h) for w, h in sizes)


def inputs_of(
    processor: Any, prompts: list[list[tuple[int, int]]], first: int = 0
) -> dict[str, torch.Tensor]:
    """A batch of prompts with a picture of each size, as answering writes those from the first on."""
    text = [
        "a:" + " ".join([tiny.QWEN_IMAGE] * len(sizes)) + "b" * i + "?"
        for i, sizes in enumerate(prompts, first)
    ]
    images = [list(pictures(sizes)) for sizes in prompts if sizes]
    return dict(processor(images=images or None, text=text, padding=True, return_tensors="pt"))


def generate(model: Any, inputs: Any, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        answers: torch.Tensor = model.generate(
            **inputs, **{"max_new_tokens": 5, "do_sample": False} | options
        )
    return answers[:, -5:]


def forward(model: Any, inputs: Any) -> Any:
    with torch.inference_mode():
        return model(**inputs)


def prepare(answering: DroppingVLM, prompts: list[list[tuple[int, int]]]) -> list[Prepared]:
    return [answering.prepare(Question("b" * i + "?", pictures(s))) for i, s in enumerate(prompts)]


@pytest.fixture(scope="module")
def stock(qwen: tuple[Any, Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of all prompts in one batch, and the stock model's answers."""
    model, processor = qwen
    inputs = inputs_of(processor, PROMPTS)
    return inputs, generate(model, inputs)


def test_full_is_stock_in_a_mixed_batch(qwen: tuple[Any, Any], stock: tuple[Any, Any]) -> None:
    model, (inputs, answers) = qwen[0], stock
    assert len(set(map(tuple, answers.tolist()))) > 4, "answers must depend on the picture"
    logits = forward(model, inputs).logits
    with build("full")(model):
        assert generate(model, inputs).equal(answers)
        torch.testing.assert_close(forward(model, inputs).logits, logits)


def test_full_is_stock_in_bfloat16(qwen: tuple[Any, Any], stock: tuple[Any, Any]) -> None:
    model, inputs = copy.deepcopy(qwen[0]).bfloat16(), stock[0]
    logits = forward(model, inputs).logits
    with build("full")(model):
        torch.testing.assert_close(forward(model, inputs).logits, logits, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("decoding", ["eager", "static"])
def test_answers_of_the_evaluation_are_stock(
    qwen: tuple[Any, Any], stock: tuple[Any, Any], share: bool, decoding: Literal["eager", "static"]
) -> None:
    answering = DroppingVLM(Checkpoint(*qwen), build("full"), TEMPLATE, share_prefix=share, decoding=decoding)
    answers = answering.answer(prepare(answering, PROMPTS), {"max_new_tokens": 5})
    expected = qwen[1].batch_decode(stock[1], skip_special_tokens=True)
    assert [answer.text for answer in answers] == expected


def test_layouts_are_those_of_the_image_processor(qwen: tuple[Any, Any]) -> None:
    model, processor = qwen
    family = family_of(model, image_processor=processor.image_processor)
    for width, height in SIZES:
        read = family.read(tiny.picture(width, height), processor.image_processor).layout
        assert family.layout((height, width)) == read
        assert read.total_tokens == read.stock_tokens == read.tile[0] * read.tile[1]


@pytest.mark.parametrize(("method", "options"), WITHOUT_CLS)
def test_methods_without_cls_keep_their_budget_alone_and_in_a_batch(
    qwen: tuple[Any, Any], method: str, options: dict[str, Any]
) -> None:
    dropper = build(method, budget=0.3, **options)
    answering = DroppingVLM(Checkpoint(*qwen), dropper, TEMPLATE)
    batch = prepare(answering, FEW)
    for prepared in batch:
        for image, counts in zip(prepared.images, prepared.counts, strict=True):
            assert counts.kept <= counts.allowed == int(0.3 * image.layout.total_tokens + 1e-9) < counts.full
    together = answering.answer(batch, {"max_new_tokens": 5})
    assert together == [answering.answer([one], {"max_new_tokens": 5})[0] for one in batch]
    inputs = inputs_of(qwen[1], FEW)
    whole = forward(qwen[0], inputs).logits[:, -1]
    with dropper(qwen[0]):
        inside = generate(qwen[0], inputs)
        assert not forward(qwen[0], inputs).logits[:, -1].equal(whole), "dropping must matter"
    texts = qwen[1].batch_decode(inside, skip_special_tokens=True)
    assert [answer.text for answer in together] == texts


def test_kept_tokens_keep_their_place_in_the_picture(qwen: tuple[Any, Any]) -> None:
    """Against a loop without cache and without code of this package, on the kept columns of a prompt."""
    model, processor = qwen
    inputs = inputs_of(processor, [[(300, 40), (700, 500)]])
    dropper = build("random", budget=0.3)
    answering = DroppingVLM(Checkpoint(model, processor), dropper, TEMPLATE)
    kept = [image.packed.index for image in prepare(answering, [[(300, 40), (700, 500)]])[0].images]
    ids, kinds, grid = (inputs[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw"))
    with torch.inference_mode():
        positions, _ = model.model.get_rope_index(ids, kinds, grid)
        output = model.model.get_image_features(inputs["pixel_values"], grid, return_dict=True)
        starts = [0, len(output.pooler_output[0])]
        visual = (kinds[0] == 1).nonzero().squeeze(1)
        stays = kinds[0] == 0
        stays[torch.cat([visual[start + index] for start, index in zip(starts, kept, strict=True)])] = True
        output.pooler_output = [t[i] for t, i in zip(output.pooler_output, kept, strict=True)]
        if "deepstack_features" in output:
            output.deepstack_features = [
                [t[i] for t, i in zip(layer, kept, strict=True)] for layer in output.deepstack_features
            ]
        ids, positions, following = ids[:, stays], positions[:, :, stays], int(positions.max()) + 1
        answer = []
        for i in range(5):
            images = {"image": copy.copy(output)}
            logits = model(ids, position_ids=positions, mm_encoder_outputs=images, use_cache=False).logits
            answer.append(logits[0, -1].argmax())
            ids = torch.cat([ids, answer[-1][None, None]], dim=1)
            positions = torch.cat([positions, torch.full((3, 1, 1), following + i)], dim=2)
    with dropper(model):
        assert generate(model, inputs)[0].tolist() == [int(token) for token in answer]


def test_a_token_made_of_many_is_in_the_middle(qwen: tuple[Any, Any]) -> None:
    model, processor = qwen
    answering = DroppingVLM(Checkpoint(model, processor), build("random", budget=0.3), TEMPLATE)
    [image] = prepare(answering, [[(700, 500)]])[0].images
    index = torch.cat([torch.tensor([-1]), image.packed.index[1:]])
    image = replace(image, packed=replace(image.packed, index=index))
    rows, cols = image.layout.tile
    positions = answering.family.find_positions([9, model.config.image_token_id, 10], [image])
    assert positions[:, 1].tolist() == [1, 1 + rows // 2, 1 + cols // 2]
    assert positions[:, -1].tolist() == [1 + max(rows, cols)] * 3


def test_second_turns_and_beams_count_the_prompt_as_it_was_given(qwen: tuple[Any, Any]) -> None:
    model, processor = qwen
    inputs = inputs_of(processor, [[(700, 500)], [(300, 40)]])
    with build("random", budget=0.3)(model), torch.inference_mode():
        options: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True}
        first = model.generate(**inputs, max_new_tokens=4, **options)
        asked = torch.cat([first.sequences, torch.tensor([[9, 10, 11]] * 2)], dim=1)
        ones = torch.ones_like(asked[:, inputs["input_ids"].shape[1] :])
        mask = torch.cat([inputs["attention_mask"], ones], dim=1)
        again = {**inputs, "input_ids": asked, "attention_mask": mask}
        again["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], 0 * ones], dim=1)
        scratch = forward(model, again).logits[:, -1]
        cache = first.past_key_values
        step = model(
            input_ids=asked[:, -4:], attention_mask=mask, past_key_values=copy.deepcopy(cache)
        ).logits[:, -1]
        torch.testing.assert_close(step, scratch)
        turn = {"input_ids": asked, "attention_mask": mask, "past_key_values": copy.deepcopy(cache)}
        assert generate(model, turn).equal(generate(model, again))
        beams = generate(model, inputs, num_beams=2, num_return_sequences=2)
        alone = [generate(model, inputs_of(processor, [s]), num_beams=2) for s in ([(700, 500)],)]
        assert beams[0].equal(alone[0][0])
        wider = {"attention_mask": torch.cat([mask[:, :-4], inputs["attention_mask"]], dim=1)}
        with pytest.raises(UserError, match="this prompt with images continues a KV cache"):
            model(**inputs | wider, past_key_values=cache)


@pytest.mark.parametrize("method", ["hired", "visionzip", "prumerge"])
def test_methods_that_need_cls_are_refused_by_name(qwen: tuple[Any, Any], method: str) -> None:
    model, processor = qwen
    needs = pytest.raises(UserError, match=r"the CLS token, which Qwen.*methods that need none: .*random")
    with needs:
        DroppingVLM(Checkpoint(model, processor), build(method), TEMPLATE)
    with needs, build(method)(model):
        pass


def test_attention_received_is_that_of_the_eager_layer(
    qwen: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = copy.deepcopy(qwen[0]), qwen[1]
    model.model.visual.config._attn_implementation = "eager"
    module = modeling_qwen3_vl if "Qwen3" in type(model).__name__ else modeling_qwen2_5_vl
    stock, rows = module.eager_attention_forward, []

    def noted(*args: Any, **kwargs: Any) -> Any:
        output, weights = stock(*args, **kwargs)
        rows.append(weights)
        return output, weights

    monkeypatch.setattr(module, "eager_attention_forward", noted)
    stock_rotate, rotated = module.apply_rotary_pos_emb_vision, []

    def rotate(*args: Any) -> Any:
        rotated.append(stock_rotate(*args))
        return rotated[-1]

    monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", rotate)
    family = family_of(model)
    inputs = inputs_of(processor, [[(700, 500)], [(700, 500)]])
    read = family.pictures(inputs)
    pixels = torch.cat([picture.pixels for picture in read])
    encoding = family.encode(pixels, ReceivedAndKeys())
    keys = rotated[-1][1].reshape(2, -1, 4, 32).mean(dim=2)
    received = torch.stack([weights.mean(dim=(0, 1, 2)) for weights in rows[-2:]])
    with torch.inference_mode():
        output = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        merged = model.model.visual.merger(encoding.features.view(-1, 32))
    torch.testing.assert_close(merged, torch.cat(output.pooler_output))
    # in which order the last layer has the tokens is told by its output
    last = output.last_hidden_state.view(2, -1, 4 * 32)
    order = (last[0][:, None] - encoding.features[0]).abs().amax(dim=2).argmin(dim=0)
    expected = received.view(2, -1, 4).sum(dim=2)[:, order]
    torch.testing.assert_close(encoding.received_at(None), expected)
    torch.testing.assert_close(encoding.keys_of_patches(), keys[:, order])


def test_layers_that_see_windows_have_no_attention_received(qwen2_5_vl: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match=r"layer 2 of .* attends within windows.*: 1, 3$"):
        DroppingVLM(Checkpoint(*qwen2_5_vl), Received(layer=2), TEMPLATE)
    whole = DroppingVLM(Checkpoint(*qwen2_5_vl), Received(layer=1, budget=0.5), TEMPLATE)
    assert prepare(whole, [[(100, 60)]])[0].counts[0].kept == 4


@pytest.mark.parametrize("layer", [2, 3])
def test_tokens_leave_inside_the_language_model(qwen: tuple[Any, Any], layer: int) -> None:
    """The same alone and in a batch, through generate and through the evaluation."""
    model, processor = qwen
    dropper = FastV(layer=layer)
    inputs = inputs_of(processor, FEW)
    whole = forward(model, inputs).logits[:, -1]
    with dropper(model):
        together = generate(model, inputs)
        assert not forward(model, inputs).logits[:, -1].equal(whole), "dropping must matter"
        for i in (0, 1, 3):
            assert generate(model, inputs_of(processor, FEW[i : i + 1], i))[0].equal(together[i])
    answering = DroppingVLM(Checkpoint(model, processor), dropper, TEMPLATE)
    answers = answering.answer(prepare(answering, FEW), {"max_new_tokens": 5})
    assert [a.text for a in answers] == processor.batch_decode(together, skip_special_tokens=True)


def test_tokens_do_not_leave_before_deepstack_is_done(qwen3_vl: tuple[Any, Any]) -> None:
    model, processor = qwen3_vl
    with (
        pytest.raises(UserError, match="the first 2 layers; let them leave at layer 2"),
        FastV(layer=1)(model),
    ):
        generate(model, inputs_of(processor, [[(700, 500)]]))


def test_pictures_are_scaled_to_the_pixels_that_are_asked_for(qwen: tuple[Any, Any]) -> None:
    model, processor = qwen[0], copy.deepcopy(qwen[1])
    images, config = processor.image_processor, model.config
    side = 2 * images.patch_size

    def tokens(width: int, height: int) -> tuple[int, int]:
        family = family_of(model, image_processor=images)
        layout = family.layout((height, width))
        assert family.read(tiny.picture(width, height), images).layout == layout
        return layout.tile

    set_resolution(config, images, side**2 * 12, side**2 * 12, None)
    assert tokens(3 * side, 4 * side) == (4, 3)
    assert tokens(30 * side, 40 * side) == (4, 3), "a larger picture is shrunk"
    set_resolution(config, images, side**2 * 30, side**2 * 90, None)
    assert tokens(side, side) == (6, 6), "a smaller one is enlarged to 30 tokens at least"
    set_resolution(config, images, None, None, 5 * side)
    answering = DroppingVLM(Checkpoint(model, processor, 5 * side), build("full"), TEMPLATE)
    kept = [image.layout.tile for one in prepare(answering, PROMPTS) for image in one.images]
    assert kept == [(5, 5)] * len(kept)


def test_a_picture_is_put_in_the_middle_of_a_square() -> None:
    square = pad_to_square(Image.new("RGB", (40, 20), (250, 0, 0)), 80, [9, 8, 7])
    assert square.size == (80, 80)
    assert [square.getpixel((40, y)) for y in (0, 40, 79)] == [(9, 8, 7), (250, 0, 0), (9, 8, 7)]
    assert pad_to_square(square, 80, [0, 0, 0]) is square


MISTAKES: list[tuple[Callable[[Any, dict[str, Any]], Any], str]] = [
    (
        lambda model, inputs: model(**inputs | {"image_grid_thw": None}),
        "{stock} needs image_grid_thw with pixel_values; pass all that its processor made",
    ),
    (
        lambda model, inputs: model(**inputs | {"image_grid_thw": torch.tensor([[1, 4, 6]])}),
        "pixel_values of {patches} patches are not those of 1 images of [24] patches, as image_grid_thw has "
        "it; pass both as the processor made them",
    ),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES)
def test_inputs_that_do_not_fit_are_refused(
    qwen: tuple[Any, Any], call: Callable[[Any, dict[str, Any]], Any], message: str
) -> None:
    model, processor = qwen
    inputs = inputs_of(processor, [[(700, 500)]])
    expected = message.format(stock=type(model).__name__, patches=len(inputs["pixel_values"]))
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"), build("random")(model):
        call(model, inputs)


def test_a_picture_that_is_too_narrow_is_refused(qwen: tuple[Any, Any]) -> None:
    model, processor = qwen
    family = family_of(model, image_processor=processor.image_processor)
    with pytest.raises(UserError, match=r"^a picture of 1 x 201 pixels is too narrow for Qwen"):
        family.read(tiny.picture(1, 201), processor.image_processor)


def test_another_feature_layer_is_refused(qwen: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen[0].config, "vision_feature_layer", -2, raising=False)
    with pytest.raises(UserError, match=r"^Qwen.* the last layer of .*; leave feature_layer out$"):
        family_of(qwen[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((9, 8, None), "min_pixels=9 is more than max_pixels=8; change one of them"),
        (
            (None, 9, None),
            "min_pixels={least} is more than max_pixels=9 (the one not set is the checkpoint's own); change "
            "one of them",
        ),
        (
            (None, None, 57),
            "square=57 must be a multiple of {side}, the pixels on a side of a token; try square={near}",
        ),
        ((None, 9, 448), "max_pixels and square exclude each other; leave square or the others out"),
    ],
)
def test_resolutions_that_cannot_be_are_refused(
    qwen: tuple[Any, Any], options: tuple[int | None, int | None, int | None], message: str
) -> None:
    images = copy.deepcopy(qwen[1].image_processor)
    side = 2 * images.patch_size
    least = images.size["shortest_edge"]
    said = message.format(side=side, near=57 // side * side, least=least)
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        set_resolution(qwen[0].config, images, *options)


def test_models_of_fixed_resolution_have_no_such_option(llava: tuple[Any, Any]) -> None:
    model, processor = llava
    message = "^square: models of type 'llava' see pictures at the resolutions that they were made for; leave"
    with pytest.raises(UserError, match=message):
        set_resolution(model.config, processor.image_processor, None, None, 448)
