"""Over random options and geometries: the budget is never exceeded, order is kept, more budget keeps more."""

from math import floor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval import Full, HiRED, Layouts, PartitionLayout, VisionEncoding
from hired_eval.dropping.registry import build
from hired_eval.dropping.selection import spend
from hired_eval.dropping.testing import check_dropper, synthetic_encoding
from hired_eval.method_configs import method_configs
from tests.selected import drop, select

BUDGETED = sorted(
    name for name, config in method_configs().items() if {"budget", "newline"} <= {*config.options}
)
sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
grids = st.sampled_from([(0, 0), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3)])
layouts = st.builds(
    lambda g, side, size: PartitionLayout(*g, (side, side), size), grids, st.integers(2, 5), sizes
)


@given(
    name=st.sampled_from(BUDGETED),
    layout=layouts,
    budget=st.floats(1e-4, 1),
    newline=st.sampled_from(["none", "rows"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_the_budget_is_a_promise(
    name: str, layout: PartitionLayout, budget: float, newline: Any, seed: int
) -> None:
    method = build(name, budget=budget, newline=newline)
    encoding = synthetic_encoding(method, layout, seed=seed)
    kept, packed = drop(method, encoding, layout), select(method, encoding, layout)
    assert packed.length <= budget * layout.total_tokens
    if method.grid_order:
        assert all(bool((i.diff() > 0).all()) for i in kept.indices)
        assert bool((packed.partition[packed.partition == 0].diff() == 0).all())


LAYER_OPTIONS = [
    (name, option)
    for name, config in method_configs().items()
    for option in config.options
    if option.endswith("_layer")
]


@pytest.mark.parametrize(("name", "option"), LAYER_OPTIONS)
@pytest.mark.parametrize("other", [0, 7])
def test_none_as_a_layer_is_the_feature_layer_alone(name: str, option: str, other: int) -> None:
    layout, generator = PartitionLayout(2, 2, (6, 6), (300, 400)), torch.Generator().manual_seed(0)
    attention = {layer: torch.rand(5, 2, 36, generator=generator) for layer in range(8)}
    encoding = VisionEncoding(torch.zeros(5, 36, 1), attention, feature_layer=5)
    # the other layer that a method may read lies before or behind the feature layer
    others = {o: other for n, o in LAYER_OPTIONS if n == name and o != option}
    unnamed, named, another = (build(name, **{option: layer}, **others) for layer in (None, 5, 6))
    assert unnamed.attention_layers(5) == named.attention_layers(5) == {5, *others.values()}
    kept, same, differs = (drop(method, encoding, layout).indices for method in (unnamed, named, another))
    assert all(map(torch.equal, kept, same))
    assert not all(a.equal(b) for a, b in zip(kept, differs, strict=True))


@given(layout=layouts, alpha=st.floats(0, 1), spend=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_hired_keeps_more_with_more_budget(
    layout: PartitionLayout, alpha: float, spend: bool, seed: int
) -> None:
    encoding = synthetic_encoding(HiRED(), layout, seed=seed)
    before = -1
    for budget in (0.05, 0.2, 0.5, 1.0):
        method = HiRED(budget=budget, alpha=alpha, spend_leftover=spend)
        kept = select(method, encoding, layout).length
        assert kept >= before
        before = kept
    usable = int(Layouts((layout,)).unpadded.sum())
    assert not spend or before == usable


def largest_remainder(quotas: list[float], room: list[int], budget: int) -> list[int]:
    """What `spend` gives for one image, in plain numbers."""
    counts = [0] * len(quotas)
    left_open = list(range(len(quotas)))
    while left_open:
        left = budget - sum(counts)
        total = sum(quotas[i] for i in left_open)
        share = {i: left * quotas[i] / total if total > 0 else left / len(left_open) for i in left_open}
        full = [i for i in left_open if share[i] >= room[i]]
        if not full:
            break
        for i in full:
            counts[i] = room[i]
        left_open = [i for i in left_open if i not in full]
    else:
        return counts
    for i in left_open:
        counts[i] = floor(share[i])
    by_remainder = sorted(left_open, key=lambda i: (counts[i] - share[i], i))
    for i in by_remainder[: budget - sum(counts)]:
        counts[i] += 1
    return counts


shared = st.tuples(
    st.lists(st.tuples(st.floats(0, 50), st.integers(0, 20)), min_size=2, max_size=6), st.integers(0, 150)
)


@given(images=st.lists(shared, min_size=1, max_size=3))
@settings(deadline=None)
def test_what_is_left_over_is_spent_as_far_as_there_is_room(images: list[Any]) -> None:
    layouts = Layouts(tuple(PartitionLayout(1, len(parts) - 1, (1, 1), (1, 1)) for parts, _ in images))
    quotas = torch.tensor([quota for parts, _ in images for quota, _ in parts], dtype=torch.float64)
    room = torch.tensor([most for parts, _ in images for _, most in parts])
    spent = spend(quotas, room, layouts, [budget for _, budget in images])
    sizes = [len(parts) for parts, _ in images]
    for counts, (parts, budget) in zip(spent.split(sizes), images, strict=True):
        most = [n for _, n in parts]
        assert counts.sum() == min(budget, sum(most))
        assert counts.tolist() == largest_remainder([quota for quota, _ in parts], most, budget)


@given(layout=layouts)
@settings(max_examples=60, deadline=None)
def test_full_packs_what_stock_packs(layout: PartitionLayout) -> None:
    encoding = synthetic_encoding(Full(), layout)
    packed = select(Full(), encoding, layout)
    assert packed.length == layout.stock_tokens
    assert Layouts((layout,)).unpadded.sum() == len(packed.features)
    covered = float(layout.regions().sum())
    assert covered == pytest.approx(layout.tokens_per_partition if layout.sub_images else 0)


@given(layout=layouts)
@settings(max_examples=5, deadline=None)
def test_the_shared_checks_hold_on_any_geometry(layout: PartitionLayout) -> None:
    check_dropper(HiRED(budget=0.3), [layout])
