"""InternVL: full execution is the stock model, and its tokens are squares of patches."""

from typing import Any

import pytest
import torch

from hired_eval.dropping import HiRED
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from hired_eval.models.shortened_inputs import encode_images
from hired_eval.runs.probes import partitions_of, places_of
from tests import tiny
from tests.models.stock import assert_full_is_stock, generate

# one tile, a row, a column, a grid, the most tiles, extreme shapes
SIZES = [(56, 56), (112, 56), (50, 120), (130, 120), (300, 230), (900, 40), (30, 700), (1, 1), (60, 40)]
GRIDS = [(0, 0), (1, 2), (5, 2), (3, 3), (3, 4), (1, 12), (12, 1), (0, 0), (2, 3)]
METHODS = ["hired", "topk_cls", "even_split", "random", "spatial", "prumerge", "visionzip", "divprune"]


def inputs_of(processor: Any, prompts: list[list[tuple[int, int]]]) -> dict[str, Any]:
    """A batch of prompts with a picture of each size."""
    images = [tiny.picture(w, h, seed=w + h) for sizes in prompts for w, h in sizes]
    text = ["a:" + "<image>" * len(sizes) + "b" * i + "?" for i, sizes in enumerate(prompts)]
    return dict(processor(images=images or None, text=text, padding=True, return_tensors="pt"))


