"""One method's answers to requests, in batches as their pictures come, every reply kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal

from loguru import logger

from hired_eval.errors import UserError
from hired_eval.lmms.requests import ReadRequest
from hired_eval.models.answering import DroppingVLM, Prepared
from hired_eval.models.batching import Window, batches
from hired_eval.models.decoding import read_decoding
from hired_eval.models.memory import free_bytes, is_out_of_memory
from hired_eval.models.reading import ReadQuestion
from hired_eval.models.visual_tokens import TokenCounts
from hired_eval.records.replies import ImageTokens, Reply, ReplyFile, RequestKey

LESS_MEMORY = (
    "try fewer tokens (budget), a smaller dtype (model.dtype), quantized weights (model.quantization), "
    "or another device"
)
MOST_ROWS = 64
"""Of a batch with batch_size=auto on a GPU, which has enough to do with them."""
MOST_ROWS_ON_CPU = 8
"""Likewise on the CPU, which more rows would make no faster."""


@dataclass(frozen=True)
class OutOfMemory:
    """One time that memory ran out: the batch size that did not fit, and the one tried next."""

    batch_size: int
    retried_with: int


@dataclass
class Effort:
    """What a run's answers took, over all passes of a process.

    Attributes:
        seconds: of the language model, and a share of what reading and encoding the pictures took.
        answered: requests that were answered.
        largest_batch: questions that were answered together.
        out_of_memory: each time that memory ran out.
        together: how many runs were answered in one pass over the pictures.
    """

    seconds: float = 0.0
    answered: set[RequestKey] = field(default_factory=set)
    largest_batch: int = 0
    out_of_memory: list[OutOfMemory] = field(default_factory=list)
    together: int = 1


class Answerer:
    """Takes requests with their pictures read, and answers them when a window of them is full.

    Args:
        llava: the checkpoint with its dropping method.
        batch_size: requests answered together, or 'auto'.
        on_error: 'stop' or 'record'.
        log: where replies are kept as they come.
        seed: of answers that are sampled.
        effort: is added to.

    Attributes:
        replies: to all requests that were asked for, earlier attempts included.
        stopped_by: what ended its answers before the last.
        release: frees memory where it ran out.
    """

    def __init__(
        self,
        llava: DroppingVLM,
        *,
        batch_size: int | Literal["auto"] = 1,
        on_error: str = "stop",
        log: ReplyFile | None = None,
        seed: int = 0,
        effort: Effort | None = None,
    ) -> None:
        self.llava, self.on_error, self.log, self.seed = llava, on_error, log, seed
        self.effort = Effort() if effort is None else effort
        self.estimates_rows = batch_size == "auto"
        # at most; fewer where they would not fit
        most = MOST_ROWS if llava.model.device.type == "cuda" else MOST_ROWS_ON_CPU
        self.batch_size: int = most if batch_size == "auto" else batch_size
        self.replies: dict[RequestKey, Reply] = {}
        self.stopped_by: Exception | None = None
        self.release: Callable[[], None] = llava.release
        self._failed: dict[RequestKey, Reply] = {}

    def find_waiting(self, keys: Iterable[RequestKey]) -> set[RequestKey]:
        """The requests that the log has no reply to; the other replies are taken from it."""
        waiting = set()
        for key in keys:
            known = self.log.get(key) if self.log else None
            if known is None:
                waiting.add(key)
            else:
                self.replies[key] = known
        return waiting

    def begin(
        self, generation: dict[str, Any] | None, tell: Callable[[int], object], *, reads_ahead: bool
    ) -> None:
        """Requests of one task and equal generation options follow.

        Args:
            generation: options; None where likelihoods are asked for.
            tell: is told of each batch how many requests it answered.
            reads_ahead: whether pictures are read while others are answered.
        """
        self._generation, self._tell = generation, tell
        most_bytes = free_bytes(self.llava.model.device) // 16 // self.llava.prefixes.sharers
        self._window: Window[RequestKey] = Window(self.batch_size, most_bytes, reads_ahead=reads_ahead)

    def take(self, requests: Sequence[ReadRequest]) -> None:
        """Encode the pictures of requests, and answer those before them where their window is full.

        Raises:
            UserError: a sample failed, and the run is to stop there; the message names its task and document.
                The questions before it are still answered, so that nothing computed is lost.
        """
        self.llava.pictures.encode([r.question for r in requests if isinstance(r.question, ReadQuestion)])
        for request in requests:
            try:
                prepared = self._prepare(request)
            except UserError as error:
                try:
                    self._failed[request.key] = self._failure(request.key, error)
                except UserError:
                    self._answer(self._window.end())
                    raise
            else:
                self._answer(self._window.add(request.key, prepared))

    def end(self) -> None:
        """Answer what is left, and keep those that failed.

        Raises:
            UserError: as `take`.
        """
        self._answer(self._window.end())
        self._keep(self._failed)
        self._failed = {}

    def _keep(self, replies: dict[RequestKey, Reply]) -> None:
        if replies:
            self.replies.update(replies)
            self.effort.answered.update(replies)
            if self.log:
                self.log.add(replies)
            self._tell(len(replies))

    def _answer(self, window: Sequence[tuple[RequestKey, Prepared]]) -> None:
        for batch in batches(window, self._count_rows):
            self._answer_what_fits(dict(batch))

    def _count_rows(self, longest: int) -> int:
        """How many questions are answered together where the longest has so many tokens."""
        if not self.estimates_rows:
            return self.batch_size
        new = read_decoding(self._generation or {}).settings.get("max_new_tokens") or 0
        return max(1, min(self.batch_size, self.llava.count_rows_that_fit(longest + new)))

    def _answer_what_fits(self, batch: dict[RequestKey, Prepared]) -> None:
        """Answer a batch, in parts where it does not fit into memory; smaller batches from then on."""
        keys = list(batch)
        done = 0
        while done < len(keys):
            part = keys[done : done + self.batch_size]
            answered = self._attempt({key: batch[key] for key in part})
            if answered is not None:
                self._keep(answered)
                done += len(part)
                continue
            # outside the handler of the error, whose traceback would keep the tensors alive
            self.release()
            if len(part) == 1:
                error = UserError(f"memory ran out with one question; {LESS_MEMORY}")
                self._failed[part[0]] = self._failure(part[0], error)
                done += 1
                continue
            self.batch_size = len(part) // 2
            self.effort.out_of_memory.append(OutOfMemory(len(part), self.batch_size))
            logger.warning(f"memory ran out with {len(part)} questions; going on with {self.batch_size}")

    def _attempt(self, batch: dict[RequestKey, Prepared]) -> dict[RequestKey, Reply] | None:
        """Replies to a batch; None where memory ran out."""
        self.effort.largest_batch = max(self.effort.largest_batch, len(batch))
        start = time.perf_counter()
        try:
            return dict(zip(batch, self._reply(batch), strict=True))
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                return None
            error.add_note("while answering " + ", ".join(f"{k[0]} document {k[1]}" for k in batch))
            raise
        finally:
            self.effort.seconds += time.perf_counter() - start

    def _reply(self, batch: dict[RequestKey, Prepared]) -> list[Reply]:
        prepared = list(batch.values())
        if self._generation is None:
            return [
                Reply(**vars(scored) | {"counts": as_written(scored.counts)})
                for scored in self.llava.likelihood(prepared)
            ]
        seeds = [_seed(self.seed, key) for key in batch]
        return [
            Reply(**vars(answer) | {"counts": as_written(answer.counts)})
            for answer in self.llava.answer(prepared, self._generation, seeds)
        ]

    def _failure(self, key: RequestKey, error: UserError) -> Reply:
        """A failed sample's reply, where such samples are recorded.

        Raises:
            UserError: the run is to stop at a sample that fails; the message names its task and document.
        """
        if self.on_error == "stop":
            raise UserError(f"{key[0]} document {key[1]}: {error}") from error
        return Reply(error=str(error))

    def _prepare(self, request: ReadRequest) -> Prepared:
        """A request's question with its images encoded.

        Raises:
            UserError: the document's images cannot be used.
        """
        if isinstance(request.question, UserError):
            raise request.question
        try:
            return self.llava.prepare(request.question, request.continuation)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self.release()
        try:
            return self.llava.prepare(request.question, request.continuation)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(f"memory ran out while its image was encoded; {LESS_MEMORY}") from error


def as_written(counts: Sequence[TokenCounts]) -> tuple[ImageTokens, ...]:
    """Token counts as they are written down."""
    return tuple(ImageTokens(*astuple(c)) for c in counts)


def _seed(seed: int, key: RequestKey) -> int:
    """The seed of one draw, which depends on the run's seed and the request alone."""
    return int.from_bytes(hashlib.sha256(repr((seed, *key)).encode()).digest()[:7])
