"""The lmms-eval model: a vision-language model with visual-token dropping."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from datasets import Dataset
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from hired_eval.dropping.registry import build_as_typed
from hired_eval.errors import UserError, first_line
from hired_eval.lmms.documents import Decoded, Documents, read_messages, read_pictures, read_question
from hired_eval.lmms.options import VLMOptions, read_typed, unquote
from hired_eval.models.answering import DroppingVLM, Prepared, Question
from hired_eval.models.batching import batches, windows
from hired_eval.models.checkpoint import load_checkpoint
from hired_eval.models.configs import (
    IMAGES,
    QUESTION,
    Prompt,
    default_dtype,
    default_prompt,
    prompt_named,
)
from hired_eval.models.decoding import read_decoding
from hired_eval.models.images import UNREADABLE, refuse_deep_pictures, whole_pictures
from hired_eval.models.memory import free_bytes, is_out_of_memory
from hired_eval.models.prompt import Turn
from hired_eval.models.reading import ReadAhead, ReadPicture, ReadQuestion, count_workers
from hired_eval.models.visual_tokens import TokenCounts
from hired_eval.processes import Processes
from hired_eval.records.replies import ImageTokens, Reply, ReplyFile, RequestKey
from hired_eval.typed import types_of

LESS_MEMORY = (
    "try fewer tokens (budget), a smaller dtype (model.dtype), quantized weights (model.quantization), "
    "or another device"
)

Answering = Callable[[dict[RequestKey, Prepared], dict[str, Any]], list[Reply]]
Job = list[tuple[RequestKey, Instance]]
"""Requests about the same pictures, which one thread reads."""


@dataclass(frozen=True)
class ReadRequest:
    """A request whose pictures are read, or why they cannot be.

    Attributes:
        key: of the request.
        question: with its pictures.
        continuation: whose likelihood is asked for; empty where a text is to be generated.
    """

    key: RequestKey
    question: ReadQuestion | UserError
    continuation: str = ""


@dataclass(frozen=True)
class OutOfMemory:
    """One time that memory ran out: the batch size that did not fit, and the one tried next."""

    batch_size: int
    retried_with: int


MOST_ROWS = 64
"""Of a batch with batch_size=auto on a GPU, which has enough to do with them."""
MOST_ROWS_ON_CPU = 8
"""Likewise on the CPU, which more rows would make no faster."""
SECONDS_BETWEEN_LINES = 30
"""Of the progress bar, where it goes to a file and every update is a line of its own."""


class HiredVLM(lmms):  # type: ignore[misc]
    """A checkpoint of any family with a dropping method, registered as `hired_vlm` and `hired_llava`.

    Args:
        pretrained: a folder, or an id on the hub.
        method: name of the dropping method.
        batch_size: requests answered together; 'auto': as many as the free memory holds.
        device: 'auto' or a torch device.
        dtype: float32, float16 or bfloat16; by default that of the model config with this hub id, then the
            checkpoint's own.
        prompt: template with {images} and {question}, or the name of a model config whose prompt is used; by
            default the prompt of the model config with this hub id, then the processor's chat template. The
            name of a folder decides nothing.
        revision, device_map, attention, quantization, feature_layer, min_pixels, max_pixels, square: see
            `load_checkpoint`.
        on_error: 'stop' at a sample that fails, or 'record' it and go on.
        share_prefix: prefill the prompt up to the question once for all questions about an image.
        workers: threads that read pictures ahead, see `count_workers`.
        pictures_per_pass: pictures that go through the vision tower together, see `DroppingVLM`.
        options: options of the dropping method, e.g. budget and alpha.

    Values may come as lmms-eval reads them off its command line: -2 as -2.0, null as text, and text with the
    quotes that it was put in.

    Raises:
        UserError: a name, an option or the checkpoint is wrong.
    """

    def __init__(
        self,
        pretrained: str,
        method: str = "hired",
        batch_size: int | Literal["auto"] = 1,
        device: str = "auto",
        dtype: str | None = None,
        prompt: str | None = None,
        revision: str | None = None,
        device_map: str | None = None,
        attention: str = "sdpa",
        quantization: str = "none",
        feature_layer: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        square: int | None = None,
        on_error: str = "stop",
        share_prefix: bool = True,
        workers: int | Literal["auto"] = "auto",
        pictures_per_pass: int | Literal["auto"] = "auto",
        **options: Any,
    ) -> None:
        given = dict(locals())
        own = read_typed(VLMOptions, {name: given[name] for name in types_of(VLMOptions)})
        dropper = build_as_typed(method, unquote(options))
        prompt_used = self._choose_prompt(own)
        of_type = own["dtype"] or default_dtype(own["pretrained"], own["revision"])
        logger.info(f"prompt {prompt_used.template!r} of {prompt_used.origin}; numbers in {of_type}")
        loading = (
            "revision", "device", "device_map", "attention", "quantization", "feature_layer", "min_pixels",
            "max_pixels", "square",
        )  # fmt: skip
        checkpoint = load_checkpoint(
            own["pretrained"], dtype=of_type, **{name: own[name] for name in loading}
        )
        llava = DroppingVLM(
            checkpoint,
            dropper,
            prompt_used.template,
            share_prefix=own["share_prefix"],
            pictures_per_pass=own["pictures_per_pass"],
        )
        # lmms-eval has seeded torch with its --seed
        self._start(llava, own["batch_size"], own["on_error"], None, torch.initial_seed(), own["workers"])

    def _choose_prompt(self, own: dict[str, Any]) -> Prompt:
        """The prompt that is named, or the model config's, or that of the chat template."""
        if own["prompt"] is None:
            return default_prompt(own["pretrained"], own["revision"])
        return Prompt(prompt_named(own["prompt"]), "the option prompt")

    @classmethod
    def around(
        cls,
        llava: DroppingVLM,
        *,
        batch_size: int | Literal["auto"],
        on_error: str = "stop",
        log: ReplyFile | None = None,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        workers: int | Literal["auto"] = 0,
    ) -> HiredVLM:
        """A model around a checkpoint that is loaded already.

        Args:
            llava: the checkpoint with its dropping method.
            batch_size: requests answered together, or 'auto'.
            on_error: 'stop' or 'record'.
            log: where replies are kept as they come.
            seed: of answers that are sampled.
            numbers: of the documents in the whole data set, where the task has some of them alone.
            workers: threads that read pictures ahead, see `count_workers`.
        """
        model = cls.__new__(cls)
        model._start(llava, batch_size, on_error, log, seed, workers)
        model.numbers = numbers
        return model

    def _start(
        self,
        llava: DroppingVLM,
        batch_size: int | Literal["auto"],
        on_error: str,
        log: ReplyFile | None,
        seed: int,
        workers: int | Literal["auto"],
    ) -> None:
        super().__init__()
        self.llava = llava
        self.estimates_rows = batch_size == "auto"
        # at most; fewer where they would not fit
        most = MOST_ROWS if llava.model.device.type == "cuda" else MOST_ROWS_ON_CPU
        self.batch_size: int = most if batch_size == "auto" else batch_size
        self.largest_batch = 0
        self.on_error = on_error
        self.log = log
        self.seed = seed
        self.numbers: Sequence[int] | None = None
        self.workers = workers
        self.replies: dict[RequestKey, Reply] = {}
        self._known_documents: dict[tuple[str, str], Documents] = {}
        self.out_of_memory: list[OutOfMemory] = []

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts what its processes exchange."""
        return Processes().device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Generated text for each request, in the order of the requests."""

        def reply(prepared: dict[RequestKey, Prepared], generation: dict[str, Any]) -> list[Reply]:
            seeds = [_seed(self.seed, key) for key in prepared]
            answers = self.llava.answer(list(prepared.values()), generation, seeds)
            return [
                Reply(
                    text=a.text,
                    counts=_tokens(a.counts),
                    images=a.images,
                    by_layer=a.by_layer,
                    allowed=a.allowed,
                )
                for a in answers
            ]

        return [r.text for r in self._replies(requests, reply)]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """(loss, greedy) for each request, in the wrapping that keeps lmms-eval from turning it into text.

        The first number is the mean loss per token: lmms-eval's multiple-choice scoring takes the choice of
        lowest value.
        """

        def reply(prepared: dict[RequestKey, Prepared], generation: dict[str, Any]) -> list[Reply]:
            scored = self.llava.likelihood(list(prepared.values()))
            return [
                Reply(
                    loss=s.loss,
                    greedy=s.greedy,
                    counts=_tokens(s.counts),
                    images=s.images,
                    by_layer=s.by_layer,
                    allowed=s.allowed,
                )
                for s in scored
            ]

        replies = self._replies(requests, reply)
        return [
            GenerationResult((float("inf") if r.loss is None else r.loss, bool(r.greedy))) for r in replies
        ]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered: dialogues of several rounds are outside what the paper evaluates.

        Raises:
            UserError: always.
        """
        raise UserError("hired_vlm answers single-round tasks; this task asks for several rounds")

    def _replies(self, requests: list[Instance], reply: Answering) -> list[Reply]:
        """Answer requests in batches of one task and equal generation options, going on from the log."""
        decodings = {repr(options): read_decoding(options) for options in map(_generation, requests)}
        for remark in dict.fromkeys(remark for d in decodings.values() for remark in d.remarks):
            if self.rank == 0:
                logger.warning(remark)
        sampled = {name for name, d in decodings.items() if d.sampling is not None}
        keys = _keys(requests, sampled, self.numbers)
        replies = {key: known for key in keys if self.log and (known := self.log.get(key)) is not None}
        waiting = [(k, r) for k, r in zip(keys, requests, strict=True) if k not in replies]
        groups: dict[Hashable, dict[RequestKey, Instance]] = {}
        for key, request in waiting:
            *_, task, split = request.args
            groups.setdefault((task, split, repr(_generation(request))), {})[key] = request
        done = len(replies)
        pause = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        bar = tqdm(
            total=len(set(keys)),
            initial=done,
            desc="answering",
            unit="q",
            mininterval=pause,
            leave=False,
            disable=self.rank != 0,
        )
        workers = count_workers(self.workers, self.llava.model.device)
        with bar, whole_pictures(), ReadAhead(workers) as ahead:
            for members in groups.values():
                for answered in self._group(members, reply, ahead):
                    replies.update(answered)
                    if self.log:
                        self.log.add(answered)
                    bar.update(len(answered))
        self.replies.update(replies)
        return [replies[key] for key in keys]

    def _group(
        self, requests: dict[RequestKey, Instance], reply: Answering, ahead: ReadAhead
    ) -> Iterator[dict[RequestKey, Reply]]:
        """Replies to requests of one task and equal generation options, as they come; then those that failed.

        Raises:
            UserError: a sample failed, and the run is to stop there; the message names its task and document.
        """
        generation = _generation(next(iter(requests.values())))
        failed: dict[RequestKey, Reply] = {}
        stopped_by: list[UserError] = []

        def prepared() -> Iterator[tuple[RequestKey, Prepared]]:
            jobs = ahead.map(self._read_job, self._jobs(requests), _count_bytes)
            while read := [request for job in islice(jobs, self.llava.pictures_per_pass) for request in job]:
                self.llava.encode([r.question for r in read if isinstance(r.question, ReadQuestion)])
                for request in read:
                    try:
                        yield request.key, self._prepared(request)
                    except UserError as error:
                        try:
                            failed[request.key] = self._failure(request.key, error)
                        except UserError as stop:
                            # the questions before it are still answered, so that nothing computed is lost
                            stopped_by.append(stop)
                            return

        most_bytes = free_bytes(self.llava.model.device) // 16
        for window in windows(prepared(), self.batch_size, most_bytes):
            for batch in batches(window, partial(self._count_rows, generation)):
                yield from self._fitting(dict(batch), generation, reply, failed)
        if stopped_by:
            raise stopped_by[0]
        if failed:
            yield failed

    def _count_rows(self, generation: dict[str, Any], longest: int) -> int:
        """How many questions are answered together where the longest has so many tokens."""
        if not self.estimates_rows:
            return self.batch_size
        new = read_decoding(generation).settings.get("max_new_tokens") or 0
        return max(1, min(self.batch_size, self.llava.count_rows_that_fit(longest + new)))

    def _jobs(self, requests: dict[RequestKey, Instance]) -> Iterable[Job]:
        """Requests of one task, those about the same pictures together wherever they are in the benchmark.

        In the order of the first request about each picture.
        """
        *_, task, split = next(iter(requests.values())).args
        documents = self._documents(task, split)
        numbers = list(dict.fromkeys(request.args[3] for request in requests.values()))
        pictures: dict[int, Hashable] = {}
        if isinstance(documents, Documents):
            pictures = dict(zip(numbers, documents.picture_keys(numbers), strict=True))
        jobs: dict[Hashable, Job] = {}
        for key, request in requests.items():
            number = request.args[3]
            jobs.setdefault(pictures.get(number) or number, []).append((key, request))
        return jobs.values()

    def _fitting(
        self,
        batch: dict[RequestKey, Prepared],
        generation: dict[str, Any],
        reply: Answering,
        failed: dict[RequestKey, Reply],
    ) -> Iterator[dict[RequestKey, Reply]]:
        """Replies to a batch, in parts where it does not fit into memory; smaller batches from then on."""
        keys = list(batch)
        done = 0
        while done < len(keys):
            part = keys[done : done + self.batch_size]
            answered = self._attempt({key: batch[key] for key in part}, generation, reply)
            if answered is not None:
                yield answered
                done += len(part)
                continue
            # outside the handler of the error, whose traceback would keep the tensors alive
            self.llava.release()
            if len(part) == 1:
                error = UserError(f"memory ran out with one question; {LESS_MEMORY}")
                failed[part[0]] = self._failure(part[0], error)
                done += 1
                continue
            self.batch_size = len(part) // 2
            self.out_of_memory.append(OutOfMemory(len(part), self.batch_size))
            logger.warning(f"memory ran out with {len(part)} questions; going on with {self.batch_size}")

    def _attempt(
        self, batch: dict[RequestKey, Prepared], generation: dict[str, Any], reply: Answering
    ) -> dict[RequestKey, Reply] | None:
        """Replies to a batch; None where memory ran out."""
        self.largest_batch = max(self.largest_batch, len(batch))
        try:
            return dict(zip(batch, reply(batch, generation), strict=True))
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                return None
            error.add_note("while answering " + ", ".join(f"{k[0]} document {k[1]}" for k in batch))
            raise

    def _failure(self, key: RequestKey, error: UserError) -> Reply:
        """A failed sample's reply, where such samples are recorded.

        Raises:
            UserError: the run is to stop at a sample that fails; the message names its task and document.
        """
        if self.on_error == "stop":
            raise UserError(f"{key[0]} document {key[1]}: {error}") from error
        return Reply(error=str(error))

    def _documents(self, task: str, split: str) -> Any:
        """The documents of a task, by number."""
        dataset = self.task_dict[task][split]
        if not isinstance(dataset, Dataset):
            return dataset
        known = self._known_documents.get((task, split))
        if known is None or known.dataset is not dataset:
            known = self._known_documents[task, split] = Documents(dataset)
        return known

    def _read_job(self, job: Job) -> list[ReadRequest]:
        """Requests about the same pictures with these pictures read, each once."""
        decoded: Decoded = {}
        known: dict[str, ReadPicture] = {}
        return [self._read(key, request, decoded, known) for key, request in job]

    def _read(
        self, key: RequestKey, request: Instance, decoded: Decoded, known: dict[str, ReadPicture]
    ) -> ReadRequest:
        """A request with its pictures read."""
        _, target, _, doc_id, task, split = request.args
        documents = self._documents(task, split)
        try:
            document = (
                documents.read(doc_id, decoded) if isinstance(documents, Documents) else documents[doc_id]
            )
            refuse_deep_pictures(document)
            question = self._question(request, document)
        except UserError as error:
            return ReadRequest(key, error)
        except UNREADABLE as error:
            return ReadRequest(key, UserError(f"its image cannot be read: {first_line(error)}"))
        except SystemExit as error:  # how some tasks say that a file is missing
            return ReadRequest(key, UserError(f"its task gives up: {first_line(error)}"))
        continuation = ""
        if request.request_type == "loglikelihood":
            continuation = target if isinstance(target, str) else str(target(document))
        try:
            return ReadRequest(key, self.llava.read_question(question, known), continuation)
        except UserError as error:
            return ReadRequest(key, error)

    def _question(self, request: Instance, document: Any) -> Question:
        """What a request asks of a document."""
        context, _, doc_to_visual, *_ = request.args
        return Question(read_question(context), read_pictures(doc_to_visual(document)))

    def _prepared(self, request: ReadRequest) -> Prepared:
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
        self.llava.release()
        try:
            return self.llava.prepare(request.question, request.continuation)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(f"memory ran out while its image was encoded; {LESS_MEMORY}") from error


class HiredVLMChat(HiredVLM):
    """The same model in lmms-eval's chat form: a task's messages, by the processor's own chat template.

    lmms-eval takes this form unless it is told --force_simple, and asks it for generated text only.

    Args:
        pretrained: as of the simple form.
        system_prompt: text of a system turn that is put before the messages; none by default.
        options: as of the simple form, but for the prompt.

    Raises:
        UserError: as of the simple form, or a prompt is named, or there is no chat template.
    """

    is_simple = False

    def __init__(self, pretrained: str, system_prompt: str | None = None, **options: Any) -> None:
        super().__init__(pretrained, **options)
        if not getattr(self.llava.processor, "chat_template", None):
            raise UserError(f"{pretrained} has no chat template; take the simple form, with --force_simple")
        self.first = () if system_prompt is None else (Turn("system", (system_prompt,)),)

    def _choose_prompt(self, own: dict[str, Any]) -> Prompt:
        """None: the chat template makes it.

        Raises:
            UserError: a prompt is named.
        """
        if own["prompt"] is not None:
            raise UserError(
                "the option prompt is one of the simple form, and the chat form takes the checkpoint's chat "
                "template; leave prompt out, or add --force_simple"
            )
        return Prompt(IMAGES + QUESTION, "the chat template, which makes it of messages")

    def _question(self, request: Instance, document: Any) -> Question:
        """The task's messages about a document."""
        turns, pictures = read_messages(request.args[1](document))
        asked = "\n".join(part for turn in turns if turn.role == "user" for part in turn.parts if part)
        return Question(asked, pictures, (*self.first, *turns))


