"""Which methods keep most at one budget: ranks over a group of benchmarks, tied where intervals overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hired_eval.errors import UserError
from hired_eval.records.context import Block, blocks_of, versions_note
from hired_eval.records.record import Record
from hired_eval.records.statistics import FEWEST, Estimate
from hired_eval.records.store import Store
from hired_eval.reporting.choosing import (
    SWEEP,
    block_order,
    nothing_yet,
    of_models,
    on_benchmark,
    reference,
    without_difference,
)
from hired_eval.reporting.configs import Configs
from hired_eval.reporting.notes import mark_notes, score_notes
from hired_eval.reporting.rows import FULL, Row, rows_of
from hired_eval.reporting.spec import TableSpec
from hired_eval.reporting.tables import (
    Cell,
    Table,
    TableRow,
    accuracy_cell,
    adjusted,
    paired,
    provenance,
    repetitions,
    token_share,
    with_best,
    with_seeds,
)

RANK, SHARE = "rank", "mean share of Full, %"
NOTES = (
    f"{SHARE}: the score in percent of full execution's on the same documents, mean over the benchmarks "
    "[95 % interval, bootstrap over the images of each benchmark that were answered].",
    "A method's rank is one more than the number of methods that are better beyond the intervals; "
    "methods that share a rank tie.",
)
Runs = Mapping[str, Sequence[Record]]
"""Of each benchmark the runs of a method, see `repetitions`."""


def ranks_of(shares: Mapping[str, Estimate]) -> dict[str, str]:
    """The rank of each method that has an interval: one more than how many have theirs above it.

    '1 (tie)' if it is shared.
    """
    ends = {
        label: (share.shown_low, share.shown_high)
        for label, share in shares.items()
        if share.shown_low is not None and share.shown_high is not None
    }
    surely = {label: 1 + sum(low > high for low, _ in ends.values()) for label, (_, high) in ends.items()}
    ranks = list(surely.values())
    return {label: f"{rank}{' (tie)' * (ranks.count(rank) > 1)}" for label, rank in surely.items()}


def _runs(row: Row, block: Block, benchmarks: Sequence[str]) -> Runs:
    of_row = row.of(block.records)
    return {b: repetitions(on_benchmark(of_row, b)) for b in benchmarks}


def ranking(spec: TableSpec, store: Store, configs: Configs) -> Table:
    """The methods that were run at one budget, best first, a block for each model and choice of settings.

    Raises:
        UserError: the spec names no budget, or one without runs, or a benchmark that is not there.
    """
    names = configs.group([column.name for column in spec.columns])
    records = [r for r in of_models(spec, store, store.accuracy()) if not names or r.benchmark.name in names]
    budgets = sorted({r.budget for r in records if r.budget is not None})
    if not budgets:
        raise nothing_yet(spec.name, configs)
    if spec.budget not in budgets:
        asked = "no budget is named" if spec.budget is None else f"no run has budget={spec.budget:g}"
        raise UserError(
            f"{asked}; write budget=SHARE with one of {', '.join(f'{b:g}' for b in budgets)}, or make runs "
            f"at another with {SWEEP.format('SHARE')}"
        )
    against, reference_of = reference(spec, configs)
    benchmarks = [b for b in configs.benchmarks_of(records) if on_benchmark(FULL.of(records), b)]
    body, notes, used = [], list[str](), list[Record]()
    for block in sorted(blocks_of(records), key=lambda block: block_order(spec, block)):
        full = _runs(FULL, block, benchmarks)
        rows = [row for row in rows_of(block.records) if row.budget == spec.budget]
        found = {row.label: (row, _runs(row, block, benchmarks)) for row in rows}
        lacking = {
            label: [configs.benchmark_label(b) for b in benchmarks if not paired(runs[b], full[b])]
            for label, (_, runs) in found.items()
        }
        shares = {
            label: share
            for label, (_, runs) in found.items()
            if benchmarks
            and not lacking[label]
            and (share := store.mean_share([paired(runs[b], full[b]) for b in benchmarks]))
        }
        ranks, unranked, unmatched = ranks_of(shares), dict[str, list[str]](), list[tuple[str, str]]()
        for label in sorted(shares, key=lambda label: -shares[label].value):
            row, runs = found[label]
            compared_with = reference_of(row) or row
            others = _runs(compared_with, block, benchmarks)
            without = [configs.benchmark_label(b) for b in benchmarks if not others[b]]
            unmatched += [(compared_with.label, label) for label in without]
            share, cells = shares[label], [accuracy_cell(store, runs[b], others[b], None) for b in benchmarks]
            own = [r for b in benchmarks for r in runs[b]]
            used += own
            mean = Cell(share.value, share.shown_low, share.shown_high, share.n, share.clusters, run=label)
            rank = Cell(text=ranks.get(label))
            if label not in ranks:
                few = [
                    configs.benchmark_label(b)
                    for b, cell in zip(benchmarks, cells, strict=True)
                    if cell.pictures is not None and cell.pictures < FEWEST
                ]
                unranked.setdefault(", ".join(few), []).append(label)
            body.append(
                TableRow(block.label, with_seeds(row.label, own), token_share(own), [rank, mean, *cells])
            )
        if shares:
            own = [r for b in benchmarks for r in full[b]]
            cells = [accuracy_cell(store, full[b], [], None) for b in benchmarks]
            body.append(
                TableRow(block.label, FULL.label, token_share(own), [Cell(), Cell(100.0), *cells], False)
            )
        notes += [
            f"No rank, {block.label}: {'; '.join(labels)}: "
            f"{f'fewer than {FEWEST} pictures on {few}' if few else 'their shares have no interval'}."
            for few, labels in unranked.items()
        ]
        notes += without_difference(block, unmatched)
        absent: dict[str, list[str]] = {}
        for label, missing in lacking.items():
            if missing:
                absent.setdefault(", ".join(missing), []).append(label)
        notes += [
            f"Not ranked, {block.label}: {'; '.join(labels)} {'was' if len(labels) == 1 else 'were'} not run "
            f"on {missing}."
            for missing, labels in absent.items()
        ]
    if not body:
        on = f"on all of {', '.join(benchmarks or configs.benchmarks_of(records))} with full execution"
        raise UserError(
            f"no method was run at budget={spec.budget:g} {on}; run method=full too, or name fewer "
            "benchmarks with group=BENCHMARK,BENCHMARK"
        )
    if free := [row.label for row in rows_of(records) if row.budget is None and row.target != FULL.target]:
        notes.append(f"Not ranked, since they have no budget: {', '.join(free)}.")
    body = adjusted(with_best(body, [True] * len(body[0].cells)))
    cells = [cell for row in body for cell in row.cells]
    notes = [*NOTES, *score_notes(cells, against), *mark_notes(cells), *notes]
    notes += [*store.superseded_lines("accuracy"), *versions_note(used)]
    heads = [RANK, SHARE, *map(configs.benchmark_label, benchmarks)]
    return Table(spec.name, spec.title, heads, body, notes, provenance(used), against)
