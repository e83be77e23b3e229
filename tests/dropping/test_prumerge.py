"""PruMerge and PruMerge+ against numbers of the published code, and its edges."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hired_eval import PartitionLayout, PruMerge, PruMergeBudget, PruMergePlus, VisionEncoding
from hired_eval.errors import UserError
from tests.reference_inputs import SIDE, TILE, N, arrays, cases, digest
from tests.selected import drop, select

CASES = cases("prumerge")["cases"]
ONE = PartitionLayout(0, 0, (SIDE, SIDE), (TILE, TILE))


def inputs(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """x, q, k of shape (B, 577, C), as tests/reference/README.md says."""
    g = torch.Generator().manual_seed(case["seed"])
    shape = (case["B"], N + 1, case["C"])
    draw = lambda s: (torch.randint(0, 65536, s, generator=g) - 32768).float() / 32768  # noqa: E731
    x, q, k = draw(shape), draw(shape), draw(shape)
    centres = draw((12, case["C"]))
    label = torch.randint(0, 12, shape[:2], generator=g)
    q[:, 0] *= case["boost_num"] / 8
    k += centres[label] * (case["shared_num"] / 8)
    x *= 2
    return x, q, k


def encoding(x: Tensor, q: Tensor, k: Tensor) -> VisionEncoding:
    return VisionEncoding(x[:, 1:], {}, recorded_keys=k, recorded_query=q[:, 0])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_reference(case: dict[str, Any]) -> None:
    x, q, k = inputs(case)
    assert [digest(t) for t in (x, q, k)] == case["sha256_16"]
    method = PruMergePlus() if case["method"] == "prumerge+" else PruMerge()
    kept = drop(method, encoding(x, q, k), ONE)
    (index,), (features,) = kept.indices, kept.features
    if "error_shawn" in case:  # the published code divides by zero where there is no outlier
        assert index.tolist() == [0, -1]
        return
    assert index.tolist() == [*case["kept_order"][0], -1]
    expected = torch.from_numpy(arrays("prumerge_out")[case["name"]][0])
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def plus_centres(attention: Tensor) -> Tensor:
    """(n,) PruMerge+'s positions of one partition, from its attention (N,)."""
    centres, counts = PruMergePlus().centres(attention[None])
    return centres[0, : int(counts)]


def test_evenly_spaced_tokens_are_as_many_as_published() -> None:
    table = cases("prumerge")["stride_table"]
    assert len(table) == 144
    for outliers, _, stride, spaced in table:
        attention = torch.linspace(1, 2, N) * 1e-6
        attention[:outliers] += 1
        centres = plus_centres(attention)
        assert set(range(0, N - 1, stride)) | set(range(outliers)) == set(centres.tolist())
        assert len(range(0, N - 1, stride)) == spaced


def test_stride_zero_keeps_at_most_all_tokens() -> None:
    """Where the outliers are many, the published spacing is 0."""
    x, q, k = inputs(CASES[0])
    values = torch.full((N,), 1e-3)
    values[: N // 4 - 4] = 1.0
    centres = plus_centres(values)
    assert len(centres) == N - 1
    assert sorted(centres.tolist()) == list(range(N - 1))
    everything = torch.cat([values[:-1], torch.ones(1)])
    assert len(plus_centres(everything)) == N
    kept = drop(PruMergeBudget(budget=1.0), encoding(x, q, k), ONE)
    assert sorted(kept.indices[0].tolist()) == list(range(N))


def test_budget_replaces_the_outlier_count() -> None:
    """With as many tokens as PruMerge keeps, the budgeted form is PruMerge."""
    x, q, k = inputs(CASES[0])
    free = drop(PruMerge(), encoding(x, q, k), ONE)
    held = drop(PruMergeBudget(budget=len(free.indices[0]) / N), encoding(x, q, k), ONE)
    assert held.indices[0].equal(free.indices[0])
    assert held.features[0].equal(free.features[0])


def test_partitions_are_merged_each_by_itself() -> None:
    layout = PartitionLayout(1, 2, (SIDE, SIDE), (TILE, 2 * TILE))
    parts = [inputs(case) for case in CASES[:1]] + [inputs(c | {"seed": s}) for c, s in zip(CASES, (7, 8))]  # noqa: B905
    together = encoding(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    kept = drop(PruMerge(), together, layout)
    for i, part in enumerate(parts):
        alone = drop(PruMerge(), encoding(*part), ONE)
        assert kept.indices[i].equal(alone.indices[0])
        torch.testing.assert_close(kept.features[i], alone.features[0])


def test_bad_input() -> None:
    x, q, k = inputs(CASES[0])
    with pytest.raises(UserError, match="needs keys"):
        drop(PruMerge(), VisionEncoding(x[:, 1:], {}), ONE)
    q[0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="CLS-attention of the last layer holds NaN"):
        select(PruMergeBudget(), encoding(x, q, k), ONE)