def sizes_of(prompts: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """(height, width) of each picture of a batch."""
    return [(h, w) for sizes in prompts for w, h in sizes]


def test_grids_are_those_of_the_stock_processor(internvl: tuple[Any, Any]) -> None:
    model, processor = internvl
    family = family_of(model, image_processor=processor.image_processor)
    for (width, height), grid in zip(SIZES, GRIDS, strict=True):
        layout = family.layout((height, width))
        assert (layout.rows, layout.cols) == grid
        tiles = layout.partitions
        assert layout.stock_tokens == layout.total_tokens == 4 * tiles
        assert layout.full_image_last == (tiles > 1)
        picture = family.read(tiny.picture(width, height), processor.image_processor)
        assert picture.layout == layout
        assert len(picture.pixels) == tiles


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_full_is_stock_for_each_shape(internvl: tuple[Any, Any], size: tuple[int, int]) -> None:
    model, processor = internvl
    inputs = inputs_of(processor, [[size]])
    assert_full_is_stock(model, inputs, image_sizes=sizes_of([[size]]))


def test_full_is_stock_in_mixed_batches_with_several_pictures_and_none(internvl: tuple[Any, Any]) -> None:
    model, processor = internvl
    prompts = [[size] for size in SIZES[:5]] + [[(50, 120), (1, 1), (130, 120)], [], [(56, 56), (56, 56)]]
    inputs = inputs_of(processor, prompts)
    stock = generate(model, inputs)
    assert len(set(map(tuple, stock.tolist()))) > 3, "answers must depend on the picture"
    beams = generate(model, inputs, num_beams=2)
    with build("full")(model):
        assert generate(model, inputs).equal(stock)
        assert generate(model, inputs, num_beams=2).equal(beams)
    text = inputs_of(processor, [[], []])
    stock = generate(model, text)
    with build("full")(model):
        assert generate(model, text).equal(stock)


def test_full_is_stock_in_16_bit(internvl: tuple[Any, Any]) -> None:
    model, processor = tiny.internvl()
    model.bfloat16()
    inputs = inputs_of(processor, [[(130, 120)], [(1, 1), (50, 120)]])
    with torch.inference_mode():
        logits = model(**inputs).logits
        with build("full")(model):
            torch.testing.assert_close(model(**inputs).logits, logits, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("sizes", [[(130, 120)], [(1, 1)], [(50, 120), (900, 40)], []], ids=str)
def test_answers_of_the_evaluation_are_stock(internvl: tuple[Any, Any], sizes: list[tuple[int, int]]) -> None:
    model, processor = internvl
    pictures = tuple(tiny.picture(w, h, seed=w + h) for w, h in sizes)
    answering = DroppingVLM(Checkpoint(model, processor), build("full"), "a:{images}{question}")
    prepared = answering.prepare(Question("b?", pictures))
    answer = answering.answer([prepared], {"max_new_tokens": 6})[0].text
    text = "a:" + " ".join(["<image>"] * len(pictures)) + "b?"
    inputs = processor(images=list(pictures) or None, text=[text], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == prepared.input_ids
    stock = generate(model, inputs)
    assert answer == processor.tokenizer.decode(stock[0], skip_special_tokens=True)


def test_a_token_is_the_square_of_patches_that_the_projector_gets(internvl: tuple[Any, Any]) -> None:
    model, processor = internvl
    family = family_of(model)
    pixels = family.read(tiny.picture(130, 120), processor.image_processor).pixels
    stage = HiRED(initial_layer=1).vision
    with torch.inference_mode():
        encoding = family.encode(pixels, stage)
        stock = model.model.get_image_features(pixels, return_dict=True).pooler_output
        torch.testing.assert_close(model.model.multi_modal_projector(encoding.features), stock)
        model.model.vision_tower.config._attn_implementation = "eager"
        attentions = model.model.vision_tower(pixels, output_attentions=True).attentions
        model.model.vision_tower.config._attn_implementation = "sdpa"
    for layer in (1, 3):
        rows = attentions[layer][:, :, 0, 1:].unflatten(-1, (2, 2, 2, 2)).sum(dim=(3, 5)).flatten(2)
        torch.testing.assert_close(encoding.attention_at(layer), rows)
        received = attentions[layer].mean(dim=(1, 2))[:, 1:].unflatten(-1, (2, 2, 2, 2)).sum(dim=(2, 4))
        torch.testing.assert_close(received_of(family, pixels, layer), received.flatten(1))


def received_of(family: Any, pixels: torch.Tensor, layer: int) -> torch.Tensor:
    """Attention received in a layer."""
    with torch.inference_mode():
        dropper = HiRED(signal="received", final_layer=layer, distribute="even")
        encoding = family.encode(pixels, dropper)
    received: torch.Tensor = encoding.received_at(layer)
    return received


def test_hired_reads_the_thumbnail_and_packs_tile_after_tile(internvl: tuple[Any, Any]) -> None:
    model, processor = internvl
    prompts = [[(130, 120)]]
    inputs = inputs_of(processor, prompts) | {"image_sizes": sizes_of(prompts)}
    with torch.inference_mode():
        _, (image,) = encode_images(model, HiRED(budget=0.5, alpha=0.4), inputs)
    assert image.counts.kept <= image.counts.allowed == 20
    partition, index = image.packed.partition, image.packed.index
    assert (partition == 9).sum() == 4, "of eight tokens that alpha gives it, the thumbnail has four"
    key = partition * 4 + index
    assert key.equal(key.sort().values)


@pytest.mark.parametrize("method", METHODS)
def test_kept_tokens_and_answers_do_not_depend_on_the_batch(internvl: tuple[Any, Any], method: str) -> None:
    model, processor = internvl
    dropper = build(method, **{} if method == "prumerge" else {"budget": 0.3})
    answering = DroppingVLM(Checkpoint(model, processor), dropper, "{images}{question}")
    prompts = [[size] for size in SIZES] + [[(50, 120), (130, 120)]]
    batch = []
    for sizes in prompts:
        pictures = tuple(tiny.picture(w, h, seed=w + h) for w, h in sizes)
        batch.append(answering.prepare(Question("b?", pictures)))
        for (width, height), counts in zip(sizes, batch[-1].counts, strict=True):
            layout = answering.family.layout((height, width))
            if counts.allowed is not None:
                assert counts.kept <= counts.allowed == int(0.3 * layout.total_tokens + 1e-9)
            assert counts.kept <= counts.full == layout.total_tokens
    together = answering.answer(batch, {"max_new_tokens": 4})
    assert together == [answering.answer([one], {"max_new_tokens": 4})[0] for one in batch]
    # the same through `with method(model)`
    inputs = inputs_of(processor, [[size] for size in SIZES])
    with torch.inference_mode():
        _, images = encode_images(model, dropper, inputs | {"image_sizes": [(h, w) for w, h in SIZES]})
    for image, one in zip(images, batch, strict=False):
        assert image.packed.index.equal(one.images[0].packed.index)
        assert image.packed.partition.equal(one.images[0].packed.partition)


def test_the_grid_must_be_known_where_a_method_reads_it(internvl: tuple[Any, Any]) -> None:
    model, processor = internvl
    inputs = inputs_of(processor, [[(130, 120)], [(56, 56)]])
    for dropper in (HiRED(budget=0.5), build("downsample", budget=0.5)):
        with dropper(model), pytest.raises(UserError, match="image_sizes"):
            generate(model, inputs)
    with HiRED(budget=0.5, distribute="even")(model):
        without = generate(model, inputs)
        assert generate(model, inputs, image_sizes=[(120, 130), (56, 56)]).equal(without)


def test_the_thumbnail_comes_first_in_pictures_of_the_partitions(internvl: tuple[Any, Any]) -> None:
    model, processor = internvl
    answering = DroppingVLM(Checkpoint(model, processor), HiRED(budget=0.5), "{images}{question}")
    picture = tiny.picture(60, 40)
    shown = partitions_of(answering, picture)
    own = processor.image_processor(images=[picture], return_tensors="pt", crop_to_patches=True)
    assert own.pixel_values.shape[0] == len(shown) == 7
    stock = processor.image_processor
    mean, std = (torch.tensor(v)[:, None, None] for v in (stock.image_mean, stock.image_std))
    for place, partition in ((0, 6), (1, 0), (6, 5)):
        pixels = ((own.pixel_values[partition] * std + mean) * 255).round().clamp(0, 255)
        assert (torch.from_numpy(shown[place]).permute(2, 0, 1) == pixels).all()
    (tokens,) = answering.prepare(Question("b?", (picture,))).images
    assert (places_of(tokens)[:, 0] == 0).sum() == (tokens.packed.partition == 6).sum() > 0
