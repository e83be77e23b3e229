"""Pictures of several grids in one pass of the vision tower: the tokens kept of each are those kept alone.

On a CPU the tower's sums may differ in their last bits with the partitions of a pass, which is why one
picture is a pass there unless more are asked for. On the tiny model here features differ by less than 1e-5,
and the kept tokens not at all.
"""

from typing import Any

import pytest
import torch

from hired_eval.dropping.registry import build
from hired_eval.method_configs import method_configs
from hired_eval.models.families import family_of
from hired_eval.models.family import Family, Picture
from hired_eval.models.visual_tokens import make_visual_tokens
from tests import tiny

SIZES = [(112, 112), (60, 200), (100, 75), (200, 40)]


@pytest.fixture(scope="module")
def pictures() -> tuple[Family, list[Picture]]:
    model, processor = tiny.llava_next()
    family = family_of(model)
    images = [tiny.picture(*size, seed=i) for i, size in enumerate(SIZES)]
    return family, [family.read(image, processor.image_processor) for image in images]


@pytest.mark.parametrize("method", method_configs())
def test_what_is_kept_does_not_depend_on_the_pass(
    method: str, pictures: tuple[Family, list[Picture]]
) -> None:
    family, read = pictures
    assert len({picture.layout.partitions for picture in read}) > 1, "the grids mix"
    stage = build(method).vision
    with torch.inference_mode():
        alone = make_visual_tokens(family, read, stage)
        together = make_visual_tokens(family, read, stage, per_pass=3)
    for one, other in zip(alone, together, strict=True):
        assert one.counts == other.counts
        for field in ("partition", "index", "newlines_after"):
            assert getattr(one.packed, field).equal(getattr(other.packed, field)), field
        torch.testing.assert_close(one.packed.features, other.packed.features, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.embeddings, other.embeddings, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("per_pass", "passes"), [(None, [1, 1, 1, 1]), (3, [3, 1]), (16, [4])])
def test_pictures_share_passes(
    per_pass: int | None,
    passes: list[int],
    pictures: tuple[Family, list[Picture]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family, read = pictures
    seen: list[int] = []
    encode = family.encode

    def counting(pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(pixels))
        return encode(pixels, *args, **kwargs)

    monkeypatch.setattr(family, "encode", counting)
    with torch.inference_mode():
        make_visual_tokens(family, read, build("full").vision, per_pass=per_pass)
    sizes, expected = [picture.layout.partitions for picture in read], []
    for count in passes:
        expected.append(sum(sizes[:count]))
        sizes = sizes[count:]
    assert seen == expected
