"""The committed page of families is what the code says."""

from pathlib import Path

import pytest

from tests.models.families_table import published_row, tiny_row
from tests.models.test_fixed_answers import FAMILIES

PAGE = (Path(__file__).parents[2] / "results/families.md").read_text().splitlines()


@pytest.mark.parametrize("family", ["llava_next", "internvl"])
def test_a_tiny_model_keeps_what_the_page_says(family: str) -> None:
    assert tiny_row(family) in PAGE


@pytest.mark.parametrize("model", ["llava_next_7b", "internvl3_1b", "qwen2_5_vl_3b"])
def test_a_published_shape_takes_what_the_page_says(model: str) -> None:
    assert published_row(model) in PAGE


def test_full_execution_is_stock_in_every_row() -> None:
    assert [line.split("|")[2].strip() for line in PAGE if line.split("|")[1:2] and "of 9" in line] == [
        "9 of 9"
    ] * len(FAMILIES)
