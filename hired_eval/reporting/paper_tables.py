"""The paper's tables, and the table of the baselines, from run records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from hired_eval.errors import UserError
from hired_eval.reporting.published import ODDITIES, PAPER, PAPER_MODELS, published
from hired_eval.reporting.rows import (
    FULL,
    LABELS,
    TABLE3,
    TABLE5,
    TABLE6,
    Row,
    budget_of,
    options_of,
    percent,
)
from hired_eval.reporting.store import Record, Store, best, measure_of
from hired_eval.reporting.tables import (
    BENCHMARK_LABELS,
    DIFFERENCE_NOTE,
    SCORE_NOTE,
    Cell,
    Table,
    TableRow,
    accuracy_rows,
    provenance,
)

FOUR = ("scienceqa", "vqav2", "textvqa", "docvqa")
SINGLE_PARTITION = ("mini_1_5", "llava_1_5_7b", "llava_1_5_13b", "sharegpt4v_7b")
PARTITIONS = ("full-image", "top left", "top right", "bottom left", "bottom right")
EFFICIENCY = (
    ("throughput_tokens_per_second", "tokens/s", 2, 1.0),
    ("time_to_first_token_seconds", "time to first token, s", 3, 1.0),
    ("memory_gigabytes", "peak memory, GB", 2, 1.0),
)
MARKS = {
    "*": "Mark *: on a part of the benchmark; the published number is for all of it.",
    "+": "Mark +: dummy weights, a number without meaning as accuracy.",
    "#": "Mark #: a share of the questions in %: OCRBench's points need all of its questions.",
}


def table2(store: Store) -> Table:
    """Table 2: from which partition the LLM's most attended visual tokens come."""
    record = newest(store, "generation_attention", "table2")
    arrays = store.arrays(record)
    if not len(arrays["top_tokens"]):
        raise UserError(
            f"{record['run']} has no picture with a grid of 2 x 2, which table2 counts; raise limit"
        )
    paper = published("table2")
    rows = []
    for i, share in enumerate((0.1, 0.2)):
        counts = arrays["top_tokens"][:, i].sum(axis=0)
        total = counts.sum()
        cells = [
            Cell(
                value=100 * float(n) / total,
                marks="*" * record["partial"],
                published=_share_of(paper.value(top_share=f"{share:g}", partition=p), share),
            )
            for n, p in zip(counts, PARTITIONS, strict=True)
        ]
        rows.append(
            TableRow(
                _block(record), f"top {percent(share)}", f"{total / len(arrays['top_tokens']):.0f}", cells
            )
        )
    partial = [f"Mark *: from {record['samples']} of {record['documents']} documents."] * record["partial"]
    notes = [
        "Share in % of the most attended visual tokens that each partition holds, over "
        f"{len(arrays['top_tokens'])} pictures with a grid of 2 x 2; tokens: how many, mean of a picture.",
        "The paper counts on one picture (its Figure 1): its numbers are its counts as shares.",
        *partial,
        *ODDITIES["table2"],
    ]  # fmt: skip
    return Table(
        "table2",
        "Table 2: most attended visual tokens per partition",
        PARTITIONS,
        rows,
        notes,
        provenance([record]),
    )


def _share_of(count: str | None, top_share: float) -> str | None:
    """The paper's count as a share of its row's sum."""
    totals = {0.1: 288, 0.2: 577}
    return None if count is None else f"{100 * int(count) / totals[top_share]:.1f} ({count})"


def table3(store: Store) -> Table:
    """Table 3: accuracy of six methods on eight benchmarks."""
    return _accuracy(store, "table3", "Table 3: accuracy", TABLE3, tuple(BENCHMARK_LABELS), _high_resolution)


def table5(store: Store) -> Table:
    """Table 5: HiRED's design choices."""
    title = "Table 5: design choices of HiRED, 20 % budget"
    return _accuracy(store, "table5", title, (FULL, *TABLE5), FOUR, _high_resolution)


