"""What the machine can do at best, measured: arithmetic and memory bandwidth; and peak memory."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from hired_eval.runs.efficiency.flops import Work

# writing 5 to clear_refs makes VmHWM in status start anew
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"
TRIES = 5


@dataclass(frozen=True)
class Machine:
    """The best that was measured.

    Attributes:
        flops_per_second: of a large matrix product in the model's dtype.
        bytes_per_second: of a large copy, read and write counted.
    """

    flops_per_second: float
    bytes_per_second: float

    def least_seconds(self, work: Work) -> float:
        """The roofline: work takes at least the time of its arithmetic, and that of its memory traffic."""
        arithmetic = work.flops / self.flops_per_second
        return max(arithmetic, (work.weight_bytes + work.cache_bytes) / self.bytes_per_second)


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Time a large matrix product and a large copy, the best of several tries."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = torch.rand(2, size, size, device=device).to(dtype)
    source = torch.ones((2**30 if device.type == "cuda" else 2**27) // 4, device=device)
    target = torch.empty_like(source)
    product = min(timed(lambda: a @ b, device) for _ in range(TRIES))
    copy = min(timed(lambda: target.copy_(source), device) for _ in range(TRIES))
    return Machine(2 * size**3 / product, 2 * source.nbytes / copy)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Peak:
    """Peak memory of a block in bytes: allocated on a GPU, resident on a CPU."""

    start: int = 0
    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Peak memory while the block runs.

    On a CPU this is the process's largest resident set: on Linux that of the block, elsewhere, and where a
    container forbids the reset, that of the process's life so far.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        peak.start = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    with suppress(OSError):
        CLEAR_REFS.write_text(RESET_PEAK)
    peak.start = _largest_resident_set()
    yield peak
    peak.bytes = _largest_resident_set()


def _largest_resident_set() -> int:
    if STATUS.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        if found:
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
