"""The paper's tables, and the table of the baselines, from run records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import isqrt

from hired_eval.errors import UserError
from hired_eval.records.context import Block, blocks_of, left_out, versions_note
from hired_eval.records.record import Record, Spread
from hired_eval.records.store import Store, best
from hired_eval.reporting.published import ODDITIES, PAPER, PAPER_MODELS, published
from hired_eval.reporting.rows import (
    FULL,
    TABLE3,
    TABLE5,
    TABLE6,
    Row,
    name_of,
    percent,
    place_of,
    rows_of,
    target_of,
)
from hired_eval.reporting.tables import (
    BENCHMARK_LABELS,
    DIFFERENCE_NOTE,
    SCORE_NOTE,
    Cell,
    Table,
    TableRow,
    accuracy_rows,
    benchmark_label,
    benchmarks_of,
    provenance,
)

FOUR = ("scienceqa", "vqav2", "textvqa", "docvqa")
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
        raise UserError(f"{record.run} has no picture with a grid of 2 x 2, which table2 counts; raise limit")
    paper = published("table2")
    rows = []
    for i, share in enumerate((0.1, 0.2)):
        counts = arrays["top_tokens"][:, i].sum(axis=0)
        total = counts.sum()
        cells = [
            Cell(
                value=100 * float(n) / total,
                marks="*" * record.partial,
                published=_share_of(paper.value(top_share=f"{share:g}", partition=p), share),
            )
            for n, p in zip(counts, PARTITIONS, strict=True)
        ]
        rows.append(
            TableRow(
                blocks_of([record])[0].label,
                f"top {percent(share)}",
                f"{total / len(arrays['top_tokens']):.0f}",
                cells,
            )
        )
    partial = [f"Mark *: from {record.samples} of {record.documents} documents."] * record.partial
    notes = [
        "Share in % of the most attended visual tokens that each partition holds, over "
        f"{len(arrays['top_tokens'])} pictures with a grid of 2 x 2; tokens: how many, mean of a picture.",
        "The paper counts on one picture (its Figure 1): its numbers are its counts as shares.",
        *partial,
        *others(store, record),
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
    """Table 3: accuracy of six methods on eight benchmarks, and on those of one's own."""
    many = _models_of_many_partitions(store)
    return _accuracy(
        store, "table3", "Table 3: accuracy", TABLE3, tuple(BENCHMARK_LABELS), lambda r: r.model in many
    )


def table5(store: Store) -> Table:
    """Table 5: HiRED's design choices."""
    title = "Table 5: design choices of HiRED, 20 % budget"
    many = _models_of_many_partitions(store)
    return _accuracy(store, "table5", title, (FULL, *TABLE5), FOUR, lambda r: r.model in many)


def table6(store: Store) -> Table:
    """Table 6: models with one partition."""
    title = "Table 6: models with one partition"
    many = _models_of_many_partitions(store)
    table = _accuracy(store, "table6", title, TABLE6, FOUR, lambda r: r.model not in many)
    if any(row.block.startswith("mini_1_5,") for row in table.rows):
        unreadable = (
            "mini_1_5 sees the full-image alone, where the bundled pages' text cannot be read: its TextVQA "
            "and DocVQA tell no methods apart."
        )
        table = replace(table, notes=[*table.notes, unreadable])
    return table


def _models_of_many_partitions(store: Store) -> set[str]:
    """Names of the models that cut a picture into partitions."""
    records = store.accuracy()
    return {r.model for r in records} - {r.model for r in records if _single_partition(r)}


def _single_partition(record: Record) -> bool:
    """Whether every picture gives one square of tokens; cut ones give more, newline tokens and all."""
    full = record.tokens.full
    return full is not None and full.mean == full.max == isqrt(full.max) ** 2


