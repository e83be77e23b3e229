"""The kinds of tables, each made of run records as the table's spec says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from hired_eval.errors import UserError, unknown
from hired_eval.records.context import Block, blocks_of, versions_note
from hired_eval.records.record import Record, Speed, Spread
from hired_eval.records.store import Store, why_apart
from hired_eval.reporting.cells import share_cell, speed_cell
from hired_eval.reporting.choosing import (
    block_order,
    newest,
    nothing_yet,
    of_models,
    on_benchmark,
    others,
    reference,
    rows_for,
    why_empty,
    without_difference,
)
from hired_eval.reporting.configs import PACKAGED, Configs
from hired_eval.reporting.notes import mark_notes, score_notes
from hired_eval.reporting.published import published, value
from hired_eval.reporting.ranking import ranking
from hired_eval.reporting.rows import FULL, Row, name_of, percent, place_of, target_of
from hired_eval.reporting.spec import ColumnSpec, TableSpec
from hired_eval.reporting.tables import (
    DASH,
    Cell,
    Table,
    TableRow,
    accuracy_cell,
    adjusted,
    flips_cell,
    flips_note,
    in_words,
    provenance,
    repetitions,
    token_share,
    with_best,
    with_seeds,
)

PARTITIONS = ("full-image", "top left", "top right", "bottom left", "bottom right")
TOP_SHARES = (0.1, 0.2)
"""Of the attention probe: of which most attended visual tokens it counts the partitions."""
SHOW_NOTES = {
    "share": "Mean of Full: score over full execution's in %, mean over the benchmarks that the table names "
    "[95 % interval, bootstrap over the images of each benchmark].",
    "speed": "Of one picture, as measure=efficiency has it: milliseconds in which tokens are chosen (median) "
    "and arithmetic of encoding, prompt and answer.",
}
BUNDLED_NOTE = (
    "The bundled models answer the bundled mini benchmarks: their scores do not compare with published "
    "ones; the differences between methods are what to look at."
)


def make(spec: TableSpec, store: Store, configs: Configs = PACKAGED) -> Table:
    """The table that a spec describes.

    Raises:
        UserError: it has no runs, or the spec names what is not there.
    """
    return KINDS[spec.kind](spec, store, configs)


def accuracy(spec: TableSpec, store: Store, configs: Configs) -> Table:
    """Scores of methods on benchmarks, a block of rows for each model, data source and choice of settings."""
    records = of_models(spec, store, store.accuracy())
    rows, listed = rows_for(spec, records, configs)
    against, reference_of = reference(spec, configs)
    columns = [c if c.label else replace(c, label=_column_label(c, configs)) for c in spec.columns]
    labels = {c.name: configs.benchmark_label(c.name) for c in columns if c.show in ("score", "flips")}
    ever = configs.benchmarks_of([*store.accuracy(), *store.failed()])
    benchmarks = list(dict.fromkeys([*configs.files("task"), *ever]))
    for name in labels:
        if name not in benchmarks:
            raise UserError(f"{spec.origin}: {unknown(f'benchmark {name!r}', name, benchmarks)}")
    labels |= {c.name: str(c.label) for c in columns if c.show == "score"}
    scored = [c.name for c in columns if c.show == "score"]
    if spec.open("columns"):
        # a table of design choices has the columns that a design choice was run on
        own = [row for row in rows if row.options and spec.columns] or rows
        ran = configs.benchmarks_of(r for row in own for r in row.of(records))
        more = {b: configs.benchmark_label(b) for b in ran if b not in labels}
        columns += [ColumnSpec(name=b, label=label) for b, label in more.items()]
        labels |= more
        # of a table that names its benchmarks, the mean is over those
        scored = scored or list(more)
    timed = store.measuring("efficiency") if any(c.show == "speed" for c in columns) else []
    found = {r.run: r for row in rows for r in row.of(records) if r.benchmark.name in labels}
    shown = list(found.values())
    if not shown:
        raise nothing_yet(spec.name, configs)
    paper = published(spec)
    body, without_other, apart, uneven, budgetless = [], [], [], [], list[str]()
    references = [
        r
        for row in rows
        if (compared_with := reference_of(row))
        for r in compared_with.of(records)
        if r.benchmark.name in labels
    ]
    compared = {r.run: r for r in references} | found
    # a block of nothing but runs to compare with has no rows
    blocks = [b for b in blocks_of(compared.values()) if any(r.run in found for r in b.records)]
    for block in sorted(blocks, key=lambda block: block_order(spec, block)):
        without, lacking = [], list[tuple[str, str]]()
        for row in rows:
            chosen = {b: repetitions(on_benchmark(row.of(block.records), b)) for b in labels}
            used = [r for runs in chosen.values() for r in runs]
            if not used and (block.settings or row not in listed):
                continue
            compared_with = reference_of(row)
            other = compared_with.of(block.records) if compared_with else []
            theirs = {b: repetitions(on_benchmark(other, b)) for b in labels}
            unmatched = [labels[b] for b in labels if chosen[b] and not theirs[b]]
            without += [f"{row.label} on {label}" for label in unmatched]
            if compared_with:
                lacking += [(compared_with.label, label) for label in unmatched]
            elif used and row.label not in budgetless:
                budgetless.append(row.label)
            cells = []
            for c in columns:
                b = c.name
                if c.show == "share":
                    full = {b: repetitions(on_benchmark(FULL.of(block.records), b)) for b in scored}
                    cells.append(share_cell(store, chosen, full, scored))
                    continue
                if c.show == "speed":
                    cells.append(speed_cell(c, row.of(timed), used))
                    continue
                apart += [why for r in chosen[b] for f in theirs[b][:1] if (why := why_apart(r, f))]
                printed = value(paper, row, model=spec.stand_for.get(block.model, ""), benchmark=b)
                reason = (
                    "" if block.settings else f"{row.label} on {labels[b]}: {why_empty(store, row, block, b)}"
                )
                if c.show == "flips":
                    cells.append(flips_cell(store, chosen[b], theirs[b], reason))
                else:
                    cells.append(accuracy_cell(store, chosen[b], theirs[b], printed, reason))
            label, competes = with_seeds(row.label, used), row.target != FULL.target
            body.append(TableRow(block.label, label, token_share(used), cells, competes))
        uneven += [f"{labels[b]} ({sizes})" for b in labels if (sizes := _sizes(block, rows, b))]
        if block.settings and without:
            without_other.append(
                f"Without a difference, since {in_words(against)} was not run with {block.settings}: "
                f"{', '.join(without)}."
            )
        elif spec.against:
            without_other += without_difference(block, lacking)
    body = with_best(adjusted(body), [c.show != "speed" for c in columns])
    cells = [cell for row in body for cell in row.cells]
    models = sorted({r.model for r in shown})
    notes = score_notes(cells, against)
    notes += [flips_note(against)] * any(c.show == "flips" for c in columns)
    notes += [note for show, note in SHOW_NOTES.items() if any(c.show == show for c in columns)]
    if any(cell.published for cell in cells):
        stand_for = spec.stand_for
        notes += _source(spec, ", ".join(f"{m} is its {stand_for[m]}" for m in models if m in stand_for))
    if spec.stand_for and any(r.data == "bundled" for r in shown):
        notes.append(BUNDLED_NOTE)
    notes += mark_notes(cells)
    if any(block.settings for block in blocks):
        notes.append("A block that names settings differs in them from the block above it.")
    if uneven:
        notes.append(
            f"Stopped at different sizes, so that differences stand on what both runs answered: "
            f"{', '.join(uneven)}."
        )
    notes += [f"No difference: {why}." for why in dict.fromkeys(apart)]
    if budgetless:
        notes.append(f"Without a difference, since they have no budget: {', '.join(budgetless)}.")
    notes += [*without_other, *store.superseded_lines("accuracy"), *versions_note(shown)]
    notes += _not_rows([r for r in records if r.run not in found])
    if reasons := list(dict.fromkeys(cell.reason for cell in cells if cell.reason)):
        missing = _merged(reasons)
        if spec.open("rows"):
            # rows and columns by the dozen: the dashes show which
            missing = ["not run", *(reason for reason in missing if not reason.endswith(": not run"))]
        sweep = f" python -m hired_eval -m +experiment={spec.name} runs what is missing."
        known = spec.name in configs.files("experiment")
        notes.append(f"A dash: {'; '.join(missing)}.{sweep * known}")
    notes += spec.notes_on(models)
    heads = [str(c.label) for c in columns]
    return Table(spec.name, spec.title, heads, body, notes, provenance(shown), against)


def _column_label(column: ColumnSpec, configs: Configs) -> str:
    """What stands above a column that has no label of its own."""
    return configs.benchmark_label(column.name) + ", flips in %" * (column.show == "flips")


def _sizes(block: Block, rows: Sequence[Row], benchmark: str) -> str:
    """'200 to 450 documents': how many the runs on random pictures answered; '' where all did as many."""
    runs = [r for row in rows for r in repetitions(on_benchmark(row.of(block.records), benchmark))]
    sizes = [r.samples for r in runs]
    if not any(r.drawing for r in runs) or min(sizes) == max(sizes):
        return ""
    return f"{min(sizes)} to {max(sizes)} documents"


def _source(spec: TableSpec, compared: str = "") -> list[str]:
    """Whose the published numbers are, and which models are the same."""
    known = [text for text in (spec.published and spec.published.source, compared) if text]
    return [f"{'; '.join(known)}."] if known else []


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


def efficiency(spec: TableSpec, store: Store, configs: Configs) -> Table:
    """Time and memory of methods, a block of rows for each model, batch size and choice of settings."""
    quantities = [f.name for f in fields(Speed) if f.type in ("Spread", "float", "int")]
    for column in spec.columns:
        if column.name not in quantities:
            raise UserError(f"{spec.origin}: {unknown(f'quantity {column.name!r}', column.name, quantities)}")
    columns = list(spec.columns)
    if spec.open("columns"):
        columns += [ColumnSpec(name=q) for q in quantities if q not in {c.name for c in columns}]
    records = of_models(spec, store, store.measuring("efficiency"))
    rows, listed = rows_for(spec, records, configs)
    if not any(row.of(records) for row in rows):
        raise nothing_yet(spec.name, configs)
    paper = published(spec)
    body = []
    for block in _of_one_size(spec, records):
        size = block.records[0].batch_size
        for row in rows:
            record = max(row.of(block.records), key=lambda r: r.finished, default=None)
            if record is None and row not in listed:
                continue
            cells = []
            for c in columns:
                whose = spec.stand_for.get(block.model, "")
                printed = value(paper, row, model=whose, batch_size=str(size), quantity=c.name)
                cells.append(_efficiency_cell(record, c, printed))
            kept = record.tokens_kept if record else None
            tokens = DASH if kept is None else f"{kept:.0f}"
            body.append(TableRow(_efficiency_label(block), row.label, tokens, cells))
    notes = [
        *_source(spec) * any(cell.published for row in body for cell in row.cells),
        "Median [lowest, highest] of the repetitions. tokens: visual tokens given to the language model.",
        "OOM: out of memory.",
        *store.superseded_lines("efficiency"),
        *versions_note(records),
        *spec.notes_on(r.model for r in records),
    ]
    heads = [column.label or column.name for column in columns]
    return Table(spec.name, spec.title, heads, body, notes, provenance(records))


def _of_one_size(spec: TableSpec, records: Sequence[Record]) -> list[Block]:
    """Blocks of runs with one batch size, by model, size and settings; the data source decides no time."""
    sizes = sorted({r.batch_size for r in records if r.batch_size})
    # settings are told against the most frequent ones of a model, whatever the batch size
    blocks = blocks_of([replace(r, data="") for r in records])
    by_size = [
        (block_order(spec, block), size, replace(block, records=of_size))
        for block in blocks
        for size in sizes
        if (of_size := [r for r in block.records if r.batch_size == size])
    ]
    return [block for _, _, block in sorted(by_size, key=lambda found: found[:2])]


def _efficiency_label(block: Block) -> str:
    weights = "" if block.weights == "pretrained" else f", {block.weights} weights"
    settings = f", {block.settings}" if block.settings else ""
    return f"{block.model}{weights}, batch {block.records[0].batch_size}{settings}"


def _efficiency_cell(record: Record | None, column: ColumnSpec, printed: str | None) -> Cell:
    if record is None:
        return Cell(published=printed, reason="not run")
    if record.efficiency is None:
        return Cell(published=printed, text="OOM", run=record.run)
    measured = getattr(record.efficiency, column.name)
    low, high = (measured.low, measured.high) if isinstance(measured, Spread) else (None, None)
    number = measured.median if isinstance(measured, Spread) else measured
    return Cell(number, low, high, digits=column.digits, published=printed, run=record.run)


def attention(spec: TableSpec, store: Store, configs: Configs) -> Table:
    """From which partition the LLM's most attended visual tokens come."""
    for part in ("partitions", "models", "rows", "columns", "others"):
        if getattr(spec, part):
            raise UserError(f"{spec.origin}: a table of kind attention has its own {part}; leave them out")
    record = newest(store, "generation_attention", spec.name)
    pictures = store.arrays(record)["top_tokens"]
    if not len(pictures):
        raise UserError(
            f"{record.run} has no picture with a grid of 2 x 2, which {spec.name} counts; raise limit"
        )
    paper, whose = published(spec), spec.stand_for.get(record.model, "")
    rows = []
    for i, share in enumerate(TOP_SHARES):
        counts = pictures[:, i].sum(axis=0)
        total = counts.sum()
        row = Row(f"top {percent(share)}", "", published={"top_share": f"{share:g}"})
        printed = [value(paper, row, model=whose, partition=p) for p in PARTITIONS]
        cells = [
            Cell(100 * float(n) / total, marks="*" * record.partial, published=text)
            for n, text in zip(counts, _shares(printed), strict=True)
        ]
        tokens = f"{total / len(pictures):.0f}"
        rows.append(TableRow(blocks_of([record])[0].label, row.label, tokens, cells))
    partial = [f"Mark *: from {record.samples} of {record.documents} documents."] * record.partial
    notes = [
        "Share in % of the most attended visual tokens that each partition holds, over "
        f"{len(pictures)} pictures with a grid of 2 x 2; tokens: how many, mean of a picture.",
        *_source(spec) * bool(whose),
        *partial,
        *others(store, record, configs),
        *spec.notes_on([record.model]),
    ]
    return Table(spec.name, spec.title, PARTITIONS, rows, notes, provenance([record]))


def _shares(counts: Sequence[str | None]) -> list[str | None]:
    """Published counts as shares of their sum."""
    total = sum(int(count) for count in counts if count)
    return [count and f"{100 * int(count) / total:.1f} ({count})" for count in counts]


KINDS: dict[str, Callable[[TableSpec, Store, Configs], Table]] = {
    "accuracy": accuracy,
    "rank": ranking,
    "efficiency": efficiency,
    "attention": attention,
}
