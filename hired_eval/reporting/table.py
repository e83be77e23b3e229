"""Tables from run records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hired_eval.errors import UserError
from hired_eval.records import read_record

Record = dict[str, Any]
BENCHMARKS = ("vqav2", "scienceqa", "textvqa", "docvqa", "ocrbench", "mme", "pope", "chartqa")


def read_records(runs: Path) -> list[Record]:
    """All records under a folder of runs, by name.

    Raises:
        UserError: a record is damaged.
    """
    records = [read_record(folder) for folder in sorted(runs.glob("*/"))]
    return [record for record in records if record is not None]


def method_label(record: Record) -> str:
    """The method's name and, where it has one, its budget."""
    name = record["method"]["_target_"].rsplit(".", 1)[-1]
    budget = record["config"]["budget"] or record["method"].get("budget")
    return f"{name} {100 * budget:g} %" if budget else name


def beside(record: Record, records: Sequence[Record]) -> Record | None:
    """The newest full execution of the same model on the same documents; None where there is none."""
    if method_label(record) == "Full":
        return None
    same = [
        r
        for r in records
        if method_label(r) == "Full"
        and r["status"] == "complete"
        and all(r[k] == record[k] for k in ("model", "weights", "data", "samples"))
        and r["benchmark"]["name"] == record["benchmark"]["name"]
    ]
    return max(same, key=lambda r: str(r["finished"]), default=None)


def run_table(records: Sequence[Record]) -> str:
    """One row a run: score with its interval, samples, visual tokens, speed."""
    head = ["benchmark", "method", "metric", "score", "95 % interval", "samples", "tokens kept", "allowed"]
    rows = [[*head, "full", "samples/s"]]
    for r in records:
        score = r["score"]
        partial = f" of {r['documents']} (partial)" if r["partial"] else ""
        rows.append(
            [
                r["benchmark"]["name"],
                method_label(r),
                r["benchmark"]["metric"],
                "withheld" if score is None else f"{score['value']:.1f}",
                "" if score is None else f"{score['low']:.1f} to {score['high']:.1f}",
                f"{r['samples']}{partial}",
                *(_mean_and_max(r["tokens"][name]) for name in ("kept", "allowed", "full")),
                f"{r['timings']['questions_per_second']:.1f}",
            ]
        )
    return aligned(rows)


def _mean_and_max(statistics: dict[str, float] | None) -> str:
    return "-" if statistics is None else f"{statistics['mean']:.1f} (max {statistics['max']})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, the first row being its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def table3(records: Sequence[Record]) -> str:
    """Accuracy of each model and method on the eight benchmarks, with 95 % intervals, from complete runs.

    Of several runs of the same cell the newest counts.

    Raises:
        UserError: there is no complete run.
    """
    complete = [r for r in records if r["status"] == "complete" and r["score"] is not None]
    if not complete:
        raise UserError("no complete run is there yet; start with make reproduce-table3")
    cells: dict[tuple[str, str, str], dict[str, Record]] = {}
    for record in sorted(complete, key=lambda r: str(r["finished"])):
        row = (record["model"], record["data"], method_label(record))
        cells.setdefault(row, {})[record["benchmark"]["name"]] = record
    columns = [b for b in BENCHMARKS if any(b in row for row in cells.values())]
    lines = [["model", "data", "method", "tokens kept", *columns]]
    for row, by_benchmark in sorted(cells.items(), key=lambda item: _order(item[0], item[1])):
        lines.append(
            [*row, f"{100 * _share(by_benchmark):.0f} %", *(_cell(by_benchmark.get(b)) for b in columns)]
        )
    notes = ["Score [95 % interval]; a dash: not run yet."]
    if any(r["partial"] for row in cells.values() for r in row.values()):
        notes.append("* measured on a part of the benchmark.")
    if any(r["weights"] == "dummy" for row in cells.values() for r in row.values()):
        notes.append("Rows of models with dummy weights carry no meaning as accuracy.")
    return "\n".join([aligned(lines), "", *notes])


def _order(row: tuple[str, str, str], records: dict[str, Record]) -> tuple[str, str, bool, float, str]:
    """Full execution first, then by the share of tokens kept, most first."""
    return row[0], row[1], row[2] != "Full", -_share(records), row[2]


def _share(row: dict[str, Record]) -> float:
    tokens = [r["tokens"] for r in row.values() if r["tokens"]["kept"]]
    shares = [t["kept"]["mean"] / t["full"]["mean"] for t in tokens]
    return sum(shares) / len(shares) if shares else 0.0


def _cell(record: Record | None) -> str:
    if record is None:
        return "-"
    score = record["score"]
    digits = 0 if record["benchmark"]["scale"] == 1000 or record["benchmark"]["scoring"] == "mme" else 1
    interval = f"{score['low']:.{digits}f}, {score['high']:.{digits}f}"
    return f"{score['value']:.{digits}f} [{interval}]{'*' if record['partial'] else ''}"
