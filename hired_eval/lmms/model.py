"""The lmms-eval model: a vision-language model with visual-token dropping."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from huggingface_hub import get_token
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from hired_eval.dropping.registry import build_as_typed
from hired_eval.errors import UserError
from hired_eval.hub import explain_unreachable
from hired_eval.lmms.answerer import Answerer
from hired_eval.lmms.guards import FAULTS
from hired_eval.lmms.options import VLMOptions, find_source, read_typed, unquote
from hired_eval.lmms.requests import ReadRequest, RequestReader, count_bytes, generation_of, keys_of
from hired_eval.models.answering import DroppingVLM
from hired_eval.models.checkpoint import load_checkpoint
from hired_eval.models.configs import Prompt, default_dtype, default_prompt, prompt_named
from hired_eval.models.decoding import read_decoding
from hired_eval.models.images import whole_pictures
from hired_eval.models.pictures import Pictures
from hired_eval.models.reading import ReadAhead, count_workers
from hired_eval.models.visual_tokens import Encoder
from hired_eval.processes import Processes
from hired_eval.records.replies import Reply, RequestKey
from hired_eval.typed import types_of

LOADING = (
    "revision", "device", "device_map", "attention", "quantization", "feature_layer", "min_pixels",
    "max_pixels", "square",
)  # fmt: skip
SECONDS_BETWEEN_LINES = 30
"""Of the progress bar, where it goes to a file and every update is a line of its own."""


class HiredVLM(lmms):  # type: ignore[misc]
    """A checkpoint of any family with a dropping method, registered as `hired_vlm` and `hired_llava`.

    Args:
        pretrained: a folder, an id on the hub, or the name of a model config, e.g. mini, the bundled one.
        method: name of the dropping method.
        options: those of `VLMOptions`, and those of the method, e.g. budget or tokens, and alpha.

    Values may come as lmms-eval reads them off its command line: -2 as -2.0, null as text, and text with the
    quotes that it was put in.

    Raises:
        UserError: a name, an option or the checkpoint is wrong.
    """

    def __init__(self, pretrained: str, method: str = "hired", **options: Any) -> None:
        of_method = {name: options[name] for name in options.keys() - types_of(VLMOptions).keys()}
        own = {name: value for name, value in options.items() if name not in of_method}
        asked = VLMOptions(**read_typed(VLMOptions, own | {"pretrained": pretrained}))
        dropper = build_as_typed(method, unquote(of_method))
        named = str(asked.pretrained)
        source = find_source(named)
        _say_what_is_missing()
        prompt = (
            default_prompt(named, asked.revision)
            if asked.prompt is None
            else Prompt(prompt_named(asked.prompt), "the option prompt")
        )
        dtype = asked.dtype or default_dtype(named, asked.revision)
        logger.info(f"prompt {prompt.template!r} of {prompt.origin}; numbers in {dtype}")
        llava = DroppingVLM(
            load_checkpoint(
                source,
                dtype=dtype,
                fixed_grid=asked.protocol == "fixed_grid",
                **{name: getattr(asked, name) for name in LOADING},
            ),
            dropper,
            prompt.template,
            share_prefix=asked.share_prefix,
            pictures_per_pass=asked.pictures_per_pass,
            decoding=asked.decoding,
        )
        # lmms-eval has seeded torch with its --seed
        seed = torch.initial_seed()
        answerer = Answerer(llava, batch_size=asked.batch_size, on_error=asked.on_error, seed=seed)
        self._start(answerer, asked.workers, ())

    @classmethod
    def around(
        cls,
        own: Answerer,
        companions: Sequence[Answerer] = (),
        *,
        numbers: Sequence[int] | None = None,
        workers: int | Literal["auto"] = 0,
    ) -> HiredVLM:
        """A model of one method that answers for other methods on the way: each picture is encoded once.

        What companions answer goes to their logs. One that fails is left out from there on: the run that it
        belongs to meets its error again.

        Args:
            own: gives lmms-eval its replies.
            companions: methods on the same checkpoint.
            numbers: of the documents in the whole data set, where the task has some of them alone.
            workers: threads that read pictures ahead, see `count_workers`.
        """
        model = cls.__new__(cls)
        model._start(own, workers, companions)
        model.numbers = numbers
        return model

    def _start(self, own: Answerer, workers: int | Literal["auto"], companions: Sequence[Answerer]) -> None:
        super().__init__()
        self.own, self.answerers, self.workers = own, [own, *companions], workers
        self.numbers: Sequence[int] | None = None
        self.make_reader: Callable[[dict[str, Any], Pictures], RequestReader] = RequestReader
        if companions:
            self._share_encoder()

    def _share_encoder(self) -> None:
        """Let the methods encode together, and share the memory that one alone may take."""
        pictures = [answerer.llava.pictures for answerer in self.answerers]
        encoder = Encoder(self.llava.family, [p.stage for p in pictures])
        for answerer in self.answerers:
            answerer.llava.pictures.encoder = encoder
            answerer.effort.together = answerer.llava.prefixes.sharers = len(self.answerers)
            answerer.release = self._release

    def _release(self) -> None:
        for answerer in self.answerers:
            answerer.llava.release()

    def clean(self) -> None:
        """Free memory after a run; lmms-eval's own way collects all garbage, which takes half a second."""
        self._release()

    @property
    def llava(self) -> DroppingVLM:
        """The checkpoint with the dropping method whose replies lmms-eval gets."""
        return self.own.llava

    @property
    def replies(self) -> dict[RequestKey, Reply]:
        """What lmms-eval got."""
        return self.own.replies

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts what its processes exchange."""
        return Processes().device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Generated text for each request, in the order of the requests."""
        return [reply.text for reply in self._replies(requests)]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """(loss, greedy) for each request, in the wrapping that keeps lmms-eval from turning it into text.

        The first number is the mean loss per token: lmms-eval's multiple-choice scoring takes the choice of
        lowest value.
        """
        return [
            GenerationResult((float("inf") if r.loss is None else r.loss, bool(r.greedy)))
            for r in self._replies(requests)
        ]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered: dialogues of several rounds are outside what the paper evaluates.

        Raises:
            UserError: always.
        """
        raise UserError("hired_vlm answers single-round tasks; this task asks for several rounds")

    def _replies(self, requests: list[Instance]) -> list[Reply]:
        """Answer requests in batches of one task and equal generation options, going on from the logs."""
        start, before = time.perf_counter(), sum(a.effort.seconds for a in self.answerers)
        decodings = {repr(options): read_decoding(options) for options in map(generation_of, requests)}
        for remark in dict.fromkeys(remark for d in decodings.values() for remark in d.remarks):
            if self.rank == 0:
                logger.warning(remark)
        sampled = {name for name, d in decodings.items() if d.sampling is not None}
        keys = keys_of(requests, sampled, self.numbers)
        waiting = [a.find_waiting(keys) for a in self.answerers]
        of_any = set[RequestKey]().union(*waiting)
        groups: dict[Hashable, dict[RequestKey, Instance]] = {}
        for key, request in zip(keys, requests, strict=True):
            *_, task, split = request.args
            if key in of_any:
                groups.setdefault((task, split, repr(generation_of(request))), {})[key] = request
        total = len(set(keys)) * len(self.answerers)
        known = total - sum(map(len, waiting))
        pause = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        bar = tqdm(
            total=total,
            initial=known,
            desc="answering",
            unit="q",
            mininterval=pause,
            leave=False,
            # the answers of a run that was answered together with another are there
            disable=self.rank != 0 or known == total,
        )
        workers = count_workers(self.workers, self.llava.model.device)
        reader = self.make_reader(self.task_dict, self.llava.pictures) if groups else None
        with bar, whole_pictures(), ReadAhead(workers) as ahead:
            for members in groups.values():
                assert reader is not None
                self._answer_group(members, waiting, reader, ahead, bar)
        # reading and encoding the pictures is nobody's alone
        shared = time.perf_counter() - start + before - sum(a.effort.seconds for a in self.answerers)
        those = [a for a, lacking in zip(self.answerers, waiting, strict=True) if lacking] or [self.own]
        for answerer in those:
            answerer.effort.seconds += shared / len(those)
        if self.own.stopped_by is not None:
            raise self.own.stopped_by
        return [self.own.replies[key] for key in keys]

    def _answer_group(
        self,
        requests: dict[RequestKey, Instance],
        waiting: list[set[RequestKey]],
        reader: RequestReader,
        ahead: ReadAhead,
        bar: tqdm[None],
    ) -> None:
        """Answer requests of one task and equal generation options, one pass over their pictures for all.

        Args:
            requests: those that any of the answerers lacks.
            waiting: those that each of them lacks.
            reader: reads their pictures.
            ahead: lets it do so ahead of need.
            bar: is moved by each answer.
        """
        first = next(iter(requests.values()))
        generation = generation_of(first) if first.request_type == "generate_until" else None
        for answerer in self.answerers:
            answerer.begin(generation, bar.update, reads_ahead=ahead.workers > 0)
        jobs = ahead.map(reader.read, reader.group(requests), count_bytes)
        while any(a.stopped_by is None for a in self.answerers) and (read := self._next(jobs)):
            self.llava.pictures.encoder.forget()
            for answerer, lacking in zip(self.answerers, waiting, strict=True):
                self._do(answerer, partial(answerer.take, [r for r in read if r.key in lacking]))
        for answerer in self.answerers:
            self._do(answerer, answerer.end)

    def _do(self, answerer: Answerer, work: Callable[[], None]) -> None:
        """An answerer's work, unless it has stopped; what fails in a companion stops that one alone."""
        if answerer.stopped_by is not None:
            return
        try:
            work()
        except UserError as error:
            answerer.stopped_by = error
        except FAULTS as error:
            if answerer is self.own:
                raise
            answerer.stopped_by = error

    def _next(self, jobs: Iterator[list[ReadRequest]]) -> list[ReadRequest]:
        """As many jobs as have their pictures encoded in one pass."""
        at_once = max(answerer.llava.pictures.per_pass for answerer in self.answerers)
        return [request for job in islice(jobs, at_once) for request in job]


