"""The command line in a process of its own, to be killed, interrupted, or starved of disk.

A server process imports everything once and forks each child, so that a start costs a second instead of ten.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import datasets
import lmms_eval.models  # noqa: F401  (seconds, spared to every child)
import torch

from hired_eval.__main__ import main
from hired_eval.lmms.answerer import Answerer
from hired_eval.reporting.table import run_table  # noqa: F401
from hired_eval.runs.measuring import measure  # noqa: F401

Key = tuple[Any, ...]
"""Folder of the run, task, document and request: one question of one run."""


@dataclass(frozen=True)
class Conditions:
    """What a child meets.

    Attributes:
        data_cache: where `datasets` puts what it makes of parquet files.
        journal: file that gets a line for every batch when the model begins to answer it.
        slow_disk: seconds that every flush to disk takes longer, so that kills land in it.
        room: bytes that no file can grow beyond.
    """

    data_cache: Path
    journal: Path | None = None
    slow_disk: float = 0
    room: int | None = None


@dataclass(frozen=True)
class Child:
    """A process that runs the command line.

    Attributes:
        process: to wait for.
        output: file of what it prints.
    """

    process: BaseProcess
    output: Path
    started: float = field(default_factory=time.monotonic)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has ended, nothing."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Its exit status; negative: the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s: {self.printed()}"
        return self.process.exitcode

    def printed(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def start(arguments: list[str], output: Path, conditions: Conditions) -> Child:
    """Start `python -m hired_eval ARGUMENTS`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.child", "tests.faults.warm"])
    process = context.Process(target=_child, args=(arguments, output, conditions))
    process.start()
    return Child(process, output)


def _child(arguments: list[str], output: Path, conditions: Conditions) -> None:
    with output.open("wb") as stream:
        for standard in (1, 2):
            os.dup2(stream.fileno(), standard)
    # a shell that starts the tests in the background has them ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = conditions.data_cache
    if conditions.journal is not None:
        _keep_journal(conditions.journal)
    _slow_down(conditions.slow_disk)
    if conditions.room is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (conditions.room, hard))
    sys.argv = ["hired-eval", *arguments]
    main()


def _keep_journal(journal: Path) -> None:
    attempt = Answerer._attempt

    def noted(self: Answerer, batch: dict[Any, Any], *rest: Any) -> Any:
        assert self.log is not None
        line = json.dumps([[self.log.file.parent.name, *key] for key in batch]) + "\n"
        handle = os.open(journal, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(handle, line.encode())
        os.close(handle)
        return attempt(self, batch, *rest)

    Answerer._attempt = noted  # type: ignore[method-assign]


def _slow_down(seconds: float) -> None:
    flush = os.fsync

    def slow(handle: int) -> None:
        time.sleep(seconds)
        flush(handle)

    os.fsync = slow


def journal_of(file: Path) -> list[list[Key]]:
    """The batches a journal names, each as its questions."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [[tuple(key) for key in json.loads(line)] for line in lines]
