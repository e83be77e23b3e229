"""FastV, and the contract of stages inside the language model."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.layer_stage import LayerSignals, LayerStage, acting, counts_by_layer
from hired_eval.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Plain(LayerStage):
    """Scores by what it is given."""

    at: tuple[int, ...] = (1,)
    wrong: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        return self.at

    def left(self, layer: int, visual: int) -> int:
        return visual // (layer + 1)

    def score(self, signals: LayerSignals) -> Tensor:
        return signals.attention[:, 0, :1] if self.wrong else signals.attention[:, 0]


def test_the_mean_over_heads_decides() -> None:
    attention = torch.tensor([[[0.4, 0.0, 0.3, 0.3], [0.0, 0.5, 0.3, 0.2]]])
    visual = torch.tensor([[True, True, True, False]])
    kept = FastV().kept(LayerSignals(attention, visual), torch.tensor([2]))
    assert kept.tolist() == [[False, True, True, False]]


def test_defaults_and_options() -> None:
    stage = FastV()
    assert (stage.layers, stage.left(2, 576), stage.left(2, 5)) == ((2,), 288, 2)
    assert FastV(keep=0.29).left(2, 100) == 29
    for options, text in (
        ({"layer": 0}, "layer must be a whole number of at least 1, got 0"),
        ({"keep": 0}, "keep must be above 0 and at most 1, got 0"),
        ({"keep": 1.5}, "keep must be above 0 and at most 1, got 1.5"),
        ({"layer": "x"}, "layer must be a whole number of at least 1, got 'x'"),
    ):
        with pytest.raises(UserError) as refused:
            FastV(**options)  # type: ignore[arg-type]
        assert str(refused.value) == text


@given(st.integers(1, 40), st.integers(0, 3000), st.floats(0.001, 1), st.data())
def test_the_budget_is_the_mean_over_layers(
    depth: int, visual: int, keep: float, data: st.DataObject
) -> None:
    layer = data.draw(st.integers(1, depth))
    stage = FastV(layer=layer, keep=keep)
    left = floor(Fraction(repr(keep)) * visual)
    counts = counts_by_layer([stage], visual, depth)
    assert counts == [visual] * layer + [left] * (depth - layer)
    assert fmean(counts_by_layer([stage], visual, depth)) == pytest.approx(
        (layer * visual + (depth - layer) * left) / depth
    )


def test_several_stages_one_after_the_other() -> None:
    stages = [FastV(layer=3, keep=0.9), Plain(at=(1, 5))]
    assert list(acting(stages)) == [1, 3, 5]
    assert counts_by_layer(stages, 100, 7) == [100, 50, 50, 50, 50, 16, 16]
    assert counts_by_layer([], 100, 2) == [100, 100]


def test_stages_that_cannot_act_together() -> None:
    with pytest.raises(UserError) as refused:
        acting([FastV(layer=3), Plain(at=(2, 3))])
    assert str(refused.value) == "FastV and Plain both act at layer 3; give them different layers"
    with pytest.raises(UserError) as refused:
        acting([Plain(at=(0,))])
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
    kept = Plain().kept(LayerSignals(scores[:, None], visual), torch.tensor(counts))
    for score, places, count, row in zip(rows, visual, counts, kept, strict=True):
        columns = [i for i in range(6) if places[i]]
        highest = sorted(columns, key=lambda i: (-score[i], i))[:count]
        assert [i for i in range(6) if row[i]] == sorted(highest)


def test_scores_that_say_nothing_are_refused() -> None:
    signals = LayerSignals(torch.full((1, 1, 3), torch.nan), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(UserError) as refused:
        Plain().kept(signals, torch.tensor([1]))
    assert str(refused.value) == "the score of Plain holds NaN; try another dtype, e.g. model.dtype=float32"
    with pytest.raises(UserError) as refused:
        Plain(wrong=True).kept(signals, torch.tensor([1]))
    assert str(refused.value) == (
        "Plain.score must give one number for each column, (B, n) = (1, 3); it gave (1, 1)"
    )
