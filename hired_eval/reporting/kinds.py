"""The kinds of tables, each made of run records as the table's spec says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from math import isqrt

from hired_eval.errors import UserError
from hired_eval.method_configs import method_configs
from hired_eval.records.context import Block, blocks_of, left_out, versions_note
from hired_eval.records.record import Record, Speed, Spread
from hired_eval.records.store import Store, best, why_apart
from hired_eval.reporting.cells import share_cell, speed_cell
from hired_eval.reporting.configs import PACKAGED, Configs
from hired_eval.reporting.published import published, value
from hired_eval.reporting.rows import FULL, Row, name_of, percent, place_of, rows_of, target_of
from hired_eval.reporting.spec import ColumnSpec, TableSpec, unknown
from hired_eval.reporting.tables import (
    DASH,
    DIFFERENCE_NOTE,
    FLIPS_NOTE,
    SCORE_NOTE,
    SEQUENCE_NOTE,
    Cell,
    Table,
    TableRow,
    accuracy_cell,
    adjusted,
    flips_cell,
    provenance,
    repetitions,
    token_share,
    with_seeds,
)

PARTITIONS = ("full-image", "top left", "top right", "bottom left", "bottom right")
TOP_SHARES = (0.1, 0.2)
"""Of the attention probe: of which most attended visual tokens it counts the partitions."""
MARKS = {
    "*": "Mark *: on a part of the benchmark; the published number is for all of it.",
    "+": "Mark +: dummy weights, a number without meaning as accuracy.",
    "#": "Mark #: a share of the questions in %: OCRBench's points need all of its questions.",
}
SHOW_NOTES = {
    "flips": FLIPS_NOTE,
    "share": "Mean of Full: score over full execution's in %, mean over the columns of scores [95 % "
    "interval, bootstrap over the images of each benchmark].",
    "speed": "Of one picture, as measure=efficiency has it: milliseconds in which tokens are chosen (median) "
    "and arithmetic of encoding, prompt and answer.",
}
BUNDLED_NOTE = (
    "The bundled models answer the bundled mini benchmarks: their scores do not compare with the paper's; "
    "the differences between methods are what to look at."
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
    columns = [c if c.label else replace(c, label=_column_label(c, configs)) for c in spec.columns]
    labels = {c.name: configs.benchmark_label(c.name) for c in columns if c.show in ("score", "flips")}
    labels |= {c.name: str(c.label) for c in columns if c.show == "score"}
    if spec.open("columns"):
        # a table of design choices has the columns that a design choice was run on
        own = [row for row in rows if row.options and spec.columns] or rows
        ran = configs.benchmarks_of(r for row in own for r in row.of(records))
        more = {b: configs.benchmark_label(b) for b in ran if b not in labels}
        columns += [ColumnSpec(name=b, label=label) for b, label in more.items()]
        labels |= more
    scored = [c.name for c in columns if c.show == "score"]
    timed = store.measuring("efficiency") if any(c.show == "speed" for c in columns) else []
    found = {r.run: r for row in rows for r in row.of(records) if r.benchmark.name in labels}
    shown = list(found.values())
    if not shown:
        raise nothing_yet(spec.name, configs)
    paper = published(spec)
    body, without_full, apart, uneven = [], [], [], []
    blocks = sorted(blocks_of(shown), key=lambda block: _block_order(spec, block))
    for block in blocks:
        full = {b: repetitions(_on(FULL.of(block.records), b)) for b in labels}
        without = []
        for row in rows:
            chosen = {b: repetitions(_on(row.of(block.records), b)) for b in labels}
            used = [r for runs in chosen.values() for r in runs]
            if not used and (block.settings or row not in listed):
                continue
            without += [f"{row.label} on {labels[b]}" for b in labels if chosen[b] and not full[b]]
            cells = []
            for c in columns:
                b = c.name
                if c.show == "share":
                    cells.append(share_cell(store, chosen, full, scored))
                    continue
                if c.show == "speed":
                    cells.append(speed_cell(c, row.of(timed), used))
                    continue
                apart += [why for r in chosen[b] for f in full[b][:1] if (why := why_apart(r, f))]
                printed = value(paper, row, model=spec.stand_for.get(block.model, ""), benchmark=b)
                reason = "" if block.settings else f"{row.label} on {labels[b]}: {_why(store, row, block, b)}"
                if c.show == "flips":
                    cells.append(flips_cell(store, chosen[b], full[b], reason))
                else:
                    cells.append(accuracy_cell(store, chosen[b], full[b], printed, reason))
            body.append(TableRow(block.label, with_seeds(row.label, used), token_share(used), cells))
        uneven += [f"{labels[b]} ({_sizes(block, rows, b)})" for b in labels if _sizes(block, rows, b)]
        if block.settings and without:
            without_full.append(
                f"Without a difference, since full execution was not run with {block.settings}: "
                f"{', '.join(without)}."
            )
    body = adjusted(body)
    cells = [cell for row in body for cell in row.cells]
    models = sorted({r.model for r in shown})
    notes = _score_notes(cells)
    notes += [note for show, note in SHOW_NOTES.items() if any(c.show == show for c in columns)]
    if any(cell.published for cell in cells):
        stand_for = spec.stand_for
        notes += _source(
            spec, ", ".join(f"{m} stands beside {stand_for[m]}" for m in models if m in stand_for)
        )
        if any(r.data == "bundled" and r.model in stand_for for r in shown):
            notes.append(BUNDLED_NOTE)
    marks = {mark for cell in cells for mark in cell.marks}
    notes += [MARKS[mark] for mark in MARKS if mark in marks]
    if any(block.settings for block in blocks):
        notes.append("A block that names settings differs in them from the block above it.")
    if uneven:
        notes.append(
            f"Stopped at different sizes, so that differences stand on what both runs answered: "
            f"{', '.join(uneven)}."
        )
    notes += [f"No difference: {why}." for why in dict.fromkeys(apart)]
    notes += [*without_full, *store.superseded_lines("accuracy"), *versions_note(shown)]
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
    return Table(spec.name, spec.title, [str(c.label) for c in columns], body, notes, provenance(shown))


def _column_label(column: ColumnSpec, configs: Configs) -> str:
    """What stands above a column that has no label of its own."""
    return configs.benchmark_label(column.name) + ", flips in %" * (column.show == "flips")


def of_models(spec: TableSpec, store: Store, records: Iterable[Record]) -> list[Record]:
    """The runs of the models that a table shows."""
    single = {r.model for r in store.accuracy() if _single_partition(r)}
    return [
        r
        for r in records
        if (spec.open("models") or r.model in spec.models)
        and (spec.partitions is None or (spec.partitions == "one") == (r.model in single))
    ]


def rows_for(spec: TableSpec, records: Iterable[Record], configs: Configs) -> tuple[list[Row], list[Row]]:
    """All rows of a table, and those of them that it lists, which are there without runs too."""
    listed = [configs.row(row) for row in spec.rows]
    if not spec.open("rows"):
        return listed, listed
    named = {r.run for row in listed for r in row.of(records)}
    more = rows_of(r for r in records if r.run not in named)
    return [*listed, *(replace(row, published=_published_key(spec, row)) for row in more)], listed


def _published_key(spec: TableSpec, row: Row) -> dict[str, str]:
    """What finds the published numbers of a row that a table does not list; {} for nothing."""
    tokens = spec.published and spec.published.tokens.get(row.options.get("tokens", row.budget or 0))
    names = [name for name, config in method_configs().items() if config.class_name == row.target]
    named = [name for name in names if method_configs()[name].label in row.label.split(" / ")[0]] or names
    return {"method": named[0], "tokens": str(tokens)} if tokens and named else {}


def _sizes(block: Block, rows: Sequence[Row], benchmark: str) -> str:
    """'200 to 450 documents': how many the runs on random pictures answered; '' where all did as many."""
    runs = [r for row in rows for r in repetitions(_on(row.of(block.records), benchmark))]
    sizes = [r.samples for r in runs]
    if not any(r.drawing for r in runs) or min(sizes) == max(sizes):
        return ""
    return f"{min(sizes)} to {max(sizes)} documents"


def _block_order(spec: TableSpec, block: Block) -> tuple[int, str, str, str]:
    models = [*spec.models, *spec.stand_for]
    place = models.index(block.model) if block.model in models else len(models)
    return place, block.model, block.weights, block.data


def _on(records: Iterable[Record], benchmark: str) -> list[Record]:
    return [r for r in records if r.benchmark.name == benchmark]


def _why(store: Store, row: Row, block: Block, benchmark: str) -> str:
    """Why a cell is empty."""
    failed = [
        r
        for r in _on(row.of(store.failed()), benchmark)
        if (r.model, r.data) == (block.model, block.data)
    ]  # fmt: skip
    latest = max(failed, key=lambda r: r.finished, default=None)
    return f"failed ({latest.error or 'samples failed'})" if latest else "not run"


def _score_notes(cells: Sequence[Cell]) -> list[str]:
    """How the numbers of a table of scores are to be read."""
    notes = [SCORE_NOTE]
    if any(cell.difference for cell in cells):
        notes.append(DIFFERENCE_NOTE)
    if any(cell.answered is not None for cell in cells):
        notes.append(SEQUENCE_NOTE)
    if any(cell.n_text() and cell.answered is None for cell in cells):
        notes.append(
            "n: scored questions, for MME pairs of them, and how many pictures they are about; of a "
            "difference, those that both runs answered."
        )
    if any(cell.seeds for cell in cells):
        notes.append(
            "Several seeds: their mean, with the lowest and the highest; the interval holds what a mean over "
            "so few seeds may be off (Student's t)."
        )
    return notes


def _source(spec: TableSpec, compared: str = "") -> list[str]:
    """Whose the published numbers are, and which models stand beside which."""
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
                printed = value(paper, row, batch_size=str(size), quantity=c.name)
                cells.append(_efficiency_cell(record, c, printed))
            kept = record.tokens_kept if record else None
            tokens = DASH if kept is None else f"{kept:.0f}"
            body.append(TableRow(_efficiency_label(block), row.label, tokens, cells))
    notes = [
        *_source(spec),
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
        (_block_order(spec, block), size, replace(block, records=of_size))
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
    paper = published(spec)
    rows = []
    for i, share in enumerate(TOP_SHARES):
        counts = pictures[:, i].sum(axis=0)
        total = counts.sum()
        row = Row(f"top {percent(share)}", "", published={"top_share": f"{share:g}"})
        printed = [value(paper, row, partition=p) for p in PARTITIONS]
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
        *_source(spec),
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
    "efficiency": efficiency,
    "attention": attention,
}


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


def newest(store: Store, measure: str, name: str) -> Record:
    """The best record of a measurement.

    Raises:
        UserError: there is none.
    """
    record = best(store.measuring(measure))
    if record is None:
        raise nothing_yet(name)
    return record


def others(store: Store, shown: Record, configs: Configs) -> list[str]:
    """One line on the runs of a measurement beside the one that is shown; [] for none."""
    rest = [r for r in store.measuring(shown.measure) if r.run != shown.run]
    named = dict.fromkeys(f"{block.label} on {configs.benchmark_label(b)}" for block in blocks_of(rest)
                          for b in configs.benchmarks_of(block.records))  # fmt: skip
    return [f"Not shown: {len(rest)} other runs of this measurement: {'; '.join(named)}."] if rest else []


class NothingYetError(UserError):
    """A report has no runs to stand on."""


def nothing_yet(name: str, configs: Configs = PACKAGED) -> NothingYetError:
    """The error of a report that has no runs, with the command that makes them."""
    sweep = f" -m +experiment={name}" * (name in configs.files("experiment"))
    return NothingYetError(f"no complete run for {name} is there yet; start with python -m hired_eval{sweep}")
