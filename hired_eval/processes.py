"""The processes that share a run, as `accelerate launch` starts them."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")


class Processes:
    """This process among those of its launch; one that was started alone is the only one.

    Attributes:
        rank: 0 for the main process, which holds the run's lock, says what is done, and writes the record.
        count: number of processes.
        device: this process's own, or the CPU.
    """

    def __init__(self) -> None:
        launch = Accelerator()  # the launch alone decides whether processes meet on GPUs or on the CPU
        self.rank: int = launch.process_index
        self.count: int = launch.num_processes
        self.device: torch.device = launch.device

    @property
    def main(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0

    def from_main(self, value: T) -> T:
        """The main process's value; all processes meet here."""
        values = [value]
        broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank; all processes meet here."""
        values: list[T] = gather_object([value])
        return values

    @staticmethod
    def part() -> None:
        """End the launch's connections, after the last run: left open, their threads can abort the exit."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
