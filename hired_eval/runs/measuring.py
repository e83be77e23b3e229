"""One config, one record: the kind of measurement that a config asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from hired_eval.errors import RefusedError, UserError
from hired_eval.paths import text_without_home
from hired_eval.processes import Processes
from hired_eval.runs.accuracy import Outcome, planned, run
from hired_eval.runs.efficiency import STOCK, efficiency
from hired_eval.runs.loading import Models
from hired_eval.runs.options import checked_config
from hired_eval.runs.probes import MEASUREMENTS, probe

Say = Callable[[str], None]
MEASURES: dict[str, Callable[[dict[str, Any], Say, Models], Outcome]] = {
    "accuracy": run,
    "efficiency": efficiency,
    STOCK: efficiency,
    **dict.fromkeys(MEASUREMENTS, probe),
}


def measure(config: dict[str, Any], say: Say, models: Models) -> Outcome:
    """Do what a config asks for, or give its record where it is complete already.

    Where it fails, a record that says so is left, and a later run goes on from what was answered.

    Args:
        config: resolved config, as `configs/config.yaml` describes.
        say: told in one line what is being done.
        models: shared by the runs of a sweep, so that they load their model once.

    Raises:
        UserError: no such measurement; the config, the checkpoint, the data, a sample, or the disk.
    """
    config = checked_config(config)
    if config["measure"] != "accuracy" and Processes().count > 1:
        raise UserError(
            f"measure={config['measure']} runs in one process; start it without accelerate launch"
        )

    def leave_failure(
        kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # the user's Ctrl-C is no failure, nor is a run that was not begun
        if isinstance(error, Exception) and not isinstance(error, RefusedError):
            _record_failure(config, error)

    with ExitStack() as stack:
        stack.push(leave_failure)
        return MEASURES[config["measure"]](config, say, models)


def _record_failure(config: dict[str, Any], error: Exception) -> None:
    """A record that names the error; none where the config is wrong or another process is at the run."""
    try:
        plan = planned(config)
        with plan.folder.locked():
            if plan.folder.record() is None:
                finished = datetime.now(UTC).isoformat(timespec="seconds")
                reason = (
                    f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
                )
                plan.folder.fail(replace(plan.record, finished=finished, error=text_without_home(reason)))
    except UserError:
        return  # the first error is the one to tell