def _say_what_is_missing() -> None:
    """Warn of what lmms-eval's tasks will stumble over, whose command line names no cause."""
    if reason := explain_unreachable():
        logger.warning(f"{reason}; lmms-eval's tasks end in a RetryError where their data is not cached")
    elif get_token() is None:
        logger.warning(
            "no login to the hub: many tasks of lmms-eval want one even where the data is public, and end in "
            "a RetryError without; log in with hf auth login, or set HF_TOKEN"
        )


class HiredVLMChat(HiredVLM):
    """The same model in lmms-eval's chat form: a task's messages, by the processor's own chat template.

    lmms-eval takes this form unless it is told --force_simple, and asks it for generated text only. Where a
    prompt is named, or there is no chat template, the prompt is that of the simple form, and messages are one
    turn.

    Args:
        pretrained: as of the simple form.
        prompt: as of the simple form; by default the chat template is used.
        system_prompt: text of a system turn that is put before the messages; none by default.
        options: as of the simple form.

    Raises:
        UserError: as of the simple form.
    """

    is_simple = False

    def __init__(
        self, pretrained: str, prompt: str | None = None, system_prompt: str | None = None, **options: Any
    ) -> None:
        super().__init__(pretrained, prompt=prompt, **options)
        logger.info(
            "lmms-eval's chat form asks for generated text alone; choices by likelihood need --force_simple"
        )
        has_template = bool(getattr(self.llava.processor, "chat_template", None))
        self.make_reader = partial(
            RequestReader, by_template=has_template and prompt is None, system_prompt=system_prompt
        )
        if has_template and prompt is None:
            logger.info("messages are put into the checkpoint's own chat template")
