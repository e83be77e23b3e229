"""Budgets as a share, as a number of tokens, and as a number for each partition."""

from dataclasses import replace
from statistics import fmean

import pytest

from hired_eval.dropping import FastV, HiRED, PartitionLayout, PyramidDrop, SparseVLM
from hired_eval.dropping.layer_stage import counts_by_layer, mean_allowed
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError

FIVE = PartitionLayout(2, 2, (24, 24), (672, 672))
THREE = PartitionLayout(1, 2, (24, 24), (336, 672))
ONE = PartitionLayout(0, 0, (24, 24), (336, 336))


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, [576, 345, 115]),
        ({"budget": 0.2222}, [639, 383, 127]),
        ({"tokens": 640}, [640, 640, 576]),
        ({"tokens_per_partition": 128}, [640, 384, 128]),
        ({"tokens_per_partition": 999}, [2880, 1728, 576]),
    ],
)
def test_a_budget_is_a_share_or_a_number(options: dict[str, float], allowed: list[int]) -> None:
    assert [HiRED(**options).allowed(layout) for layout in (FIVE, THREE, ONE)] == allowed  # type: ignore[arg-type]
    assert build("hired", **options) == HiRED(**options)  # type: ignore[arg-type]


def test_one_budget_is_given() -> None:
    assert (HiRED().budget, HiRED(tokens=64).budget) == (0.2, None)
    with pytest.raises(UserError, match=r"HiRED has budget=0\.2 and tokens=64; give one of them"):
        HiRED(budget=0.2, tokens=64)
    with pytest.raises(UserError, match=r"FastV has budget=0\.4 and tokens=64; give one of them"):
        FastV(budget=0.4, tokens=64)
    with pytest.raises(UserError, match="has no option 'tokens_per_partition'"):
        build("fastv", tokens_per_partition=64)
    assert replace(HiRED(), budget=None, tokens=9) == HiRED(tokens=9)


@pytest.mark.parametrize("stage", [FastV, SparseVLM])
@pytest.mark.parametrize("pictures", [1, 2])
def test_inside_the_language_model_tokens_are_the_mean_over_its_layers(
    stage: type[FastV | SparseVLM], pictures: int
) -> None:
    total = 2880 * pictures
    asked = stage(tokens=640)
    mean = fmean(counts_by_layer([asked], total, 32, total, pictures))
    assert 640 * pictures - 2 * pictures < mean <= 640 * pictures
    assert mean_allowed([asked], None, 32, total, pictures) == 640 * pictures


def test_a_mean_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"PyramidDrop cannot keep to 640 visual tokens.*tokens=640 allows"):
        counts_by_layer([PyramidDrop(tokens=640)], 2880, 32)


def test_of_a_composition_the_budget_is_that_of_the_stage_inside() -> None:
    both = build("hired+fastv", **{"tokens": 640, "hired.tokens": 1440})
    assert both == build("hired+fastv", **{"fastv.tokens": 640, "hired.tokens": 1440})
    assert both.vision.allowed(FIVE) == 1440
    assert fmean(counts_by_layer(both.inside, 1440, 32, 2880)) <= 640
