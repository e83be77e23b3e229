"""Which runs a report shows, and what it says of those that it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isqrt

from hired_eval.errors import UserError
from hired_eval.method_configs import method_configs
from hired_eval.records.context import Block, blocks_of, left_out
from hired_eval.records.record import Record
from hired_eval.records.store import Store, best
from hired_eval.reporting.configs import PACKAGED, Configs
from hired_eval.reporting.rows import FULL, Row, percent, rows_of, without_budget
from hired_eval.reporting.spec import TableSpec

IN_TOKENS = ("tokens", "tokens_per_partition")
"""Options that are a budget, not as a share."""


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


def reference(spec: TableSpec, configs: Configs) -> tuple[str, Callable[[Row], Row | None]]:
    """What a table compares with, in words, and for each of its rows the row that it is compared with.

    A method with a budget that the table does not name is taken at the budget of each row, and for one
    without a budget there is none.
    """
    if spec.against is None:
        return FULL.label, lambda row: FULL
    fixed = configs.row(spec.against)
    if spec.against.budget is not None or fixed.budget is None:
        return fixed.label, lambda row: fixed

    def at_budget_of(row: Row) -> Row | None:
        tokens = {name: row.options[name] for name in IN_TOKENS if name in row.options}
        if row.budget is None and not tokens:
            return None
        at = percent(row.budget) if row.budget else ", ".join(f"{n} {kind}" for kind, n in tokens.items())
        label = f"{without_budget(fixed)} at {at}"
        return replace(fixed, label=label, budget=row.budget, options={**fixed.options, **tokens})

    return f"{without_budget(fixed)} at the same budget", at_budget_of


def without_difference(block: Block, lacking: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each row that a block is to be compared with and that has no run where another has.

    Args:
        block: of runs.
        lacking: label of the row that is compared with, and of the benchmark where it was not run.
    """
    where: dict[str, list[str]] = {}
    for label, benchmark in dict.fromkeys(lacking):
        where.setdefault(label, []).append(benchmark)
    return [
        f"No difference to {label}, {block.label}: there is no run of it on {', '.join(benchmarks)}; run it "
        "there, or name with --against what was run."
        for label, benchmarks in where.items()
    ]


def block_order(spec: TableSpec, block: Block) -> tuple[int, str, str, str]:
    """Where a block stands: models as the table lists them, others by name."""
    models = [*spec.models, *spec.stand_for]
    place = models.index(block.model) if block.model in models else len(models)
    return place, block.model, block.weights, block.data


def on_benchmark(records: Iterable[Record], benchmark: str) -> list[Record]:
    """The runs on a benchmark."""
    return [r for r in records if r.benchmark.name == benchmark]


def why_empty(store: Store, row: Row, block: Block, benchmark: str) -> str:
    """Why a cell is empty: not run, or the error of the run that failed last."""
    failed = [
        r
        for r in on_benchmark(row.of(store.failed()), benchmark)
        if (r.model, r.data) == (block.model, block.data)
    ]  # fmt: skip
    latest = max(failed, key=lambda r: r.finished, default=None)
    return f"failed ({latest.error or 'samples failed'})" if latest else "not run"


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


SWEEP = "python -m hired_eval -m method=full,hired budget={} task=docvqa,textvqa"
"""An example of a sweep, at a budget."""


def nothing_yet(name: str, configs: Configs = PACKAGED) -> NothingYetError:
    """The error of a report that has no runs, with the command that makes them."""
    known = name in configs.files("experiment")
    sweep = f"python -m hired_eval -m +experiment={name}" if known else SWEEP.format(0.2)
    return NothingYetError(f"no complete run for {name} is there yet; start with {sweep}")