def table6(store: Store) -> Table:
    """Table 6: models with one partition."""
    title = "Table 6: models with one partition"
    table = _accuracy(store, "table6", title, TABLE6, FOUR, lambda r: not _high_resolution(r))
    if any(row.block.startswith("mini_1_5") for row in table.rows):
        unreadable = (
            "mini_1_5 sees the full-image alone, where the bundled pages' text cannot be read: its TextVQA "
            "and DocVQA tell no methods apart."
        )
        table = replace(table, notes=[*table.notes, unreadable])
    return table


def _high_resolution(record: Record) -> bool:
    return record["model"] not in SINGLE_PARTITION


def of_one_model(records: Sequence[Record]) -> list[Record]:
    """The runs of one model, for a figure that shows one: high resolution first, then most runs."""
    runs = Counter(_model(r) for r in records)
    order = sorted(runs, key=lambda model: (model[0] in SINGLE_PARTITION, -runs[model], model))
    return [r for r in records if _model(r) == order[0]]


def _model(record: Record) -> tuple[str, str, str]:
    return record["model"], record["weights"], record["data"]


def baselines(store: Store) -> Table:
    """Every method at every budget that was run, default options, on one model as the figure has it."""
    plain = of_one_model([r for r in store.accuracy() if not options_of(r)])
    found = {(r["method"]["_target_"].rsplit(".", 1)[-1], budget_of(r)) for r in plain}
    order = list(LABELS)
    rows = [
        Row(f"{LABELS.get(target, target)}{'' if budget is None else f' {percent(budget)}'}", target, budget)
        for target, budget in sorted(
            found, key=lambda k: (order.index(k[0]) if k[0] in order else len(order), k[0], -(k[1] or 2))
        )
    ]
    columns = [b for b in BENCHMARK_LABELS if any(r["benchmark"]["name"] == b for r in plain)]
    models = {_model(r) for r in plain}
    return _accuracy(
        store, "baselines", "HiRED and its baselines", rows, columns, lambda r: _model(r) in models, False
    )


def _accuracy(
    store: Store,
    name: str,
    title: str,
    rows: Sequence[Row],
    benchmarks: Sequence[str],
    wanted: Callable[[Record], bool] = lambda record: True,
    all_rows: bool = True,
) -> Table:
    records = [r for r in store.accuracy() if wanted(r) and r["benchmark"]["name"] in benchmarks]
    used = [r for row in rows for r in row.of(records)]
    if not used:
        raise nothing_yet(name)
    paper = published(name) if name in ODDITIES else None
    body = accuracy_rows(store, records, rows, benchmarks, paper)
    if not all_rows:
        body = [row for row in body if any(cell.run for cell in row.cells)]
    notes = [SCORE_NOTE]
    if any(cell.difference for row in body for cell in row.cells):
        notes.append(DIFFERENCE_NOTE)
    if any(cell.n_text() for row in body for cell in row.cells):
        notes.append(
            "n: scored questions, for MME pairs of them; of a difference, those that both runs answered."
        )
    if paper:
        models = {r["model"] for r in used if r["model"] in PAPER_MODELS}
        compared = ", ".join(f"{model} stands beside {PAPER_MODELS[model]}" for model in sorted(models))
        notes.append(f"published: {PAPER}, {title.split(':')[0]}; {compared}.")
        if any(model.startswith("mini") for model in models):
            notes.append(
                "The bundled models answer the bundled mini benchmarks: their scores do not compare with the "
                "paper's; the differences between methods are what to look at."
            )
    marks = {mark for row in body for cell in row.cells for mark in cell.marks}
    notes += [MARKS[mark] for mark in MARKS if mark in marks]
    earlier = [r for r in store.superseded if measure_of(r) == "accuracy"]
    if earlier:
        notes.append(f"Left out: {len(earlier)} runs of an earlier checkpoint or of earlier documents.")
    reasons = list(dict.fromkeys(c.reason for row in body for c in row.cells if c.reason))
    if reasons:
        missing = _merged(reasons)
        if not all_rows:
            # rows and columns by the dozen: the dashes show which
            missing = ["not run", *(reason for reason in missing if not reason.endswith(": not run"))]
        notes.append(
            f"A dash: {'; '.join(missing)}. python -m hired_eval -m +experiment={name} runs what is missing."
        )
    if name in ("table3",):
        notes += [
            f"{paper_model}: not run; profile=paper runs it."
            for model, paper_model in PAPER_MODELS.items()
            if paper_model.startswith("LLaVA-Next")
            and paper_model not in {PAPER_MODELS.get(r["model"]) for r in used}
        ]
    notes += ODDITIES.get(name, [])
    return Table(name, title, [BENCHMARK_LABELS[b] for b in benchmarks], body, notes, provenance(used))


