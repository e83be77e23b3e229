"""Spatial, Downsample, Random, top-k, VisionZip, FasterVLM and DivPrune: what each keeps."""

import pytest
import torch
from torch import Tensor

from hired_eval import (
    DivPrune,
    Downsample,
    EvenSplit,
    Full,
    PartitionLayout,
    Random,
    Spatial,
    TopKCLS,
    VisionEncoding,
    VisionZip,
)
from hired_eval.dropping.pooling import pool
from hired_eval.dropping.registry import build
from hired_eval.dropping.testing import FEATURE_LAYER, synthetic_encoding
from hired_eval.errors import UserError
from tests.reference_inputs import cases
from tests.selected import Kept, drop, select

CLIP = PartitionLayout(2, 2, (24, 24), (672, 672))
GRID = PartitionLayout(2, 2, (4, 4), (56, 56))
WIDE = PartitionLayout(2, 2, (4, 4), (28, 56))
ONE = PartitionLayout(0, 0, (4, 4), (56, 56))


def positions(layout: PartitionLayout) -> VisionEncoding:
    """Features (y, x) of the assembled grid, or of the full-image, plus the partition's number."""
    y, x = torch.meshgrid(torch.arange(layout.tile[0]), torch.arange(layout.tile[0]), indexing="ij")
    features = []
    for i in range(layout.partitions):
        row, column = divmod(i - 1, layout.cols) if i else (0, 0)
        place = [y + row * layout.tile[0], x + column * layout.tile[0], torch.full_like(y, i)]
        features.append(torch.stack(place, dim=-1).flatten(0, 1))
    return VisionEncoding(torch.stack(features).float(), {})


def lengths(kept: Kept) -> list[int]:
    return [len(i) for i in kept.indices]


@pytest.mark.parametrize("case", cases("hired_single_spatial")["spatial"], ids=lambda c: c["spatial_budget"])
def test_spatial_keeps_its_budget_where_the_released_code_exceeds_it(case: dict[str, float]) -> None:
    budget = case["spatial_budget"]
    encoding = positions(CLIP)
    sampled = lengths(drop(Spatial(budget=budget, mode="sampling"), encoding, CLIP))
    pooled = lengths(drop(Spatial(budget=budget), encoding, CLIP))
    assert sum(sampled) == round(budget * 100) * CLIP.total_tokens // 100
    assert max(sampled) <= case["num"] + 1
    assert all(0.85 * s <= p <= s for p, s in zip(pooled, sampled, strict=True))
    if budget == 0.4:
        assert case["kept_per_partition"] == 288 > max(sampled) == 231


def test_spatial_pooling_averages_neighbours() -> None:
    kept = drop(Spatial(budget=0.25), positions(GRID), GRID)
    for i, (index, features) in enumerate(zip(kept.indices, kept.features, strict=True)):
        assert index.tolist() == [0, 2, 8, 10]
        row, column = divmod(i - 1, 2) if i else (0, 0)
        corners = [(y, x, i) for y in (0.5, 2.5) for x in (0.5, 2.5)]
        assert features.tolist() == [[y + 4 * row, x + 4 * column, p] for y, x, p in corners]


def test_spatial_sampling_keeps_even_distances() -> None:
    kept = drop(Spatial(budget=0.4, mode="sampling"), positions(CLIP), CLIP)
    for index in kept.indices:
        steps = index.diff()
        assert index[0] == 0
        assert set(steps.tolist()) == {2, 3}


def test_downsample_is_the_full_image_at_a_fifth() -> None:
    encoding = positions(GRID)
    kept = drop(Downsample(budget=0.2), encoding, GRID)
    assert lengths(kept) == [16, 0, 0, 0, 0]
    assert kept.features[0].equal(encoding.features[0])
    assert lengths(drop(Downsample(budget=0.05), encoding, GRID)) == [4, 0, 0, 0, 0]


def test_downsample_pools_the_assembled_grid_as_one_picture() -> None:
    method = Downsample(budget=0.4)
    packed = select(method, positions(GRID), GRID)
    assert packed.length == 32
    grid = packed.features[16:]
    assert grid[:, :2].tolist() == [[y, x] for y in (0.5, 2.5, 4.5, 6.5) for x in (0.5, 2.5, 4.5, 6.5)]
    everything = Downsample(budget=1.0)
    stock = Full(newline="none")
    for layout in (GRID, WIDE):
        encoding = positions(layout)
        coarse = select(everything, encoding, layout)
        assert coarse.features.equal(select(stock, encoding, layout).features)


def test_downsample_leaves_padding_out_and_counts_newlines() -> None:
    method = Downsample(budget=0.4, newline="rows")
    packed = select(method, positions(WIDE), WIDE)
    # of 16 tokens beside the full-image: two rows of seven, and two newline tokens
    assert packed.newlines_after.sum() == 2
    assert packed.length <= 32
    assert packed.features[16:, 0].tolist() == [2.5] * 7 + [4.5] * 7


def test_pooling_takes_the_largest_grid_of_the_aspect_ratio() -> None:
    for (height, width), count, cells in [
        ((24, 24), 115, (10, 11)),
        ((48, 24), 115, (16, 7)),
        ((24, 48), 1152, (24, 48)),
        ((24, 24), 1, (1, 1)),
        ((18, 2), 5, (5, 1)),
        ((2, 18), 5, (1, 5)),
    ]:
        tokens, y, x = pool(torch.rand(1, height, width, 3), count)
        assert tokens.shape == (1, *cells, 3)
        assert cells[0] * cells[1] <= count
        assert (len(set(y)), len(set(x))) == (len(y), len(x)) == cells
        assert (min(y) + max(y)) / 2 == pytest.approx((height - 1) / 2, abs=0.5)