def one_block(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """The runs of one model with the same settings, for a figure that shows one, and a line on the others.

    High resolution first, then most runs.
    """
    blocks = blocks_of(records)
    single = {r.model for b in blocks for r in b.records if _single_partition(r)}
    # of blocks with as many runs, the first has the usual settings
    chosen = min(blocks, key=lambda b: (b.model in single, -len(b.records), b.model), default=None)
    rest = [b for b in blocks if b is not chosen]
    return (chosen.records if chosen else []), left_out(rest, "Not drawn")


def baselines(store: Store) -> Table:
    """Every method with every budget and every choice of options that was run."""
    records = store.accuracy()
    return _accuracy(
        store,
        "baselines",
        "HiRED and its baselines",
        rows_of(records),
        benchmarks_of(records),
        all_rows=False,
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
    records = [r for r in store.accuracy() if wanted(r)]
    used = {r.run: r for row in rows for r in row.of(records)}
    # a table of design choices has the columns that a design choice was run on
    own = [row for row in rows if row.options] or rows
    extra = benchmarks_of(r for row in own for r in row.of(records) if r.benchmark.name not in benchmarks)
    columns = [*benchmarks, *extra]
    shown = [r for r in used.values() if r.benchmark.name in columns]
    if not shown:
        raise nothing_yet(name)
    paper = published(name) if name in ODDITIES else None
    made = accuracy_rows(store, shown, rows, columns, paper)
    body = [row for row in made.rows if all_rows or any(cell.run for cell in row.cells)]
    cells = [cell for row in body for cell in row.cells]
    notes = [SCORE_NOTE]
    if any(cell.difference for cell in cells):
        notes.append(DIFFERENCE_NOTE)
    if any(cell.n_text() for cell in cells):
        notes.append(
            "n: scored questions, for MME pairs of them, and how many pictures they are about; of a "
            "difference, those that both runs answered."
        )
    if any(cell.seeds for cell in cells):
        notes.append(
            "Several seeds: their mean, with the lowest and the highest; the interval holds what a mean over "
            "so few seeds may be off (Student's t)."
        )
    if paper and any(cell.published for cell in cells):
        models = {r.model for r in shown if r.model in PAPER_MODELS}
        compared = ", ".join(f"{model} stands beside {PAPER_MODELS[model]}" for model in sorted(models))
        notes.append(f"published: {PAPER}, {title.split(':')[0]}; {compared}.")
        if any(model.startswith("mini") for model in models):
            notes.append(
                "The bundled models answer the bundled mini benchmarks: their scores do not compare with the "
                "paper's; the differences between methods are what to look at."
            )
    marks = {mark for cell in cells for mark in cell.marks}
    notes += [MARKS[mark] for mark in MARKS if mark in marks]
    notes += [*made.notes, *store.superseded_lines("accuracy"), *versions_note(shown)]
    notes += _not_rows([r for r in records if r.run not in {s.run for s in shown}])
    reasons = list(dict.fromkeys(cell.reason for cell in cells if cell.reason))
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
            and paper_model not in {PAPER_MODELS.get(r.model) for r in shown}
        ]
    notes += ODDITIES.get(name, [])
    return Table(name, title, [benchmark_label(b) for b in columns], body, notes, provenance(shown))


def _not_rows(records: Sequence[Record]) -> list[str]:
    """One line on runs of the same models that are no row of a table; [] for none."""
    if not records:
        return []
    listed = sorted(records, key=lambda r: place_of(target_of(r)))
    names = ", ".join(dict.fromkeys(map(name_of, listed)))
    return [
        f"Not in this table: {len(records)} runs with another method, budget, option or benchmark ({names}); "
        "python -m hired_eval.reporting baselines shows them."
    ]


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
    for block in _of_one_size(records):
        size = block.records[0].batch_size
        in_paper = {r.run for row in TABLE6 for r in row.of(block.records)}
        others_too = rows_of(r for r in block.records if r.run not in in_paper)
        for row in (*TABLE6, *others_too):
            of_row = row.of(block.records)
            record = max(of_row, key=lambda r: r.finished, default=None)
            cells = []
            for quantity, _, digits, scale in EFFICIENCY:
                key = row.published
                printed = paper.value(batch_size=str(size), quantity=quantity, **key) if key else None
                cells.append(_efficiency_cell(record, quantity, digits, scale, printed))
            kept = record.tokens_kept if record else None
            rows.append(
                TableRow(_efficiency_label(block), row.label, "-" if kept is None else f"{kept:.0f}", cells)
            )
    notes = [
        f"published: {PAPER}, Table 4: LLaVA-Next-7B on a Tesla P40 (24 GB); compare ratios, not numbers, "
        "unless the machine is the same.",
        "Median [lowest, highest] of the repetitions. tokens: visual tokens given to the language model.",
        "OOM: out of memory.",
        *store.superseded_lines("efficiency"),
        *versions_note(records),
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


def _of_one_size(records: Sequence[Record]) -> list[Block]:
    """Blocks of runs with one batch size, by model, size and settings; the data source decides no time."""
    sizes = sorted({r.batch_size for r in records if r.batch_size})
    # settings are told against the most frequent ones of a model, whatever the batch size
    blocks = blocks_of([replace(r, data="") for r in records])
    return [
        replace(block, records=of_size)
        for model, weights in sorted({(b.model, b.weights) for b in blocks})
        for size in sizes
        for block in blocks
        if (block.model, block.weights) == (model, weights)
        and (of_size := [r for r in block.records if r.batch_size == size])
    ]


def _efficiency_label(block: Block) -> str:
    weights = "" if block.weights == "pretrained" else f", {block.weights} weights"
    settings = f", {block.settings}" if block.settings else ""
    return f"{block.model}{weights}, batch {block.records[0].batch_size}{settings}"


def _efficiency_cell(
    record: Record | None, quantity: str, digits: int, scale: float, printed: str | None
) -> Cell:
    if record is None:
        return Cell(published=printed, reason="not run")
    if record.efficiency is None:
        return Cell(published=printed, text="OOM", run=record.run)
    measured = getattr(record.efficiency, quantity)
    if isinstance(measured, Spread):
        median, low, high = (number * scale for number in (measured.median, measured.low, measured.high))
        return Cell(median, low, high, digits=digits, published=printed, run=record.run)
    return Cell(measured * scale, digits=digits, published=printed, run=record.run)


def newest(store: Store, measure: str, name: str) -> Record:
    """The best record of a measurement.

    Raises:
        UserError: there is none.
    """
    record = best(store.measuring(measure))
    if record is None:
        raise nothing_yet(name)
    return record


def others(store: Store, shown: Record) -> list[str]:
    """One line on the runs of a measurement beside the one that is shown; [] for none."""
    rest = [r for r in store.measuring(shown.measure) if r.run != shown.run]
    named = dict.fromkeys(f"{block.label} on {benchmark_label(b)}" for block in blocks_of(rest)
                          for b in benchmarks_of(block.records))  # fmt: skip
    return [f"Not shown: {len(rest)} other runs of this measurement: {'; '.join(named)}."] if rest else []


class NothingYetError(UserError):
    """A report has no runs to stand on."""


def nothing_yet(name: str) -> NothingYetError:
    """The error of a report that has no runs, with the command that makes them."""
    return NothingYetError(
        f"no complete run for {name} is there yet; start with python -m hired_eval -m +experiment={name}"
    )


TABLES: dict[str, Callable[[Store], Table]] = {
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "baselines": baselines,
}
