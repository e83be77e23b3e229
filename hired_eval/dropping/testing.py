"""The checks that every dropping method must pass, for methods of other packages too.

In a test of your own package: `check_dropper(MyMethod(budget=0.3))`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from hired_eval.dropping.base import BudgetedDropper, TokenDropper, VisionStage, floor_share
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.packing import PackedTokens
from hired_eval.dropping.stage_testing import check_stage
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.dropping.waits import note_waits

Unpadded = tuple[list[Tensor], list[Tensor]]
"""Positions (n_i,) and features (n_i, C) of each partition."""

FEATURE_LAYER = 22
"""The layer whose output feeds the projector in CLIP-L/14-336."""
TILE = (6, 6)
NUMBER = 50
"""A budget in tokens."""
BUDGETS = (0.001, 0.02, 0.1, 1 / 3, 0.75, 1.0)
LAYOUTS = (
    PartitionLayout(0, 0, TILE, (84, 84)),
    *(
        PartitionLayout(rows, cols, TILE, (rows * 84, cols * 84))
        for rows, cols in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
    ),
    PartitionLayout(2, 2, TILE, (84, 150)),
    PartitionLayout(2, 2, TILE, (150, 84)),
    PartitionLayout(1, 3, TILE, (20, 300)),
    PartitionLayout(3, 1, TILE, (500, 31)),
    PartitionLayout(2, 2, TILE, (1, 500)),
)
"""One partition, every grid shape of LLaVA-Next, and grids with padding on either axis."""


def synthetic_encoding(
    dropper: VisionStage, layout: PartitionLayout, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> VisionEncoding:
    """A random encoding of one image with all that the method reads: two heads of four channels.

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
    received = {
        layer: random(partitions, count).softmax(dim=-1).to(dtype)
        for layer in sorted(dropper.received_layers(FEATURE_LAYER))
    }
    return VisionEncoding(
        features=random(partitions, count, channels).to(dtype),
        cls_attention=attention,
        recorded_keys=random(partitions, 1 + count, channels).to(dtype) if "keys" in dropper.reads else None,
        recorded_query=3 * random(partitions, channels).to(dtype) if "keys" in dropper.reads else None,
        feature_layer=FEATURE_LAYER,
        received_attention=received,
        heads=heads,
    )


def join(encodings: Sequence[VisionEncoding], device: torch.device | None = None) -> VisionEncoding:
    """The encodings of several images as that of one pass, on a device."""
    first = encodings[0]

    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(parts)).to(device)

    return VisionEncoding(
        joined(e.features for e in encodings),
        {layer: joined(e.cls_attention[layer] for e in encodings) for layer in first.cls_attention},
        None if first.recorded_keys is None else joined(e.keys for e in encodings),
        None if first.recorded_query is None else joined(e.cls_query for e in encodings),
        first.feature_layer,
        {layer: joined(e.received_attention[layer] for e in encodings) for layer in first.received_attention},
        heads=first.heads,
    )


def check_dropper(dropper: TokenDropper, layouts: Sequence[PartitionLayout] = LAYOUTS) -> None:
    """Run a method through the contracts of every method.

    Stages inside the language model go through `check_stage`.

    Over all layouts, float32 and bfloat16, with and without newline tokens, and, where it has a budget, over
    budgets from next to nothing to all: the budget is kept; positions are in range, unique in their
    partition, and packed in order; only places within the picture are kept where the order is that of the
    grid; the same encoding gives the same tokens whatever was dropped before, and whatever images share its
    pass; the encoding and torch's random state are left as they were; `drop` does not wait for the device.

    Args:
        dropper: the method with its options.
        layouts: geometries to try, whose partitions have the same number of tokens.

    Raises:
        AssertionError: naming the contract that is broken, the method and the geometry.
    """
    for stage in dropper.inside:
        check_stage(stage)
    if not isinstance(dropper, VisionStage):
        return
    for variant in _variants(dropper):
        alone = []
        for layout in layouts:
            for dtype in (torch.bfloat16, torch.float32):
                try:
                    kept = _check(variant, layout, dtype)
                except AssertionError as error:
                    error.add_note(f"{variant} on {layout} in {dtype}")
                    raise
            alone.append(kept)
        try:
            _check_pass(variant, layouts, alone)
        except AssertionError as error:
            error.add_note(f"{variant} on {len(layouts)} images in one pass")
            raise


def _check_pass(dropper: VisionStage, layouts: Sequence[PartitionLayout], alone: list[Unpadded]) -> None:
    """All images in one pass: the same tokens as alone before, and no call that waits."""
    encoding = join([synthetic_encoding(dropper, layout) for layout in layouts])
    with note_waits() as waits:
        kept = dropper.drop(encoding, Layouts(tuple(layouts)))
    # how many newline tokens there are depends on the tokens, so that a budget has to wait for them
    may_wait = dropper.newline == "rows" and dropper.allowed(layouts[0]) is not None
    _require(may_wait or not waits, f"drop does not wait for the device, as {', '.join(waits)} would")
    together = unpad(kept)
    indices = [index for one in alone for index in one[0]]
    _require(all(map(torch.equal, indices, together[0])), "the tokens of an image do not depend on its pass")
    features = [tokens for one in alone for tokens in one[1]]
    close = all(torch.allclose(a, b, 1e-4, 1e-5) for a, b in zip(features, together[1], strict=True))
    _require(close, "the features of an image do not depend on its pass")


