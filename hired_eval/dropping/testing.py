"""The checks that every dropping method must pass, for methods of other packages too.

In a test of your own package: `check_dropper(MyMethod(budget=0.3))`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from hired_eval.dropping.base import TokenDropper, VisionStage, floor_share
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.packing import PackedTokens
from hired_eval.dropping.stage_testing import check_stage
from hired_eval.dropping.types import KeptTokens, VisionEncoding

FEATURE_LAYER = 22
"""The layer whose output feeds the projector in CLIP-L/14-336."""
SIDE = 6
BUDGETS = (0.001, 0.02, 0.1, 1 / 3, 0.75, 1.0)
LAYOUTS = (
    PartitionLayout(0, 0, SIDE, (84, 84)),
    *(
        PartitionLayout(rows, cols, SIDE, (rows * 84, cols * 84))
        for rows, cols in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
    ),
    PartitionLayout(2, 2, SIDE, (84, 150)),
    PartitionLayout(2, 2, SIDE, (150, 84)),
    PartitionLayout(1, 3, SIDE, (20, 300)),
    PartitionLayout(3, 1, SIDE, (500, 31)),
    PartitionLayout(2, 2, SIDE, (1, 500)),
)
"""One partition, every grid shape of LLaVA-Next, and grids with padding on either axis."""


def synthetic_encoding(
    dropper: VisionStage, layout: PartitionLayout, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> VisionEncoding:
    """A random encoding with all that the method reads: two heads of four channels.

    Args:
        dropper: says which layers' CLS-attention and whether keys are there.
        layout: geometry of the image.
        dtype: of every tensor.
        seed: of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    partitions, count, heads, channels = layout.partitions, layout.tokens_per_partition, 2, 8

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    asked = dropper.attention_layers(FEATURE_LAYER)
    layers = sorted(asked | {FEATURE_LAYER} if asked else asked)
    attention = {
        layer: (2 * random(partitions, heads, 1 + count)).softmax(dim=-1)[..., 1:].to(dtype)
        for layer in layers
    }
    return VisionEncoding(
        features=random(partitions, count, channels).to(dtype),
        cls_attention=attention,
        keys=random(partitions, 1 + count, channels).to(dtype) if "keys" in dropper.reads else None,
        cls_query=3 * random(partitions, channels).to(dtype) if "keys" in dropper.reads else None,
        feature_layer=FEATURE_LAYER,
    )


def check_dropper(dropper: TokenDropper, layouts: Sequence[PartitionLayout] = LAYOUTS) -> None:
    """Run a method through the contracts of every method.

    Stages inside the language model go through `check_stage`.

    Over all layouts, float32 and bfloat16, with and without newline tokens, and, where it has a budget, over
    budgets from next to nothing to all: the budget is kept; positions are in range, unique in their
    partition, and packed in order; only places within the picture are kept where the order is that of the
    grid; the same encoding gives the same tokens whatever was dropped before; the encoding and torch's
    random state are left as they were.

    Args:
        dropper: the method with its options.
        layouts: geometries to try.

    Raises:
        AssertionError: naming the contract that is broken, the method and the geometry.
    """
    for stage in dropper.inside:
        check_stage(stage)
    if not isinstance(dropper, VisionStage):
        return
    for variant in _variants(dropper):
        for layout in layouts:
            for dtype in (torch.float32, torch.bfloat16):
                try:
                    _check(variant, layout, dtype)
                except AssertionError as error:
                    error.add_note(f"{variant} on {layout} in {dtype}")
                    raise


def _variants(dropper: VisionStage) -> Iterator[VisionStage]:
    """The method as it is, and with other newline options and budgets."""
    for newline in ("none", "rows"):
        variant = replace(dropper, newline=newline)
        yield variant
        if any(field.name == "budget" for field in fields(dropper)):
            for budget in BUDGETS:
                yield replace(variant, budget=budget)  # type: ignore[call-arg]


