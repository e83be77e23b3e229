"""One config, one record: what every measurement does around what it measures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from types import TracebackType

import pandas as pd

from hired_eval.errors import RefusedError, UserError
from hired_eval.paths import hide_home
from hired_eval.processes import Processes
from hired_eval.records.goal import read_goal
from hired_eval.records.record import Record
from hired_eval.runs.accuracy import measure_accuracy
from hired_eval.runs.efficiency import STOCK, measure_efficiency
from hired_eval.runs.loading import Models
from hired_eval.runs.options import RunConfig
from hired_eval.runs.plan import Outcome, Plan, Say, plan_run
from hired_eval.runs.precision import settle
from hired_eval.runs.probes import MEASUREMENTS, measure_inside

MEASURES: dict[str, Callable[[Plan, Say, Models], tuple[Record, pd.DataFrame] | None]] = {
    "accuracy": measure_accuracy,
    "efficiency": measure_efficiency,
    STOCK: measure_efficiency,
    **dict.fromkeys(MEASUREMENTS, measure_inside),
}


def measure(config: RunConfig, say: Say, models: Models) -> Outcome:
    """Do what a config asks for, or give its record where it is complete already.

    Where it fails, a record that says so is left, and a later run goes on from what was answered.

    Args:
        config: as `configs/config.yaml` describes it.
        say: called with one line about what is being done.
        models: shared by the runs of a sweep, so that they load their model and encode their pictures once.

    Raises:
        UserError: the config, the checkpoint, the data, a sample, or the disk.
    """
    if config.measure != "accuracy" and Processes().count > 1:
        raise UserError(f"measure={config.measure} runs in one process; start it without accelerate launch")
    goal = read_goal(asdict(config))
    if goal is not None:
        return settle(config, goal, lambda plan: follow(plan, say, models), say)
    return follow(models.take_ahead(config) or plan_run(config), say, models)


def follow(plan: Plan, say: Say, models: Models) -> Outcome:
    """Do what a plan says, or give its record where it is complete already; see `measure`.

    Raises:
        UserError: see `measure`.
    """

    def leave_failure(
        kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # the user's Ctrl-C is no failure, nor is a run that was not begun
        if isinstance(error, Exception) and not isinstance(error, RefusedError):
            _record_failure(plan, error)

    with ExitStack() as stack:
        stack.push(leave_failure)
        return _measured(plan, say, models)


def _measured(plan: Plan, say: Say, models: Models) -> Outcome:
    """The record of an earlier run that is complete, or of a new one, which is held while it is made."""
    folder, processes = plan.folder, Processes()
    with folder.locked() if processes.main else nullcontext():
        # what an earlier run of the sweep answered on the way is of now
        if processes.main and plan.config.rerun and not plan.effort.answered:
            folder.clear()
        earlier = processes.from_main(plan.find_earlier() if processes.main else None)
        if earlier is not None:
            return Outcome(earlier, folder.path.parent / earlier.run, reused=True)
        record = plan.record
        found = MEASURES[plan.config.measure](plan, say, models)
        if found is not None:
            record = replace(found[0], finished=_now())
            folder.write(record, found[1])
        return Outcome(processes.from_main(record), folder.path, reused=False)


def _record_failure(plan: Plan, error: Exception) -> None:
    """A record that names the error; none where another process is at the run, or has completed it."""
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    # the first error is the one to tell
    with suppress(UserError), plan.folder.locked():
        if plan.folder.record() is None:
            plan.folder.fail(replace(plan.record, finished=_now(), error=hide_home(reason)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