def _variants(dropper: VisionStage) -> Iterator[VisionStage]:
    """The method as it is, and with other newline options and budgets."""
    for newline in ("none", "rows"):
        variant = replace(dropper, newline=newline)
        yield variant
        if isinstance(dropper, BudgetedDropper):
            nothing: dict[str, Any] = {"budget": None, "tokens": None, "tokens_per_partition": None}
            for number in ({"budget": budget} for budget in BUDGETS):
                yield replace(variant, **(nothing | number))
            yield replace(variant, **(nothing | {"tokens": NUMBER}))
        elif any(field.name == "budget" for field in fields(dropper)):
            for budget in BUDGETS:
                yield replace(variant, budget=budget)  # type: ignore[call-arg]


def unpad(kept: KeptTokens) -> Unpadded:
    """Positions (n_i,) and features (n_i, C) of each partition, to look at; this waits for the device."""
    counts = kept.counts.tolist()
    indices = [index[:n] for index, n in zip(kept.indices, counts, strict=True)]
    if kept.by_index:
        return indices, [tokens[index] for tokens, index in zip(kept.features, indices, strict=True)]
    return indices, [tokens[:n] for tokens, n in zip(kept.features, counts, strict=True)]


def _check(dropper: VisionStage, layout: PartitionLayout, dtype: torch.dtype) -> Unpadded:
    """One image by itself; gives back what is kept of it."""
    encoding, layouts = synthetic_encoding(dropper, layout, dtype=dtype), Layouts((layout,))
    before = [t.clone() for t in _tensors(encoding)]
    random_state = torch.random.get_rng_state()
    kept = dropper.drop(encoding, layouts)
    _check_form(kept, encoding)
    (packed,) = dropper.pack(kept, layouts).images(encoding)
    indices, features = unpad(kept)
    _require(torch.random.get_rng_state().equal(random_state), "torch's random state is left alone")
    unchanged = all(map(torch.equal, before, _tensors(encoding)))
    _require(unchanged, "the encoding is left as it was")
    for index, tokens in zip(indices, features, strict=True):
        _check_places(index, tokens, layout)
    _check_packed(dropper, packed, indices, features, layout)
    return indices, features


def _check_form(kept: KeptTokens, encoding: VisionEncoding) -> None:
    """What `drop` gives back has the right form."""
    partitions, tokens, channels = encoding.features.shape
    _require(kept.indices.dtype == torch.int64, "positions are int64")
    _require(kept.indices.dim() == 2 and len(kept.indices) == partitions, "positions are (S, K)")
    shape = encoding.features.shape if kept.by_index else (*kept.indices.shape, channels)
    _require(kept.features.shape == shape, "features are (S, K, C), or by index (S, N, C)")
    _require(kept.features.dtype == encoding.features.dtype, "features keep their dtype")
    _require(kept.counts.dtype == torch.int64 and kept.counts.shape == (partitions,), "counts are (S,) int64")
    in_range = bool(((kept.counts >= 0) & (kept.counts <= kept.indices.shape[1])).all())
    _require(in_range, "counts are from 0 to K")
    kept_ones = kept.indices[torch.arange(kept.indices.shape[1]) < kept.counts[:, None]]
    in_range = bool(((kept_ones >= (0 if kept.by_index else -1)) & (kept_ones < tokens)).all())
    _require(in_range, "positions are from 0 to N - 1, or -1")


def _check_places(index: Tensor, features: Tensor, layout: PartitionLayout) -> None:
    """Places of a partition exist and are used once."""
    _require(bool(features.isfinite().all()), "features are finite")
    _require(len(index) <= layout.tokens_per_partition, "a partition keeps at most N tokens")
    places = index[index != -1]
    _require(len(set(places.tolist())) == len(places), "no position is kept twice in a partition")


def _check_packed(
    dropper: VisionStage,
    packed: PackedTokens,
    indices: list[Tensor],
    kept: list[Tensor],
    layout: PartitionLayout,
) -> None:
    """What the language model gets keeps the budget and the order."""
    allowed = dropper.allowed(layout)
    if allowed is not None:
        budget = getattr(dropper, "budget", 1.0)
        number = NUMBER if budget is None else floor_share(budget, layout.total_tokens)
        _require(allowed == min(number, layout.total_tokens), "the budget is floor(budget * P * N)")
        _require(packed.length <= allowed, f"{packed.length} tokens are within the budget of {allowed}")
    newlines = int(packed.newlines_after.sum())
    most = layout.rows * layout.tile[0] if dropper.newline == "rows" else 0
    _require(newlines <= most, f"there are at most {most} newline tokens")
    places = list(zip(packed.partition.tolist(), packed.index.tolist(), strict=True))
    where = [(p, i) for p, index in enumerate(indices) for i in index.tolist()]
    _require(set(places) <= set(where), "only kept tokens are packed")
    features = dict(zip(where, torch.cat(kept), strict=True))
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
    y, x = divmod(index, layout.tile[1])
    if partition == 0:
        return 0, y, x
    row, column = divmod(partition - 1, layout.cols)
    return 1, row * layout.tile[0] + y, column * layout.tile[1] + x


def _tensors(encoding: VisionEncoding) -> list[Tensor]:
    optional = [t for t in (encoding.recorded_keys, encoding.recorded_query) if t is not None]
    rows = [*encoding.cls_attention.values(), *encoding.received_attention.values()]
    return [encoding.features, *rows, *optional]


def _require(condition: bool, contract: str) -> None:
    if not condition:
        raise AssertionError(f"broken: {contract}")