def _check(dropper: VisionStage, layout: PartitionLayout, dtype: torch.dtype) -> None:
    encoding = synthetic_encoding(dropper, layout, dtype=dtype)
    before = [t.clone() for t in _tensors(encoding)]
    random_state = torch.random.get_rng_state()
    kept = dropper.drop(encoding, layout)
    packed = dropper.pack(kept, layout)
    dropper.drop(synthetic_encoding(dropper, layout, dtype=dtype, seed=1), layout)
    again = dropper.drop(encoding, layout)
    _require(torch.random.get_rng_state().equal(random_state), "torch's random state is left alone")
    unchanged = all(map(torch.equal, before, _tensors(encoding)))
    _require(unchanged, "the encoding is left as it was")
    _require(
        all(map(torch.equal, [*kept.indices, *kept.features], [*again.indices, *again.features])),
        "the same encoding gives the same tokens",
    )
    _check_kept(kept, encoding, layout)
    _check_packed(dropper, packed, kept, layout)


def _check_kept(kept: KeptTokens, encoding: VisionEncoding, layout: PartitionLayout) -> None:
    """What `drop` gives back has the right form, and places exist and are used once."""
    _require(
        len(kept.indices) == len(kept.features) == layout.partitions, "there is one entry for each partition"
    )
    for index, features in zip(kept.indices, kept.features, strict=True):
        _require(index.dtype == torch.int64 and index.dim() == 1, "positions are (n,) int64")
        _require(features.shape == (len(index), encoding.features.shape[-1]), "features are (n, C)")
        _require(features.dtype == encoding.features.dtype, "features keep their dtype")
        _require(bool(features.isfinite().all()), "features are finite")
        _require(len(index) <= layout.tokens_per_partition, "a partition keeps at most N tokens")
        places = index[index != -1]
        in_range = bool(((places >= 0) & (places < layout.tokens_per_partition)).all())
        _require(in_range, "positions are from 0 to N - 1, or -1")
        _require(len(set(places.tolist())) == len(places), "no position is kept twice in a partition")


def _check_packed(
    dropper: VisionStage, packed: PackedTokens, kept: KeptTokens, layout: PartitionLayout
) -> None:
    """What the language model gets keeps the budget and the order."""
    allowed = dropper.allowed(layout)
    if allowed is not None:
        budget = floor_share(getattr(dropper, "budget", 1.0), layout.total_tokens)
        _require(allowed == budget, "the budget is floor(budget * P * N)")
        _require(packed.length <= allowed, f"{packed.length} tokens are within the budget of {allowed}")
    newlines = int(packed.newlines_after.sum())
    most = layout.rows * layout.side if dropper.newline == "rows" else 0
    _require(newlines <= most, f"there are at most {most} newline tokens")
    places = list(zip(packed.partition.tolist(), packed.index.tolist(), strict=True))
    where = [(p, i) for p, indices in enumerate(kept.indices) for i in indices.tolist()]
    _require(set(places) <= set(where), "only kept tokens are packed")
    features = dict(zip(where, torch.cat(kept.features), strict=True))
    for place, token in zip(places, packed.features, strict=True):
        _require(features[place].equal(token), "a token keeps its features when it is packed")
    if dropper.grid_order:
        grid = [_place_in_grid(p, i, layout) for p, i in places]
        _require(grid == sorted(set(grid)), "tokens are in raster order, the full-image first")
        top, bottom, left, right = layout.unpadded()
        inside = [top <= y < bottom and left <= x < right for part, y, x in grid if part]
        _require(all(inside), "no token of the padding is kept")
    elif dropper.newline == "none":
        _require(places == where, "merged tokens keep their own order, partition after partition")


def _place_in_grid(partition: int, index: int, layout: PartitionLayout) -> tuple[int, int, int]:
    """(0, y, x) on the full-image, (1, y, x) on the assembled grid of sub-images."""
    y, x = divmod(index, layout.side)
    if partition == 0:
        return 0, y, x
    row, column = divmod(partition - 1, layout.cols)
    return 1, row * layout.side + y, column * layout.side + x


def _tensors(encoding: VisionEncoding) -> list[Tensor]:
    optional = [t for t in (encoding.keys, encoding.cls_query) if t is not None]
    return [encoding.features, *encoding.cls_attention.values(), *optional]


def _require(condition: bool, contract: str) -> None:
    if not condition:
        raise AssertionError(f"broken: {contract}")