def test_random_depends_on_seed_and_size_alone() -> None:
    encoding = positions(CLIP)
    first = drop(Random(), encoding, CLIP)
    state = torch.random.get_rng_state()
    other_content = VisionEncoding(torch.rand(5, 576, 3), {})
    torch.random.set_rng_state(state)
    again = drop(Random(), other_content, CLIP)
    assert all(map(torch.equal, first.indices, again.indices))
    assert sum(lengths(first)) == 576
    for different in (
        drop(Random(seed=1), encoding, CLIP),
        drop(Random(), encoding, PartitionLayout(2, 2, (24, 24), (671, 672))),
    ):
        shared = sum(
            len(set(a.tolist()) & set(b.tolist()))
            for a, b in zip(first.indices, different.indices, strict=True)
        )
        assert shared < 200  # 115 are expected by chance
    assert all(80 < n < 150 for n in lengths(first))


def test_topk_keeps_the_highest_wherever_they_are() -> None:
    attention = torch.zeros(5, 2, 16)
    attention[3] = 0.9
    attention[1, 0, 4:] = 0.5
    encoding = VisionEncoding(torch.zeros(5, 16, 1), {FEATURE_LAYER: attention})
    assert lengths(drop(TopKCLS(budget=0.3), encoding, GRID)) == [0, 8, 0, 16, 0]
    assert lengths(drop(EvenSplit(budget=0.3), encoding, GRID)) == [5, 5, 5, 5, 4]
    assert drop(EvenSplit(budget=0.3), encoding, GRID).indices[1].tolist() == [4, 5, 6, 7, 8]


def test_fastervlm_keeps_what_an_even_split_keeps() -> None:
    for options in ({"budget": 0.3}, {"budget": 0.5, "newline": "rows", "spend_leftover": True}):
        assert build("fastervlm", **options) == EvenSplit(**options)


def visionzip_by_loops(
    tokens: Tensor, keys: Tensor, attention: Tensor, dominant: int, contextual: int
) -> Tensor:
    """VisionZip of one partition, written out token by token. tokens (N, C), keys (N, d), attention (N,)."""
    order = sorted(range(len(tokens)), key=lambda i: -attention[i].item())
    kept = sorted(order[:dominant])
    rest = sorted(order[dominant:])
    targets = rest[:: len(rest) // contextual][:contextual]
    groups: dict[int, list[int]] = {t: [] for t in targets}
    for i in rest:
        if i not in groups:
            similar = [torch.cosine_similarity(keys[i], keys[t], dim=0).item() for t in targets]
            groups[targets[similar.index(max(similar))]].append(i)
    merged = [tokens[t] + (tokens[g].mean(dim=0) if g else 0) for t, g in groups.items()]
    return torch.stack([*(tokens[i] for i in kept), *merged])


def test_visionzip_is_its_definition() -> None:
    method = VisionZip(budget=0.4, contextual=0.3)
    layout = PartitionLayout(1, 2, (6, 6), (84, 168))
    encoding = synthetic_encoding(method, layout)
    kept = drop(method, encoding, layout)
    assert encoding.keys is not None
    by_head = encoding.keys[:, 1:].view(3, 36, 2, 4).mean(dim=2)
    scores = encoding.cls_attention[FEATURE_LAYER].sum(dim=1)
    assert lengths(kept) == [15, 14, 14]
    for i, (dominant, contextual) in enumerate([(11, 4), (10, 4), (10, 4)]):
        expected = visionzip_by_loops(encoding.features[i], by_head[i], scores[i], dominant, contextual)
        torch.testing.assert_close(kept.features[i], expected)


def test_visionzip_keeps_the_papers_shares() -> None:
    for count, contextual in [(64, 10), (128, 20), (192, 30)]:
        method = VisionZip(budget=(count + 0.5) / 576)
        layout = PartitionLayout(0, 0, (24, 24), (336, 336))
        (index,) = drop(method, synthetic_encoding(method, layout), layout).indices
        assert len(index) == count
        assert int((index.diff() < 0).sum()) == 1
        assert index.diff().lt(0).nonzero().item() == count - contextual - 1


def test_visionzip_needs_keys() -> None:
    encoding = synthetic_encoding(EvenSplit(), ONE)
    with pytest.raises(UserError, match="needs keys"):
        drop(VisionZip(), encoding, ONE)


def test_divprune_is_greedy_max_min_distance() -> None:
    layout = PartitionLayout(1, 2, (6, 6), (84, 168))
    encoding = synthetic_encoding(DivPrune(), layout)
    kept = drop(DivPrune(budget=0.25), encoding, layout)
    for tokens, index in zip(encoding.features, kept.indices, strict=True):
        distance = 1 - torch.cosine_similarity(tokens[:, None], tokens[None], dim=-1)
        others = distance + 9 * torch.eye(len(tokens))
        chosen = [int(others.amin(dim=0).argmax())]
        while len(chosen) < len(index):
            left = [i for i in range(len(tokens)) if i not in chosen]
            chosen.append(max(left, key=lambda i: distance[chosen, i].min().item()))
        assert index.tolist() == sorted(chosen)


def test_divprune_drops_copies_first() -> None:
    tokens = torch.eye(4).repeat(4, 1)[None]
    (index,) = drop(DivPrune(budget=0.25), VisionEncoding(tokens, {}), ONE).indices
    assert sorted(tokens[0, index].argmax(dim=-1).tolist()) == [0, 1, 2, 3]
    tokens[0, 3, 0] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        select(DivPrune(), VisionEncoding(tokens, {}), ONE)
