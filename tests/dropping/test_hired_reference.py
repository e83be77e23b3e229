"""HiRED against the paper's Algorithm 1, computed independently in exact integers."""

from typing import Any

import pytest

from hired_eval import HiRED, PartitionLayout
from tests.reference_inputs import (
    SIDE,
    TILE,
    arrays,
    cases,
    digest,
    encoding_of,
    mask_of,
    selection_attention,
    unpack_mask,
    unpadded_layout,
)
from tests.selected import drop

INPUTS = cases("hired_selection")["inputs"]
RECORDS = cases("hired_selection")["records"]


@pytest.mark.parametrize("number", range(len(INPUTS)))
def test_paper_budgets_and_masks(number: int) -> None:
    case = INPUTS[number]
    initial, final = selection_attention(case["seed"], case["P"], case["dist"])
    assert digest(initial) == case["sha256_16_init"]
    assert digest(final) == case["sha256_16_final"]
    encoding, layout = encoding_of(initial, final), unpadded_layout(case["grid"])
    records = [r for r in RECORDS if r["input"] == number]
    assert len(records) == 20
    for record in records:
        method = HiRED(budget=record["rate"], alpha=record["alpha"])
        kept = drop(method, encoding, layout)
        assert [len(i) for i in kept.indices] == record["paper_budgets"]
        expected = unpack_mask(arrays("hired_selection_masks")["paper"][record["pap_row"]])
        assert mask_of(kept.indices).equal(expected[: layout.partitions])
        assert all(f.flatten().long().equal(i) for i, f in zip(kept.indices, kept.features, strict=True))


@pytest.mark.parametrize(
    "record", cases("hired_single_spatial")["single_partition"], ids=lambda r: f"row{r['row']}"
)
def test_single_partition_keeps_the_top_share(record: dict[str, Any]) -> None:
    initial, final = selection_attention(record["seed"], 1, record["dist"])
    assert digest(final) == record["sha256_16_final"]
    layout = PartitionLayout(0, 0, (SIDE, SIDE), (TILE, TILE))
    kept = drop(HiRED(budget=record["rate"]), encoding_of(initial, final), layout)
    assert mask_of(kept.indices)[0].equal(unpack_mask(arrays("hired_single_masks")["masks"][record["row"]]))
    assert len(kept.indices[0]) == record["kept"]
