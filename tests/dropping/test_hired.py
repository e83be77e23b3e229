"""HiRED's options, its regions on padded pictures, and bad attention."""

import pytest
import torch
from torch import Tensor

from hired_eval import EvenSplit, HiRED, HiREDReleased, Layouts, PartitionLayout, TopKCLS, VisionEncoding
from hired_eval.dropping.hired import visual_content_score
from hired_eval.dropping.selection import spend
from hired_eval.errors import UserError
from tests.selected import drop, select

SIDE = 4
GRID = PartitionLayout(2, 2, (SIDE, SIDE), (56, 56))
WIDE = PartitionLayout(2, 2, (SIDE, SIDE), (28, 56))  # half of the assembled grid is padding


def encoding(layout: PartitionLayout, **layers: Tensor) -> VisionEncoding:
    """Attention given as layer<number>=(P, heads, N); features are positions."""
    count = layout.tokens_per_partition
    features = torch.arange(count, dtype=torch.float32)[None, :, None].expand(layout.partitions, count, 1)
    return VisionEncoding(features, {int(name.removeprefix("layer")): a for name, a in layers.items()})


def attention(layout: PartitionLayout, seed: int = 0, heads: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(layout.partitions, heads, layout.tokens_per_partition, generator=g) / 100


def counts(method: HiRED, enc: VisionEncoding, layout: PartitionLayout) -> list[int]:
    return [len(i) for i in drop(method, enc, layout).indices]


def at(*tokens: int, heads: int = 2) -> Tensor:
    """Attention of the grid's full-image at the given positions only."""
    values = torch.zeros(GRID.partitions, heads, GRID.tokens_per_partition)
    values[0, :, list(tokens)] = 0.5
    return values


def test_budget_follows_the_region_and_not_the_band() -> None:
    """All attention in the lower right quadrant: its sub-image gets everything but the full-image's share."""
    enc = encoding(GRID, layer0=at(10, 11, 14, 15), layer2=attention(GRID))
    assert counts(HiRED(budget=0.25), enc, GRID) == [10, 0, 0, 0, 10]
    in_upper_right = encoding(GRID, layer0=at(2, 3, 6, 7), layer2=attention(GRID))
    assert counts(HiRED(budget=0.25), in_upper_right, GRID) == [10, 0, 10, 0, 0]
    # the released code reads the second quarter of the raster order as the second sub-image
    assert len(drop(HiREDReleased(budget=0.25, alpha=0.5), in_upper_right, GRID).indices[2]) < 10


@pytest.mark.parametrize("size", [(28, 56), (56, 28), (20, 56), (56, 31), (3, 200)])
@pytest.mark.parametrize("grid", [(2, 2), (1, 3), (3, 1), (1, 2)])
def test_regions_share_out_the_whole_picture(grid: tuple[int, int], size: tuple[int, int]) -> None:
    """Padding covers nothing of the picture, so the regions of the sub-images add up to every patch once."""
    layout = PartitionLayout(*grid, (SIDE, SIDE), size)
    torch.testing.assert_close(layout.regions().sum(dim=0), torch.ones(SIDE * SIDE, dtype=torch.float64))


def test_regions_of_a_padded_picture() -> None:
    """A picture twice as wide as high in a square grid: the upper two sub-images hold its upper half."""
    left_upper, right_upper, left_lower, right_lower = WIDE.regions().view(4, SIDE, SIDE)
    block = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    block[:2, :2] = 1
    assert left_upper.equal(block)
    assert right_upper.equal(block.flip(1))
    assert left_lower.equal(block.flip(0))
    assert right_lower.equal(block.flip(0, 1))
    # a tall picture in a row of three sub-images lies in the middle one alone
    tall = PartitionLayout(1, 3, (SIDE, SIDE), (56, 20)).regions()
    assert tall.sum(dim=1).tolist() == [0, SIDE * SIDE, 0]
    # a picture of 3:2 in a row of three covers half of the grid's width: quarter, half, quarter
    wide = PartitionLayout(1, 3, (SIDE, SIDE), (40, 60)).regions()
    torch.testing.assert_close(wide.sum(dim=1) / SIDE**2, torch.tensor([1 / 6, 2 / 3, 1 / 6]).double())


def test_regions_without_padding_are_the_blocks() -> None:
    for rows, cols in [(2, 2), (1, 2), (2, 1), (4, 1)]:
        layout = PartitionLayout(rows, cols, (SIDE, SIDE), (rows * 28, cols * 28))
        expected = torch.zeros(rows * cols, SIDE, SIDE, dtype=torch.float64)
        for i in range(rows * cols):
            r, c = divmod(i, cols)
            h, w = SIDE // rows, SIDE // cols
            expected[i, r * h : (r + 1) * h, c * w : (c + 1) * w] = 1
        assert layout.regions().view_as(expected).equal(expected)


def test_a_patch_cut_by_a_border_counts_by_the_fraction_covered() -> None:
    layout = PartitionLayout(1, 3, (SIDE, SIDE), (28, 84))
    across = layout.regions().view(3, SIDE, SIDE)[:, 0]
    expected = torch.tensor([[1, 1 / 3, 0, 0], [0, 2 / 3, 2 / 3, 0], [0, 0, 1 / 3, 1]], dtype=torch.float64)
    torch.testing.assert_close(across, expected)
    score = visual_content_score(torch.ones(4, 2, 16), Layouts((layout,)))
    assert score.tolist() == pytest.approx([0, *[32 / 3] * 3])


def test_initial_layer_and_even_distribution() -> None:
    enc = encoding(GRID, layer0=at(0), layer1=at(3), layer2=attention(GRID))
    assert counts(HiRED(budget=0.25, final_layer=2), enc, GRID) == [10, 10, 0, 0, 0]
    assert counts(HiRED(budget=0.25, initial_layer=1, final_layer=2), enc, GRID) == [10, 0, 10, 0, 0]
    assert counts(HiRED(budget=0.25, distribute="even"), enc, GRID) == [10, 2, 2, 2, 2]
    only_final = encoding(GRID, layer2=at(12))
    assert counts(HiRED(budget=0.25, initial_layer=None), only_final, GRID) == [10, 0, 0, 10, 0]
    assert HiRED(distribute="even").attention_layers(22) == {22}
    assert HiRED().attention_layers(22) == {0, 22}
    assert HiRED(initial_layer=11, final_layer=0).attention_layers(22) == {0, 11}


def test_final_layer_and_heads_choose_the_tokens() -> None:
    first, second = at(1, 2), at(13, 14)
    enc = encoding(GRID, layer0=first, layer2=second)
    assert drop(HiRED(budget=0.05), enc, GRID).indices[0].tolist() == [13, 14]
    assert drop(HiRED(budget=0.05, final_layer=0), enc, GRID).indices[0].tolist() == [1, 2]
    by_head = second.clone()
    by_head[:, 1] = 0
    by_head[0, 1, [7, 8]] = 0.4
    one_head = encoding(GRID, layer0=first, layer2=by_head)
    assert drop(HiRED(budget=0.05, heads="single", head=1), one_head, GRID).indices[0].tolist() == [7, 8]
    assert drop(HiRED(budget=0.05, heads="single"), one_head, GRID).indices[0].tolist() == [13, 14]
    with pytest.raises(UserError, match="head=2, and the vision tower has heads 0 to 1"):
        drop(HiRED(heads="single", head=2), one_head, GRID)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_alpha_is_the_share_of_the_full_image(alpha: float) -> None:
    enc = encoding(GRID, layer0=attention(GRID), layer2=attention(GRID, 1))
    assert counts(HiRED(budget=0.1, alpha=alpha), enc, GRID)[0] == int(alpha * 8)


def test_spend_leftover_spends_the_whole_budget() -> None:
    enc = encoding(GRID, layer0=at(10, 11, 14, 15), layer2=attention(GRID))
    # by the paper's rule the clamps leave 60 - 32 tokens unspent
    assert counts(HiRED(budget=0.75), enc, GRID) == [16, 0, 0, 0, 16]
    spent = counts(HiRED(budget=0.75, spend_leftover=True), enc, GRID)
    assert spent[0] == spent[4] == 16
    assert sum(spent) == 60


def test_spend_leftover_excludes_padding_first() -> None:
    enc = encoding(WIDE, layer0=attention(WIDE), layer2=attention(WIDE, 1))
    for newline in ("none", "rows"):
        plain = HiRED(budget=0.4, newline=newline)
        spending = HiRED(budget=0.4, newline=newline, spend_leftover=True)
        lengths = [select(m, enc, WIDE).length for m in (plain, spending)]
        assert lengths[0] < lengths[1]
        assert 32 - (newline == "rows") <= lengths[1] <= 32
    usable = Layouts((WIDE,)).unpadded.sum(dim=1).tolist()
    assert usable == [16, 8, 8, 8, 8]
    assert counts(HiRED(budget=1.0, spend_leftover=True), enc, WIDE) == usable


def spent(quotas: list[float], room: list[int], budget: int) -> list[int]:
    layouts = Layouts((PartitionLayout(1, len(quotas) - 1, (1, 1), (1, 1)),))
    counts = spend(torch.tensor(quotas, dtype=torch.float64), torch.tensor(room), layouts, [budget])
    numbers: list[int] = counts.tolist()
    return numbers


def test_what_is_left_over_goes_to_the_largest_remainders() -> None:
    assert spent([10.4, 1.8, 1.8], [100] * 3, 14) == [10, 2, 2]
    assert spent([5, 5, 2], [100, 1, 100], 12) == [8, 1, 3]
    assert spent([0, 0, 0], [4, 4, 4], 5) == [2, 2, 1]
    assert spent([9, 0, 0], [4, 4, 4], 9) == [4, 3, 2]
    assert spent([9, 9], [4, 4], 18) == [4, 4]


def test_no_attention_mass_does_not_crash() -> None:
    zero = torch.zeros(GRID.partitions, 2, 16)
    enc = encoding(GRID, layer0=zero, layer2=zero)
    assert counts(HiRED(budget=0.25, spend_leftover=True), enc, GRID) == [10, 3, 3, 2, 2]
    assert counts(HiRED(budget=0.25), enc, GRID) == [10, 2, 2, 2, 2]
    for method in (HiREDReleased(budget=0.25), TopKCLS(budget=0.25), EvenSplit(budget=0.25)):
        assert sum(len(i) for i in drop(method, enc, GRID).indices) <= 20


def test_nan_is_an_error() -> None:
    bad = attention(GRID)
    bad[3, 1, 5] = torch.nan
    good = attention(GRID, 1)
    for layers in ({"layer0": bad, "layer2": good}, {"layer0": good, "layer2": bad}):
        for method in (HiRED(), HiREDReleased()):
            with pytest.raises(UserError, match=r"CLS-attention of layer \d holds NaN"):
                select(method, encoding(GRID, **layers), GRID)


def test_missing_layers_are_named() -> None:
    enc = encoding(GRID, layer0=attention(GRID), layer2=attention(GRID))
    with pytest.raises(UserError, match="CLS-attention of layer 11 was not recorded; recorded layers: 0, 2"):
        drop(HiRED(final_layer=11), enc, GRID)
    with pytest.raises(UserError, match="needs CLS-attention"):
        drop(EvenSplit(), VisionEncoding(enc.features, {}), GRID)
