"""FastV, and the contract of stages inside the language model."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import floor
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hired_eval.dropping.dart import DART
from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.layer_stage import (
    LayerSignals,
    LayerStage,
    ShareStage,
    acting,
    counts_by_layer,
    mean_allowed,
)
from hired_eval.dropping.pyramiddrop import PyramidDrop
from hired_eval.dropping.sparsevlm import SparseVLM
from hired_eval.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Plain(LayerStage):
    """Scores by what it is given."""

    at: tuple[int, ...] = (1,)

    def layers(self, depth: int) -> tuple[int, ...]:
        return self.at

    def left(self, visual: int, depth: int, total: int, pictures: int = 1) -> dict[int, int]:
        return {layer: visual // (layer + 1) for layer in self.at}

    def score(self, signals: LayerSignals) -> Tensor:
        return signals["attention"][:, 0]


def kept(stage: LayerStage, attention: Tensor, visual: Tensor, counts: list[int]) -> Tensor:
    """(B, n) bool, from attention (B, heads, n)."""
    signals = LayerSignals(visual, ~visual, {"attention": attention})
    return stage.kept(stage.score(signals), signals, torch.tensor(counts))


def test_the_mean_over_heads_decides() -> None:
    attention = torch.tensor([[[0.4, 0.0, 0.3, 0.3], [0.0, 0.5, 0.3, 0.2]]])
    visual = torch.tensor([[True, True, True, False]])
    assert kept(FastV(), attention, visual, [2]).tolist() == [[False, True, True, False]]


def test_defaults_and_options() -> None:
    stage = FastV()
    assert stage.layers(32) == (2,)
    assert [stage.left(n, 32, 0)[2] for n in (576, 5)] == [288, 2]
    assert FastV(keep=0.29).left(100, 32, 0) == {2: 29}
    for options, text in (
        ({"layer": 0}, "layer must be a whole number of at least 1, got 0"),
        ({"keep": 0}, "keep must be above 0 and at most 1, got 0"),
        ({"keep": 1.5}, "keep must be above 0 and at most 1, got 1.5"),
        ({"layer": "x"}, "layer must be a whole number of at least 1, got 'x'"),
    ):
        with pytest.raises(UserError) as refused:
            FastV(**options)  # type: ignore[arg-type]
        assert str(refused.value) == text


@given(st.integers(2, 40), st.integers(0, 3000), st.floats(0.001, 1), st.data())
def test_the_budget_is_the_mean_over_layers(
    depth: int, visual: int, keep: float, data: st.DataObject
) -> None:
    layer = data.draw(st.integers(1, depth - 1))
    stage = FastV(layer=layer, keep=keep)
    left = floor(Fraction(repr(keep)) * visual)
    counts = counts_by_layer([stage], visual, depth)
    assert counts == [visual] * layer + [left] * (depth - layer)
    assert fmean(counts_by_layer([stage], visual, depth)) == pytest.approx(
        (layer * visual + (depth - layer) * left) / depth
    )


def test_several_stages_one_after_the_other() -> None:
    stages = [FastV(layer=3, keep=0.9), Plain(at=(1, 5))]
    assert list(acting(stages, 7)) == [1, 3, 5]
    assert counts_by_layer(stages, 100, 7) == [100, 50, 50, 50, 50, 16, 16]
    assert counts_by_layer([], 100, 2) == [100, 100]


def test_stages_that_cannot_act_together() -> None:
    with pytest.raises(UserError) as refused:
        acting([FastV(layer=3), Plain(at=(2, 3))], 32)
    assert str(refused.value) == "FastV and Plain both act at layer 3; give them different layers"
    with pytest.raises(UserError) as refused:
        acting([Plain(at=(0,))], 32)
    assert str(refused.value) == (
        "Plain acts at layer 0, before any layer has read the prompt; choose a layer from 1"
    )


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.2, -torch.inf]), min_size=6, max_size=6), min_size=1),
    st.data(),
)
def test_the_highest_stay_and_among_equals_the_earlier(rows: list[list[float]], data: st.DataObject) -> None:
    scores = torch.tensor(rows)
    visual = torch.tensor([data.draw(st.lists(st.booleans(), min_size=6, max_size=6)) for _ in rows])
    counts = [data.draw(st.integers(0, int(row.sum()))) for row in visual]
    stays = kept(Plain(), scores[:, None], visual, counts)
    for score, places, count, row in zip(rows, visual, counts, stays, strict=True):
        columns = [i for i in range(6) if places[i]]
        highest = sorted(columns, key=lambda i: (-score[i], i))[:count]
        assert [i for i in range(6) if row[i]] == sorted(highest)


def test_a_signal_that_a_stage_does_not_name_is_refused() -> None:
    signals = LayerSignals(torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool), {})
    with pytest.raises(UserError) as refused:
        Plain().score(signals)
    assert str(refused.value) == "a stage that uses the signal 'attention' must name it in `reads`"


STAGES: dict[str, Callable[..., ShareStage]] = {
    "fastv": FastV,
    "pyramiddrop": PyramidDrop,
    "sparsevlm": SparseVLM,
    "sparsevlm, no merging": partial(SparseVLM, recycle=False),
    "dart": DART,
}


@pytest.mark.parametrize("name", STAGES)
@settings(deadline=None, max_examples=60)
@given(st.integers(4, 40), st.integers(1, 3000), st.integers(1, 3000), st.floats(0.001, 1))
def test_a_budget_is_kept_as_the_mean_over_layers_and_spent(
    name: str, depth: int, visual: int, total: int, budget: float
) -> None:
    stage = STAGES[name](budget=budget)
    allowed = floor(Fraction(repr(budget)) * total)
    counts, refused = [], ""
    try:
        counts = counts_by_layer([stage], visual, depth, total)
    except UserError as error:
        refused = str(error)
    if refused:
        first = stage.layers(depth)[0]
        assert "set a larger budget, or let tokens leave at an earlier layer" in refused
        least = min(visual, 4 if name == "dart" else 0)
        # one merged token for every 33 that leave, and one more at each layer
        least = visual // 33 + 4 if name == "sparsevlm" else least
        assert first * visual + (depth - first) * least > allowed * depth
        return
    assert sum(counts) <= allowed * depth
    assert mean_allowed([stage], None, depth, total) == allowed
    if name == "fastv" and counts[-1] < visual:
        assert sum(counts) + depth - stage.layers(depth)[0] > allowed * depth, "one token more would fit"


@pytest.mark.parametrize("name", STAGES)
def test_a_larger_budget_keeps_no_fewer_tokens_and_the_largest_all(name: str) -> None:
    means = [fmean(counts_by_layer([STAGES[name](budget=b / 40)], 576, 32)) for b in range(11, 41)]
    assert means == sorted(means)
    assert means[-1] == 576


def test_a_budget_that_cannot_be_kept_says_why() -> None:
    with pytest.raises(UserError) as refused:
        counts_by_layer([FastV(budget=0.05)], 576, 32)
    assert str(refused.value) == (
        "FastV cannot keep to 28 visual tokens, the mean over layers that budget=0.05 allows: the layers in "
        "front see all 576, which makes 36.0; set a larger budget, or let tokens leave at an earlier layer"
    )


def test_without_a_budget_inside_the_one_before_counts() -> None:
    assert mean_allowed([FastV(layer=2, keep=0.5)], None, 4, 100) is None
    assert mean_allowed([FastV(layer=2, keep=0.5)], 40, 4, 100) == 30
    assert mean_allowed([FastV(layer=2, budget=0.3), FastV(layer=3, budget=0.2)], 40, 4, 100) == 20


def test_layers_follow_the_depth_of_the_language_model() -> None:
    assert PyramidDrop().layers(40) == (10, 20, 30)
    assert PyramidDrop().layers(2) == (1,)
    assert PyramidDrop(ratios=(0.5,)).left(576, 32, 0) == {16: 288}
    assert PyramidDrop(at=(3, 9, 20)).left(576, 32, 0) == {3: 288, 9: 144, 20: 72}
    assert SparseVLM().layers(40) == (2, 8, 19)
    assert SparseVLM().left(100, 4, 0) == {1: 34, 2: 19}
    for stage in (PyramidDrop, SparseVLM):
        with pytest.raises(UserError) as refused:
            stage(at=(3, 9))
        assert str(refused.value) == (f"{stage.__name__} has 3 ratios for 2 layers; give one for each")
