"""Efficiency records as a table: what was measured, beside what the arithmetic and the machine allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hired_eval.errors import UserError
from hired_eval.records.record import Record, Spread
from hired_eval.reporting.render import aligned
from hired_eval.reporting.rows import FULL, budget_of, name_of, percent, target_of

HEAD = (
    "model", "batch", "method", "visual tokens", "selection, s", "first token, s", "latency, s", "tokens/s",
    "peak GB", "vision GB", "KV MiB", "TFLOPs vision + prefill + decode", "x faster", "FLOPs allow",
    "roofline allows", "of roofline",
)  # fmt: skip
NOTE = (
    "Visual tokens: the mean over pictures, and over the layers of the language model where some leave "
    "inside it. Selection: choosing them, in runs apart. "
    "x faster: latency of Full over this one, at the same batch size. FLOPs allow: the same ratio of counted "
    "FLOPs. Roofline allows: the ratio of the least times, by the fastest matrix product and copy measured "
    "here. Vision GB: on a GPU only (make bench CASES=h for a CPU). "
    "Of roofline: least time over measured time. Spread in brackets: lowest to highest."
)


def table(records: list[Record]) -> str:
    """One row a record in Markdown, newest of each cell, next to Full of the same model and batch size.

    Raises:
        UserError: there are no records.
    """
    if not records:
        raise UserError(
            "no efficiency records yet; make them with python -m hired_eval -m +experiment=table4, or with "
            "measure=efficiency"
        )
    cells: dict[tuple[Any, ...], Record] = {}
    for record in sorted(records, key=lambda r: r.finished):
        cells[(*_block(record), _order(record), label(record))] = record
    rows: list[Sequence[str]] = [HEAD]
    for _, record in sorted(cells.items(), key=lambda cell: cell[0]):
        full = next(
            (
                r
                for r in cells.values()
                if _block(r) == _block(record) and _full_execution(r) and not r.out_of_memory
            ),
            None,
        )
        rows.append(_row(record, full))
    machines = sorted({r.timings.machine for r in records})
    return "\n".join([aligned(rows), "", NOTE, "Machine: " + "; ".join(machines) + "."])


def label(record: Record) -> str:
    """The method with its budget; the stock model by that name."""
    if record.measure == "efficiency_stock":
        return "stock generate"
    budget = budget_of(record)
    return f"{name_of(record)} {percent(budget)}" if budget else name_of(record)


def _full_execution(record: Record) -> bool:
    return record.measure != "efficiency_stock" and target_of(record) == FULL.target


def _block(record: Record) -> tuple[str, str, str, int]:
    """What must be equal for two records to be compared."""
    workload = str(sorted(record.config["efficiency"].items()))
    return record.model, record.timings.device, workload, record.batch_size or 0


def _order(record: Record) -> tuple[float, float]:
    """Stock first, then by falling budget."""
    stock = record.measure == "efficiency_stock"
    return (0.0 if stock else 1.0), -(record.budget or 1)


def _row(record: Record, full: Record | None) -> list[str]:
    start = [record.model, str(record.batch_size), label(record)]
    measured = record.efficiency
    if measured is None:
        return [*start, *["OOM"] * (len(HEAD) - len(start))]
    flops = measured.flops
    ratios = ["-"] * 3
    if full is not None and full.efficiency is not None:
        reference = full.efficiency
        ratios = [
            f"{reference.latency_seconds.median / measured.latency_seconds.median:.2f}",
            f"{sum(reference.flops.values()) / sum(flops.values()):.2f}",
            f"{sum(reference.least_seconds.values()) / sum(measured.least_seconds.values()):.2f}",
        ]
    # a CPU process also keeps freed memory resident, which hides what is allocated
    vision_memory = "-" if record.timings.device == "cpu" else f"{measured.vision_memory_gigabytes:.2f}"
    return [
        *start,
        f"{record.tokens_kept:.0f}",
        _spread(measured.selection_seconds) if measured.selection_seconds else "-",
        _spread(measured.time_to_first_token_seconds),
        _spread(measured.latency_seconds),
        _spread(measured.throughput_tokens_per_second),
        f"{measured.memory_gigabytes:.2f}",
        vision_memory,
        f"{measured.kv_cache_bytes / 2**20:.1f}",
        " + ".join(f"{flops[phase] / 1e12:.3g}" for phase in ("vision", "prefill", "decode")),
        *ratios,
        f"{measured.share_of_roofline:.0%}",
    ]


def _spread(value: Spread) -> str:
    return f"{value.median:.3g} ({value.low:.3g} to {value.high:.3g})"
