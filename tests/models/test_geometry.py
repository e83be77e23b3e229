"""The partition layout equals what the stock processor makes of a picture."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hired_eval.models.families import family_of
from tests import tiny


@pytest.mark.parametrize("architecture", ["llava_next", "llava_onevision"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 900), height=st.integers(1, 900))
def test_a_picture_has_the_partitions_and_tokens_of_the_processor(
    architecture: str, width: int, height: int, request: pytest.FixtureRequest
) -> None:
    model, processor = request.getfixturevalue(architecture)
    inputs = processor(images=tiny.picture(width, height), text="<image>", return_tensors="pt")
    layout = family_of(model).layout((height, width))
    assert layout.partitions == inputs["pixel_values"].shape[1]
    placeholders = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert family_of(model).layout((height, width)).stock_tokens == placeholders


@pytest.mark.parametrize("size", [(1, 1), (10000, 20), (20, 10000)])
def test_extreme_pictures_have_a_layout(llava_next: tuple[Any, Any], size: tuple[int, int]) -> None:
    model, processor = llava_next
    inputs = processor(images=tiny.picture(*size), text="<image>", return_tensors="pt")
    placeholders = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert family_of(model).layout((size[1], size[0])).stock_tokens == placeholders


def test_llava_has_one_partition(llava: tuple[Any, Any]) -> None:
    layout = family_of(llava[0]).layout((30, 500))
    assert (layout.partitions, layout.rows, layout.cols) == (1, 0, 0)
    assert family_of(llava[0]).layout((30, 500)).stock_tokens == layout.total_tokens == tiny.SIDE**2