def _merged(reasons: Sequence[str]) -> list[str]:
    """'A on X: not run', 'A on Y: not run', 'B on X: ...' with equal benchmarks and reasons put together."""
    benchmarks: dict[tuple[str, str], list[str]] = {}
    for reason in reasons:
        where, why = reason.split(": ", 1)
        row, benchmark = where.split(" on ", 1)
        benchmarks.setdefault((row, why), []).append(benchmark)
    rows: dict[tuple[str, str], list[str]] = {}
    for (row, why), found in benchmarks.items():
        rows.setdefault((", ".join(found), why), []).append(row)
    return [f"{', '.join(found)} on {where}: {why}" for (where, why), found in rows.items()]


def table4(store: Store) -> Table:
    """Table 4: efficiency."""
    records = store.measuring("efficiency")
    if not records:
        raise nothing_yet("table4")
    paper = published("table4")
    rows = []
    for model, weights in sorted({(r["model"], r["weights"]) for r in records}):
        block = [r for r in records if (r["model"], r["weights"]) == (model, weights)]
        for size in sorted({r["batch_size"] for r in block}):
            for row in TABLE6:
                of_size = [r for r in row.of(block) if r["batch_size"] == size]
                record = max(of_size, key=lambda r: str(r["finished"]), default=None)
                cells = []
                for quantity, _, digits, scale in EFFICIENCY:
                    printed = paper.value(batch_size=str(size), quantity=quantity, **(row.published or {}))
                    cells.append(_efficiency_cell(record, quantity, digits, scale, printed))
                kept = record["tokens_kept"] if record else None
                label = f"{model}" + (", dummy weights" if weights == "dummy" else "")
                rows.append(
                    TableRow(
                        f"{label}, batch {size}", row.label, "-" if kept is None else f"{kept:.0f}", cells
                    )
                )
    notes = [
        f"published: {PAPER}, Table 4: LLaVA-Next-7B on a Tesla P40 (24 GB); compare ratios, not numbers, "
        "unless the machine is the same.",
        "Median [lowest, highest] of the repetitions. tokens: visual tokens given to the language model.",
        "OOM: out of memory.",
        *ODDITIES["table4"],
    ]
    return Table(
        "table4",
        "Table 4: efficiency",
        [label for _, label, _, _ in EFFICIENCY],
        rows,
        notes,
        provenance(records),
    )


def _efficiency_cell(
    record: Record | None, quantity: str, digits: int, scale: float, printed: str | None
) -> Cell:
    if record is None:
        return Cell(published=printed, reason="not run")
    if record.get("out_of_memory"):
        return Cell(published=printed, text="OOM", run=record["run"])
    measured = record["efficiency"][quantity]
    if isinstance(measured, dict):
        median, low, high = (measured[k] * scale for k in ("median", "low", "high"))
        return Cell(median, low, high, digits=digits, published=printed, run=record["run"])
    return Cell(measured * scale, digits=digits, published=printed, run=record["run"])


def newest(store: Store, measure: str, name: str) -> Record:
    """The best record of a measurement.

    Raises:
        UserError: there is none.
    """
    record = best(store.measuring(measure))
    if record is None:
        raise nothing_yet(name)
    return record


class NothingYetError(UserError):
    """A report has no runs to stand on."""


def nothing_yet(name: str) -> NothingYetError:
    """The error of a report that has no runs, with the command that makes them."""
    return NothingYetError(
        f"no complete run for {name} is there yet; start with python -m hired_eval -m +experiment={name}"
    )


def _block(record: Record) -> str:
    return f"{record['model']}, {record['data']} data"


TABLES: dict[str, Callable[[Store], Table]] = {
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "baselines": baselines,
}
