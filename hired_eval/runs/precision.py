"""Runs that grow until what they are asked is settled: looks at a geometric series of sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import yaml

from hired_eval.errors import UserError
from hired_eval.method_configs import FULL
from hired_eval.paths import config_folder
from hired_eval.processes import Processes
from hired_eval.records.goal import Goal
from hired_eval.records.record import Record
from hired_eval.records.scores import scorer_for
from hired_eval.records.sequences import FIRST_LOOK, GROWTH
from hired_eval.records.store import Store, scorer_of_run
from hired_eval.runs.identity import target_of
from hired_eval.runs.options import MethodOptions, RunConfig, method_class, read_method
from hired_eval.runs.plan import Counted, Outcome, Plan, Say, plan_run


def settle(config: RunConfig, goal: Goal, follow: Callable[[Plan], Outcome], say: Say) -> Outcome:
    """Answer more and more of a benchmark, and stop where the goal is reached or everything is answered.

    Full execution answers the same documents first, where it has not.

    Args:
        config: with a goal.
        goal: that of the config.
        follow: does what a plan says.
        say: called with one line about what is being done.

    Returns:
        The last look's.

    Raises:
        UserError: options that exclude a goal, a benchmark without bounds, or what `follow` raises.
    """
    check_goal(config)
    own = target_of(method_class(config.method.target)) == target_of(method_class(full_method().target))
    counted: Counted | None = None
    size: float = FIRST_LOOK
    while True:
        plan = plan_run(replace(config, limit=round(size)), counted)
        counted, rerun = plan.counted, False
        if plan.record.drawing is not None:
            scorer_for(config.task).check_bounded(plan.record.drawing)
        full = None
        if not own:
            full = _full_execution(_plan_full(plan.config, counted), follow, say)
        outcome = follow(plan)
        if outcome.record.score is None or (full is not None and full.score is None):
            return outcome
        settled = None
        if Processes().main:
            settled = _settled(goal, outcome, full, say)
        if Processes().from_main(settled) is not None:
            return outcome
        while size <= outcome.record.samples:
            size *= GROWTH
        config = replace(config, rerun=rerun)


def check_goal(config: RunConfig) -> None:
    """Refuse options that exclude `precision` and `decide`.

    Raises:
        UserError: naming the option.
    """
    if config.measure != "accuracy":
        raise UserError(f"measure={config.measure} has no score; leave precision and decide out")
    if config.limit is not None:
        raise UserError("precision and decide choose how many documents are answered; leave limit out")
    if config.order != "random":
        raise UserError(
            "precision and decide need documents in random order, since the first ones tell nothing about "
            "the others; leave order=dataset out"
        )


def full_method() -> MethodOptions:
    """Full execution, which every method is compared with."""
    return read_method(yaml.safe_load((config_folder() / "method" / f"{FULL}.yaml").read_text()))


def _plan_full(config: RunConfig, counted: Counted | None) -> Plan:
    """Full execution with a run's seed where it has run, else with the usual one, which serves every seed."""
    full = replace(config, method=full_method(), budget=None, rerun=False, precision=None, decide=None)
    plan = plan_run(full, counted)
    return plan if config.seed == 0 or _known(plan) else plan_run(replace(full, seed=0), counted)


def _known(plan: Plan) -> Record | None:
    """What a run has answered before."""
    return plan.folder.record() or (plan.other.record() if plan.other else None)


def _full_execution(plan: Plan, follow: Callable[[Plan], Outcome], say: Say) -> Record:
    """The record of full execution on the same documents at least."""
    known = _known(plan)
    if known is None or (plan.chosen is not None and known.samples < len(plan.chosen)):
        asked = plan.limit or "all"
        say(
            f"Full has not answered these {asked} documents of {plan.config.task.name}: it answers them first"
        )
    return follow(plan).record


def _settled(goal: Goal, outcome: Outcome, full: Record | None, say: Say) -> str | None:
    """What a look settles, in words; None where more documents are needed."""
    record, store = outcome.record, Store(outcome.folder.parent)
    if record.drawing is None:
        return "all answered"
    found = store.score([record]) if full is None else store.difference([(record, full)])
    if found is None or not found.sequence:
        # the reason, where it is another than that some category has not been seen
        scorer_of_run(record).drawn([store.samples(record)], record.drawing)
        return None
    said = goal.reached(found.low, found.high, own=full is None)
    say(
        f"{record.samples} of {record.documents} documents: {found.value:+.2f} [{found.low:+.2f}, "
        f"{found.high:+.2f}]: {said or 'not settled yet'}"
    )
    return said
