"""Efficiency of a method: time, memory and arithmetic of one batch, as a run record (the paper's Table 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pandas as pd
import torch

from hired_eval.errors import UserError
from hired_eval.method_configs import has_full_execution
from hired_eval.records.record import Record, Timings
from hired_eval.runs.accuracy import Outcome, describe_machine, planned
from hired_eval.runs.efficiency.machine import Machine, measure_machine
from hired_eval.runs.efficiency.measure import Efficiency, Workload, measure_speed
from hired_eval.runs.loading import Models

STOCK = "efficiency_stock"
"""The measurement of the stock model's own `generate`, to compare with method=full."""


def efficiency(config: dict[str, Any], say: Callable[[str], None], models: Models) -> Outcome:
    """Time one method at one batch size, or give its record where it is complete already.

    Where memory runs out, the record says so, as the paper's table does.

    Args:
        config: resolved config; `efficiency` says what is timed, `batch_size` how many pictures at once.
        say: told in one line what is being done.
        models: loads the checkpoint.

    Raises:
        UserError: see `hired_eval.runs.accuracy.run`; or the stock model is to drop something.
    """
    plan = planned(config)
    workload = Workload(**config["efficiency"])
    stock = config["measure"] == STOCK
    if stock and not has_full_execution([plan.record.method.target]):
        raise UserError(f"measure={STOCK} times the stock model, which drops nothing; set method=full")
    with plan.folder.locked():
        earlier = None if config["rerun"] else plan.folder.record()
        if earlier is not None:
            return Outcome(earlier, plan.folder.path, reused=True)
        say(f"model {config['model']['name']}: loading")
        checkpoint = models.get(plan.source, config["model"], config["device"], config["seed"], plan.content)
        dropper = None if stock else plan.dropper
        say("measuring what the machine can do at best")
        best = machine_at_best(checkpoint.model.device, checkpoint.model.dtype)
        say(
            f"timing {'the stock model' if stock else plan.dropper}, batch size {config['batch_size']}: "
            f"{workload.warm_up} + {workload.repeats} times"
        )
        timed = Efficiency(checkpoint, dropper, workload, config["batch_size"])
        measured = measure_speed(timed, best)
        record = replace(
            plan.record,
            status="complete",
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            batch_size=config["batch_size"],
            tokens_kept=sum(timed.kept) / len(timed.kept) if timed.kept else None,
            out_of_memory=measured is None,
            efficiency=measured,
            samples=config["batch_size"],
            documents=config["batch_size"],
            timings=Timings(machine=describe_machine(), device=str(checkpoint.model.device)),
        )
        rows = pd.DataFrame({"picture": range(len(timed.kept)), "kept": timed.kept})
        plan.folder.write(record, rows)
    say(summary(record))
    return Outcome(record, plan.folder.path, reused=False)


@cache
def machine_at_best(device: torch.device, dtype: torch.dtype) -> Machine:
    """What the machine can do at best, measured once a process."""
    return measure_machine(device, dtype)


def summary(record: Record) -> str:
    """A measurement in one line."""
    measured = record.efficiency
    if measured is None:
        return f"batch size {record.batch_size}: out of memory"
    return (
        f"{measured.throughput_tokens_per_second.median:.2f} tokens/s, first token after "
        f"{measured.time_to_first_token_seconds.median:.3f} s, all after "
        f"{measured.latency_seconds.median:.3f} s, peak memory {measured.memory_gigabytes:.2f} GB, "
        f"{measured.share_of_roofline:.0%} of what the machine allows"
    )
