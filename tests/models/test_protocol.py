"""protocol=fixed_grid: full execution is stock with its grid pinned, nothing unpadded, no newline tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hired_eval.dropping import HiRED
from hired_eval.dropping.registry import build
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import FAMILIES, family_of, qwen_vl
from hired_eval.models.images import pad_to_square
from tests import tiny

SHAPES = [(150, 60), (30, 200), (90, 90)]
PROMPT = "a:{images}{question}"


SQUARE = 6
"""Tokens on a side of Qwen's square here; 36 would take long."""


@pytest.fixture(scope="module", params=["llava", "llava_next", "llava_onevision", "internvl", "qwen2_5_vl"])
def fixed(request: pytest.FixtureRequest) -> tuple[str, Checkpoint]:
    """A tiny model of its own, on one grid."""
    model, processor = getattr(tiny, request.param)()
    family = FAMILIES[model.config.model_type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qwen_vl, "FIXED_SIDE", SQUARE * 2 * tiny.PATCH)
        square = family.fix_grid(model.config, processor.image_processor)
    return request.param, Checkpoint(model, processor, square)


@pytest.mark.parametrize(("token", "side"), [(28, 1008), (32, 1024)])
def test_the_square_of_qwen_is_of_whole_tokens(token: int, side: int) -> None:
    images = SimpleNamespace(merge_size=2, patch_size=token // 2, size={})
    assert FAMILIES["qwen3_vl"].fix_grid(None, images) == side
    assert images.size == {"shortest_edge": side**2, "longest_edge": side**2}


def test_every_picture_has_as_many_tokens_whatever_its_shape(fixed: tuple[str, Checkpoint]) -> None:
    name, checkpoint = fixed
    answering = DroppingVLM(checkpoint, build("full"), PROMPT)
    images = [answering.prepare(Question("b", (tiny.picture(w, h),))).images[0] for w, h in SHAPES]
    layouts = [image.layout for image in images]
    totals = {layout.total_tokens for layout in layouts}
    assert len(totals) == 1
    assert {image.counts.kept for image in images} == {image.counts.full for image in images} == totals
    assert {layout.partitions for layout in layouts} == {1 if name in ("llava", "qwen2_5_vl") else 5}
    kept = [
        DroppingVLM(checkpoint, build("random", tokens=7), PROMPT).prepare(Question("b", (image,)))
        for image in (tiny.picture(w, h) for w, h in SHAPES)
    ]
    assert {one.counts[0].kept for one in kept} == {one.counts[0].allowed for one in kept} == {7}


@torch.inference_mode()
def test_full_is_the_stock_model_without_unpadding_and_newlines(fixed: tuple[str, Checkpoint]) -> None:
    name, checkpoint = fixed
    model: Any = checkpoint.model
    images: Any = checkpoint.processor.image_processor  # type: ignore[attr-defined]
    answering = DroppingVLM(checkpoint, build("full"), PROMPT)
    family = family_of(model, image_processor=images)
    for width, height in SHAPES:
        picture = tiny.picture(width, height)
        found = answering.prepare(Question("b", (picture,))).images[0].embeddings
        if checkpoint.square is not None:
            colour = [round(255 * value) for value in images.image_mean]
            picture = pad_to_square(picture, checkpoint.square, colour)
        made = images(images=[picture], return_tensors="pt", **family.processor_options)
        inputs = {key: value for key, value in made.items() if key in family.vision_arguments}
        if "image_sizes" in inputs:
            # as if the picture filled the grid, so that nothing is unpadded
            inputs["image_sizes"] = torch.tensor(model.config.image_grid_pinpoints)
        (stock,) = model.model.get_image_features(**inputs, return_dict=True).pooler_output[:1]
        if name in ("llava_next", "llava_onevision"):
            side = family.layout((height, width)).tile[0]
            tokens, newlines = stock[: side**2], stock[side**2 :].view(2 * side, 2 * side + 1, -1)
            assert newlines[:, -1].equal(model.model.image_newline.expand(2 * side, -1))
            stock = torch.cat([tokens, newlines[:, :-1].flatten(0, 1)])
        elif name == "internvl":
            stock = model.model.get_image_features(**inputs, return_dict=True).pooler_output.flatten(0, 1)
        torch.testing.assert_close(found, stock)


def test_a_method_may_keep_tokens_over_padding() -> None:
    model, processor = tiny.llava_next()
    wide = Question("b", (tiny.picture(150, 60),))
    native = DroppingVLM(Checkpoint(model, processor), HiRED(budget=1.0), PROMPT).prepare(wide).images[0]
    FAMILIES["llava_next"].fix_grid(model.config, processor.image_processor)
    fixed = DroppingVLM(Checkpoint(model, processor), HiRED(budget=1.0, alpha=0.2), PROMPT).prepare(wide)
    layout = fixed.images[0].layout
    assert (native.layout.rows, native.layout.cols) != (layout.rows, layout.cols) == (2, 2)
    assert layout.unpadded() == (0, 2 * tiny.SIDE, 0, 2 * tiny.SIDE)
    assert layout.stock_tokens == layout.total_tokens
