"""Cells of a table of scores that are about a whole row: its mean share of full execution, and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hired_eval.records.context import context_of
from hired_eval.records.record import Record
from hired_eval.records.store import Store
from hired_eval.reporting.spec import ColumnSpec
from hired_eval.reporting.tables import Cell

Runs = Mapping[str, Sequence[Record]]
"""Runs by benchmark."""


def share_cell(store: Store, runs: Runs, full: Runs, benchmarks: Sequence[str]) -> Cell:
    """The mean over benchmarks of the score as a share of full execution's, in percent.

    There is none where a benchmark is missing, so that all rows are means over the same ones.

    Args:
        store: has the samples.
        runs: of a method.
        full: of full execution.
        benchmarks: over which the mean is.
    """
    if not benchmarks or not all(runs[b] and full[b] for b in benchmarks):
        return Cell()
    if all({r.run for r in runs[b]} == {r.run for r in full[b]} for b in benchmarks):
        return Cell(100.0)
    found = store.mean_share([(runs[b][0], full[b][0]) for b in benchmarks])
    if found is None:
        return Cell()
    return Cell(found.value, found.shown_low, found.shown_high, n=found.n, pictures=found.clusters)


def speed_cell(column: ColumnSpec, timed: Sequence[Record], used: Sequence[Record]) -> Cell:
    """What a measurement of speed says of one picture, under the protocol of a row's runs.

    Args:
        column: `selection_ms` or `gflops`.
        timed: measurements of the row's method, of any model.
        used: the row's runs.
    """
    places = {(r.model, r.weights, context_of(r)["protocol"]) for r in used}
    fitting = [r for r in timed if (r.model, r.weights, context_of(r)["protocol"]) in places]
    newest = max(fitting, key=lambda r: r.finished, default=None)
    if newest is None or newest.efficiency is None or not newest.batch_size:
        return Cell()
    speed, pictures = newest.efficiency, newest.batch_size
    if column.name == "gflops":
        return Cell(sum(speed.flops.values()) / pictures / 1e9, digits=column.digits, run=newest.run)
    if speed.selection_seconds is None:
        return Cell()
    milliseconds = 1000 * speed.selection_seconds.median / pictures
    return Cell(milliseconds, digits=column.digits, run=newest.run)
