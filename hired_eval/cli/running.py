"""The runs that a command line composed: each done and shown, one alone or those of a sweep."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hired_eval.errors import HubError, UserError
from hired_eval.method_configs import BUDGETS
from hired_eval.processes import Processes
from hired_eval.records.goal import read_goal
from hired_eval.records.record import Record
from hired_eval.records.store import Store
from hired_eval.reporting.table import full_run_like, run_table, settled_line, show_score
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import measure
from hired_eval.runs.options import RunConfig, read_config
from hired_eval.runs.plan import Outcome


@dataclass(frozen=True)
class Job:
    """One run that Hydra composed.

    Attributes:
        config: as `configs/config.yaml` describes it.
        overrides: of the command line and of the sweep that made it.
        budget_for_all: whether a budget is an error for a method that has none; in a sweep over methods such
            a method runs without it.
    """

    config: dict[str, Any]
    overrides: tuple[str, ...]
    budget_for_all: bool

    def read(self) -> RunConfig:
        """The config, parsed.

        Raises:
            UserError: it cannot be.
        """
        config = read_config(self.config)
        if self.budget_for_all or any(map(config.method.takes, BUDGETS)):
            return config
        return replace(config, budget=None, tokens=None, tokens_per_partition=None)


def run_job(job: Job) -> list[str]:
    """Do one run and print its table, with the same run without dropping; what went wrong comes back."""
    try:
        outcome = measure(job.read(), _say, Models())
        if not Processes().main:
            return []
        if outcome.reused:
            _say("this run is complete already (rerun=true repeats it):")
        _print_table([outcome], {outcome.folder.parent: Store(outcome.folder.parent)})
        if outcome.record.measure == "accuracy" and not outcome.reused:
            _say(f"{outcome.record.timings.questions_per_second:.1f} questions a second")
        print(f"record: {outcome.folder}")
        problem = _explain_failed_samples(outcome)
    except UserError as error:
        problem = str(error)
    if problem:
        _tell(problem)
    return [problem] if problem else []


def run_sweep(jobs: Sequence[Job]) -> list[str]:
    """Do the runs of a sweep, a line each, and print one table in the end; what went wrong comes back.

    A run that fails does not keep the others from being done, unless none of them can reach the hub.
    """
    configs = [_read_or_none(job) for job in jobs]
    if any(read_goal(job.config) for job in jobs):
        from hired_eval.runs.forecast import TFLOPS, forecast, summarize_forecasts

        try:
            asked = [config or job.read() for config, job in zip(configs, jobs, strict=True)]
            _say(summarize_forecasts(forecast(asked), TFLOPS))
        except UserError as error:
            # the run that it is about says so again, and does not keep the others from being done
            _say(f"no forecast: {error}")
    models, names, pace = Models(), name_jobs(jobs), Pace()
    problems: list[str] = []
    outcomes: dict[Path, Outcome] = {}
    stores: dict[Path, Store] = {}
    number, complete, unreachable = 0, 0, False
    while number < len(jobs) and not unreachable:
        number += 1
        models.following = [config for config in configs[number:] if config is not None]
        before = len(models.ahead)
        try:
            outcome = measure(configs[number - 1] or jobs[number - 1].read(), _hush, models)
            seen, problem = outcome.folder in outcomes, _explain_failed_samples(outcome)
            complete += outcomes.setdefault(outcome.folder, outcome).reused
            store = stores.setdefault(outcome.folder.parent, Store(outcome.folder.parent))
            if outcome.reused and not problem:
                result = "the same run as one before" if seen else ""
            else:
                took = pace.note(len(jobs) - number, len(models.ahead), len(models.ahead) - before)
                # the main process alone says it, and a score takes a bootstrap
                done = summarize(outcome, store) if Processes().main else ""
                result = f"{done}{took}" + "; " * bool(problem)
        except UserError as error:
            problem, result = str(error), ""
            unreachable = isinstance(error, HubError) and not error.reachable
        pace.begin()
        if problem:
            if Processes().count > 1:
                _tell(problem)
            result += f"failed: {problem}" if problem not in problems else "failed likewise"
            problems.append(problem)
        if result:
            _say(f"run {number} of {len(jobs)}, {names[number - 1]}: {result}")
    if complete:
        runs = "every run was" if complete == len(jobs) else f"{complete} of {len(jobs)} runs were"
        _say(f"{runs} complete already (rerun=true repeats them)")
    if Processes().main:
        _print_table(list(outcomes.values()), stores)
    if number < len(jobs):
        _tell(f"{problems[-1]}; {len(jobs) - number} runs were not begun")
    elif problems:
        _tell(problems[0] if len(problems) == 1 else f"{len(problems)} runs failed")
    return problems


def summarize(outcome: Outcome, store: Store) -> str:
    """How a run went, in words; `store` has its samples, and keeps the score for the table in the end."""
    record = outcome.record
    if record.measure != "accuracy":
        return f"record: {outcome.folder}"
    return f"{record.benchmark.metric} {show_score(store, record)}"


def name_jobs(jobs: Sequence[Job]) -> list[str]:
    """What tells each job from the others: its overrides that not all of them have."""
    common = set(jobs[0].overrides).intersection(*(job.overrides for job in jobs))
    return [" ".join(o for o in job.overrides if o not in common) for job in jobs]


class Pace:
    """How long the runs of a sweep take, and how long the rest may."""

    def __init__(self) -> None:
        self.seconds = list[float]()
        self.begin()

    def begin(self) -> None:
        """A run begins."""
        self.begun = time.monotonic()

    def note(self, left: int, ahead: int, others: int) -> str:
        """What is said of a run that is done: its seconds, and about how many minutes the others will take.

        Args:
            left: how many runs follow.
            ahead: how many of them are answered already.
            others: how many of these were answered along with it.
        """
        self.seconds.append(time.monotonic() - self.begun)
        minutes = (left - ahead) * sum(self.seconds) / (len(self.seconds) + ahead) / 60
        rest = f", about {minutes:.0f} min left" if minutes >= 1 else ", under a minute left" * (left > 0)
        along = f" for {others + 1} runs" * (others > 0)
        return f" ({self.seconds[-1]:.0f} s{along}{rest})"


def _print_table(outcomes: Sequence[Outcome], stores: Mapping[Path, Store]) -> None:
    """Runs of accuracy, and behind them full execution of the same, where there is a record of it.

    Args:
        outcomes: the runs.
        stores: by folder of runs; which records there are is read now, when all runs are done.
    """
    for line in dict.fromkeys(line for store in stores.values() for line in store.damaged):
        _say(f"left out: {line}")
    runs: dict[Path, tuple[Store, Record]] = {}
    of_accuracy = [outcome for outcome in outcomes if outcome.record.measure == "accuracy"]
    for outcome in of_accuracy:
        runs[outcome.folder] = (stores[outcome.folder.parent], outcome.record)
    for outcome in of_accuracy:
        store = stores[outcome.folder.parent]
        if full := full_run_like(outcome.record, store.records):
            runs.setdefault(store.runs / full.run, (store, full))
    if runs:
        print(run_table(list(runs.values())))
    for outcome in of_accuracy:
        store = stores[outcome.folder.parent]
        full = full_run_like(outcome.record, store.records)
        if settled := settled_line(store, outcome.record, full, read_goal(outcome.record.config)):
            print(settled)


def _read_or_none(job: Job) -> RunConfig | None:
    try:
        return job.read()
    except UserError:
        return None  # its own turn says what is wrong


def _explain_failed_samples(outcome: Outcome) -> str | None:
    failed, where = outcome.record.failed_samples, outcome.folder / "samples.parquet"
    return f"{failed} samples failed; see the column error of {where}" if failed else None


def _tell(problem: str) -> None:
    if Processes().count > 1:
        # the others wait for this process, and end with it
        sys.exit(f"error: {problem}")
    print(f"error: {problem}", file=sys.stderr)


def _say(line: str) -> None:
    if Processes().main:
        print(line, file=sys.stderr)


def _hush(line: str) -> None:
    """What a sweep does not say."""
