"""Several processes train one model: each on pages of its own, with the mean of all gradients.

Processes of one thread each are faster here than one process of several threads: the matrices are small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn


def side_by_side(processes: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in several processes that share gradients; returns when all are done.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed; the others are ended.
    """
    if processes == 1:
        function(*arguments)
        return
    with TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        spawn(_start, (processes, meeting, function, arguments), nprocs=processes)  # type: ignore[no-untyped-call]


def _start(
    own: int, processes: int, meeting: Path, function: Callable[..., None], arguments: Sequence[Any]
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{meeting}", rank=own, world_size=processes)
    try:
        function(*arguments)
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """This process's number, from 0; 0 where there is one process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes share gradients."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait() -> None:
    """Go on when all processes have come here."""
    if world() > 1:
        distributed.barrier()


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every process the mean of all processes' gradients; a missing gradient counts as 0."""
    if world() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world()
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
