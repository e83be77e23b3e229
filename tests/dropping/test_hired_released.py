"""HiREDReleased against numbers of the authors' code."""

from typing import Any

import pytest

from hired_eval import HiREDReleased, PartitionLayout
from hired_eval.errors import UserError
from tests.reference_inputs import (
    SIDE,
    TILE,
    arrays,
    cases,
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
def test_released_budgets_and_masks(number: int) -> None:
    case = INPUTS[number]
    encoding = encoding_of(*selection_attention(case["seed"], case["P"], case["dist"]))
    layout = unpadded_layout(case["grid"])
    for record in (r for r in RECORDS if r["input"] == number):
        method = HiREDReleased(budget=record["rate"], alpha=record["alpha"])
        if record["official_error"]:
            with pytest.raises(UserError, match=r"alpha=1\.0 leaves no token"):
                drop(method, encoding, layout)
            continue
        kept = drop(method, encoding, layout)
        assert [len(i) for i in kept.indices] == record["official_budgets"]
        expected = unpack_mask(arrays("hired_selection_masks")["official"][record["off_row"]])
        assert mask_of(kept.indices).equal(expected[: layout.partitions])


@pytest.mark.parametrize(
    "record", cases("hired_single_spatial")["single_partition"], ids=lambda r: f"row{r['row']}"
)
def test_single_partition(record: dict[str, Any]) -> None:
    encoding = encoding_of(*selection_attention(record["seed"], 1, record["dist"]))
    kept = drop(
        HiREDReleased(budget=record["rate"]), encoding, PartitionLayout(0, 0, (SIDE, SIDE), (TILE, TILE))
    )
    assert mask_of(kept.indices)[0].equal(unpack_mask(arrays("hired_single_masks")["masks"][record["row"]]))
