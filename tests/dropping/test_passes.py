"""Several images in one pass: the tokens of each as alone, and nothing waits for the device but one copy."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval.dropping import Layouts, PartitionLayout
from hired_eval.dropping.registry import build
from hired_eval.dropping.testing import LAYOUTS, join, synthetic_encoding
from hired_eval.dropping.waits import note_waits
from hired_eval.method_configs import method_configs
from tests.dropping.test_matrix import VARIANTS
from tests.selected import select

GRIDS = [(0, 0), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3)]
sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@st.composite
def passes(draw: st.DrawFn) -> tuple[PartitionLayout, ...]:
    """Layouts of one to four images whose partitions have as many tokens, of one shape or of two."""
    height, width = draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    tiles = st.sampled_from([(height, width), (width, height)])
    last, newlines = st.booleans(), st.booleans()
    layout = st.builds(
        lambda grid, tile, size, last, newlines: PartitionLayout(
            *grid, tile, size, full_image_last=last, newlines=newlines
        ),
        st.sampled_from(GRIDS), tiles, sizes, last, newlines,
    )  # fmt: skip
    return tuple(draw(st.lists(layout, min_size=1, max_size=4)))


@given(
    name=st.sampled_from(sorted(method_configs())),
    layouts=passes(),
    budget=st.floats(1e-3, 1),
    newline=st.sampled_from(["none", "rows"]),
    spend_leftover=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_an_image_keeps_the_same_tokens_in_any_pass(
    name: str, layouts: tuple[PartitionLayout, ...], budget: float, newline: Any, spend_leftover: bool
) -> None:
    known = method_configs()[name].options
    given = {"budget": budget, "newline": newline, "spend_leftover": spend_leftover}
    method = build(name, **{option: value for option, value in given.items() if option in known}).vision
    encodings = [synthetic_encoding(method, layout, seed=seed) for seed, layout in enumerate(layouts)]
    together = method.select(join(encodings), Layouts(layouts))
    assert len(together) == len(layouts)
    for packed, encoding, layout in zip(together, encodings, layouts, strict=True):
        alone = select(method, encoding, layout)
        assert packed.length == alone.length
        for field in ("partition", "index", "newlines_after"):
            assert getattr(packed, field).equal(getattr(alone, field)), field
        torch.testing.assert_close(packed.features, alone.features)
        if method.allowed(layout) is not None:
            assert packed.length <= budget * layout.total_tokens


@pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_a_pass_waits_for_the_device_once(name: str, options: dict[str, Any]) -> None:
    method = build(name, **options).vision
    encoding = join([synthetic_encoding(method, layout) for layout in LAYOUTS])
    layouts = Layouts(LAYOUTS)
    with note_waits() as in_drop:
        kept = method.drop(encoding, layouts)
    with note_waits() as in_pass:
        method.pack(kept, layouts).images(encoding)
    assert in_drop == []
    assert in_pass == ["tolist"]


def test_what_waits_is_noted() -> None:
    numbers, mask = torch.arange(3), torch.tensor([True, False, True])
    for call in (
        lambda: numbers.tolist(),
        lambda: numbers.cpu(),
        lambda: numbers.numpy(),
        lambda: numbers[0].item(),
        lambda: int(numbers[0]),
        lambda: float(numbers[0]),
        lambda: [0, 1][numbers[0]],
        lambda: bool(mask.any()),
        lambda: numbers.equal(numbers),
        lambda: numbers[mask],
        lambda: numbers.clone().__setitem__(mask, numbers[:2]),
        lambda: numbers.masked_select(mask),
        lambda: mask.nonzero(),
        lambda: torch.where(mask),
        lambda: numbers.unique(),
        lambda: numbers.bincount(),
        lambda: numbers.repeat_interleave(numbers),
    ):
        with note_waits() as waits:
            call()
        assert len(waits) >= 1
    with note_waits() as waits:
        numbers.masked_fill(mask, 0).index_select(0, numbers).sort().values[numbers].where(mask, 1).sum()
        numbers.repeat_interleave(2).repeat_interleave(torch.full((6,), 2), output_size=12)
    assert waits == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, which alone can tell what waits")
@pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_a_gpu_does_not_wait(name: str, options: dict[str, Any]) -> None:
    method = build(name, **options).vision
    encodings = [synthetic_encoding(method, layout, seed=seed) for seed, layout in enumerate(LAYOUTS)]
    device = torch.device("cuda")
    encoding, on_cpu = join(encodings, device), join(encodings)
    method.select(encoding, Layouts(LAYOUTS, device))
    torch.cuda.set_sync_debug_mode("error")
    try:
        packed = method.pack(method.drop(encoding, Layouts(LAYOUTS, device)), Layouts(LAYOUTS, device))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = method.select(on_cpu, Layouts(LAYOUTS))
    for found, wanted in zip(packed.images(encoding), expected, strict=True):
        assert found.partition.tolist() == wanted.partition.tolist()
        assert found.index.tolist() == wanted.index.tolist()
        torch.testing.assert_close(found.features.cpu(), wanted.features)


def test_the_geometry_of_a_pass() -> None:
    """Two images, the second with its full-image behind the tiles, whose tokens are wide."""
    layouts = Layouts(
        (
            PartitionLayout(1, 2, (2, 3), (20, 60)),
            PartitionLayout(2, 1, (3, 2), (60, 20), full_image_last=True),
        )
    )
    assert layouts.image.tolist() == [0, 0, 0, 1, 1, 1]
    assert layouts.place.tolist() == [0, 1, 2, 0, 1, 2]
    assert layouts.sub_image.tolist() == [-1, 0, 1, 0, 1, -1]
    assert layouts.full_image.tolist() == [0, 0, 0, 5, 5, 5]
    assert layouts.total(torch.tensor([1, 2, 3, 4, 5, 6])).tolist() == [6, 6, 6, 15, 15, 15]
    rows, columns, _ = layouts.places_in_grid(torch.full((6, 1), 5))
    assert (rows[2].item(), columns[2].item()) == (1, 5)
    assert (rows[4].item(), columns[4].item()) == (5, 1)
    regions = layouts.regions.view(6, -1)
    assert regions[0].sum() == regions[5].sum() == 0
    assert regions[1].view(2, 3).tolist() == [[1, 0.5, 0], [1, 0.5, 0]]
    assert regions[4].view(3, 2).tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    with pytest.raises(ValueError, match=r"one number of tokens, got \[4, 6\]"):
        Layouts((PartitionLayout(0, 0, (2, 3), (2, 3)), PartitionLayout(0, 0, (2, 2), (2, 2))))


def test_tiles_in_front_of_the_full_image_keep_their_order_and_have_no_newline_tokens() -> None:
    layout = PartitionLayout(1, 2, (2, 2), (20, 40), full_image_last=True, newlines=False)
    method = build("full").vision
    packed = select(method, synthetic_encoding(method, layout), layout)
    assert packed.partition.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert packed.index.tolist() == [0, 1, 2, 3] * 3
    assert packed.length == layout.stock_tokens == layout.total_tokens == 12