def _count_bytes(read: list[ReadRequest]) -> int:
    """Host memory of the pictures of requests, one picture counted once."""
    questions = [r.question for r in read if isinstance(r.question, ReadQuestion)]
    return sum({p.key: p.nbytes for q in questions for p in q.pictures}.values())


def _tokens(counts: Sequence[TokenCounts]) -> tuple[ImageTokens, ...]:
    """Token counts as they are written down."""
    return tuple(ImageTokens(*astuple(c)) for c in counts)


def _keys(requests: list[Instance], sampled: set[str], numbers: Sequence[int] | None) -> list[RequestKey]:
    """What tells each request from all others.

    lmms-eval asks for repeated answers with the same request, several times over. Where answers are sampled,
    each time is a draw of its own; elsewhere one answer is all of them.

    Args:
        requests: in lmms-eval's order.
        sampled: generation options, as `repr` writes them, with which answers are sampled.
        numbers: see `HiredVLM.around`.
    """
    times: Counter[int] = Counter()
    keys = []
    for request in requests:
        _, _, _, doc_id, task, _ = request.args
        draw = times[id(request)] if repr(_generation(request)) in sampled else 0
        times[id(request)] += 1
        keys.append((task, doc_id if numbers is None else numbers[doc_id], request.idx, draw))
    return keys


def _seed(seed: int, key: RequestKey) -> int:
    """The seed of one draw, which depends on the run's seed and the request alone."""
    return int.from_bytes(hashlib.sha256(repr((seed, *key)).encode()).digest()[:7])


def _generation(request: Instance) -> dict[str, Any]:
    """Generation options of a request; none where a likelihood is asked for."""
    if request.request_type != "generate_until":
        return {}
    # behind the messages in the chat form
    _, first, second, *_ = request.args
    options: dict[str, Any] = second if isinstance(second, dict) else first
    return options
