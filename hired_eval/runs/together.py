"""Runs of a sweep that are answered in one pass over their pictures, each of which is then encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from hired_eval.errors import UserError
from hired_eval.lmms.answerer import Answerer
from hired_eval.models.answering import DroppingVLM
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.processes import Processes
from hired_eval.records.replies import ReplyFile
from hired_eval.runs.loading import Models
from hired_eval.runs.plan import Plan, plan_run

MOST_TOGETHER = 8
"""Each holds a window of questions, for which there is less memory where there are more of them."""


def make_answerer(plan: Plan, checkpoint: Checkpoint) -> Answerer:
    """What answers a run, going on from the replies that an earlier attempt left.

    Raises:
        UserError: the method does not go with the model, or the replies are damaged.
    """
    config = plan.config
    llava = DroppingVLM(
        checkpoint,
        plan.dropper,
        config.model.prompt,
        share_prefix=config.share_prefix,
        pictures_per_pass=config.reading.pictures_per_pass,
        decoding=config.decoding,
    )
    log = ReplyFile(plan.folder, Processes().rank, None if config.rerun else plan.other)
    return Answerer(
        llava,
        batch_size=config.batch_size,
        on_error=config.on_error,
        log=log,
        seed=config.seed,
        effort=plan.effort,
    )


@contextmanager
def companions_of(plan: Plan, models: Models, checkpoint: Checkpoint) -> Iterator[list[Answerer]]:
    """The later runs of the sweep that differ in their method alone, to be answered along with a run.

    Their folders are held meanwhile. One that cannot be begun, or is complete, is left to its own turn. What
    was answered is in their folders then, and their plans are in `models.ahead`.

    Args:
        plan: of the run; one that was itself answered on the way has no companions.
        models: says which runs follow.
        checkpoint: of the run.
    """
    found: list[tuple[Plan, Answerer]] = []
    with ExitStack() as held:
        for other in _plans_like(plan, models):
            if len(found) < MOST_TOGETHER - 1 and Processes().from_main(_hold(other, held)):
                with suppress(UserError):
                    found.append((other, make_answerer(other, checkpoint)))
        try:
            yield [answerer for _, answerer in found]
        finally:
            models.ahead += [other for other, _ in found if other.effort.answered]


def _plans_like(plan: Plan, models: Models) -> list[Plan]:
    """The plans of later runs that differ from a run in their method alone, one for each folder."""
    if plan.effort.answered:
        return []
    plans = {other.folder.path: other for other in [*models.ahead, plan]}
    known = len(plans)
    for config in models.following:
        same = replace(config, method=plan.config.method, budget=plan.config.budget) == plan.config
        if same and config not in [other.config for other in models.ahead]:
            with suppress(UserError):
                other = plan_run(config, plan.counted)
                plans.setdefault(other.folder.path, other)
    return list(plans.values())[known:]


def _hold(plan: Plan, held: ExitStack) -> bool:
    """Whether a run is there to be answered; the main process holds its folder then."""
    if not Processes().main:
        return False  # the main process decides
    try:
        held.enter_context(plan.folder.locked())
        if plan.config.rerun:
            plan.folder.clear()
        return plan.find_earlier() is None
    except UserError:
        return False
