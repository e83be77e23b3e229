"""Pictures read ahead: opened and brought into the vision tower's form in threads, before they are needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Literal, TypeVar

import torch

from hired_eval.dropping import PartitionLayout
from hired_eval.models.family import Picture
from hired_eval.models.prompt import Turn

READ_AHEAD_BYTES = 2**30
MOST_WORKERS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ReadPicture:
    """A picture on its way to the vision tower.

    Attributes:
        digest: of its pixels.
        key: equal for pictures of which the language model gets the same: the digest, and whether the prompt
            has others.
        layout: geometry of its partitions.
        read: gives the partitions; it makes them then, where they were not made ahead.
        nbytes: host memory that it takes.
    """

    digest: str
    key: str
    layout: PartitionLayout
    read: Callable[[], Picture]
    nbytes: int


@dataclass(frozen=True)
class ReadQuestion:
    """A question whose pictures are read.

    Attributes:
        text: the question.
        pictures: in the order of the prompt.
        turns: the conversation, where there is one.
    """

    text: str
    pictures: tuple[ReadPicture, ...] = ()
    turns: tuple[Turn, ...] = ()


def count_workers(asked: int | Literal["auto"], device: torch.device) -> int:
    """Number of threads that read ahead: as asked for, or one less than the cores that the process may use.

    With 'auto', none where the model computes on the CPU: it keeps all cores busy already.
    """
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return 0
    return min(MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) - 1))


class ReadAhead:
    """Threads that do work ahead of need, in order and in bounded memory.

    At most 16 results a thread are begun and not yet fetched, and no more than 1 GiB (`READ_AHEAD_BYTES`) of
    host memory holds where each is as large as the largest so far; but always one more than there are
    threads. The threads end with the `with` block, also where it raises: work that has not begun is given up.

    Args:
        workers: threads; with 0 the work is done where its result is asked for.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._torch_threads = 1

    def __enter__(self) -> ReadAhead:
        if self.workers:
            self._torch_threads = torch.get_num_threads()
            # each of them would start as many of torch's own threads as there are cores
            self._pool = ThreadPoolExecutor(
                self.workers, "reading", initializer=torch.set_num_threads, initargs=(1,)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            # what a thread of the pool sets also counts for threads that are started later
            torch.set_num_threads(self._torch_threads)

    def map(
        self, read: Callable[[Item], Result], items: Iterable[Item], count_bytes: Callable[[Result], int]
    ) -> Iterator[Result]:
        """Results in the order of the items; what reading an item raises is raised in its place.

        The first item is read before any other: some tasks of lmms-eval load a second data set with their
        first picture, and cannot do it twice at once.

        Args:
            read: the work, run in one of the threads.
            items: are taken as they are needed.
            count_bytes: memory of a result.
        """
        if self._pool is None:
            yield from map(read, items)
            return
        items = iter(items)
        waiting: deque[Future[Result]] = deque()
        room, largest = 1, 1
        while True:
            waiting.extend(self._pool.submit(read, item) for item in islice(items, room - len(waiting)))
            if not waiting:
                return
            result = waiting.popleft().result()
            largest = max(largest, count_bytes(result))
            room = max(self.workers + 1, min(READ_AHEAD_BYTES // largest, 16 * self.workers))
            yield result
