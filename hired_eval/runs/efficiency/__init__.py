"""Efficiency of a method: time, memory and arithmetic of one batch, as a run record (the paper's Table 4)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pandas as pd
import torch

from hired_eval.errors import UserError
from hired_eval.method_configs import has_full_execution
from hired_eval.records.record import Record
from hired_eval.runs.efficiency.machine import Machine, measure_machine
from hired_eval.runs.efficiency.measure import Efficiency, measure_speed
from hired_eval.runs.loading import Models
from hired_eval.runs.plan import Plan, Say, note_place

STOCK = "efficiency_stock"
"""The measurement of the stock model's own `generate`, to compare with method=full."""


def measure_efficiency(plan: Plan, say: Say, models: Models) -> tuple[Record, pd.DataFrame]:
    """Time one method at one batch size; where memory runs out, the record says so, as the paper's Table 4.

    Raises:
        UserError: the checkpoint; batch_size=auto; or the stock model is to run another method than Full.
    """
    config, workload = plan.config, plan.config.efficiency
    stock = config.measure == STOCK
    if stock and not has_full_execution([plan.record.method.target]):
        raise UserError(f"measure={STOCK} times the stock model, which drops nothing; set method=full")
    if stock and config.protocol.fixed_grid:
        raise UserError(
            f"measure={STOCK} times the stock model, which has no protocol=fixed_grid; set protocol=paper"
        )
    if config.batch_size == "auto":
        raise UserError("batch_size=auto is for answers; name the number of pictures whose speed is measured")
    checkpoint = plan.load_checkpoint(models, say)
    dropper = None if stock else plan.dropper
    say("measuring what the machine can do at best")
    best = measure_machine_once(checkpoint.model.device, checkpoint.model.dtype)
    say(
        f"timing {'the stock model' if stock else plan.dropper}, batch size {config.batch_size}: "
        f"{workload.warm_up} + {workload.repeats} times"
    )
    timed = Efficiency(checkpoint, dropper, workload, config.batch_size)
    measured = measure_speed(timed, best)
    record = replace(
        plan.record,
        status="complete",
        batch_size=config.batch_size,
        tokens_kept=sum(timed.kept) / len(timed.kept) if timed.kept else None,
        out_of_memory=measured is None,
        efficiency=measured,
        samples=config.batch_size,
        documents=config.batch_size,
        timings=note_place(checkpoint),
    )
    say(summarize(record))
    return record, pd.DataFrame({"picture": range(len(timed.kept)), "kept": timed.kept})


@cache
def measure_machine_once(device: torch.device, dtype: torch.dtype) -> Machine:
    """What the machine can do at best, measured once a process."""
    return measure_machine(device, dtype)


def summarize(record: Record) -> str:
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
