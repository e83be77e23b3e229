"""The lmms-eval model: LLaVA with visual-token dropping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.llava.answering import DroppingLlava, Prepared, Question
from hired_eval.llava.checkpoint import load_checkpoint
from hired_eval.models import defaults_for, prompt_named
from hired_eval.replies import Reply, ReplyFile, RequestKey


class HiredLlava(lmms):  # type: ignore[misc]
    """LLaVA-1.5, ShareGPT4V and LLaVA-Next checkpoints with a dropping method, registered as `hired_llava`.

    Args:
        pretrained: a folder, or an id on the hub.
        method: name of the dropping method.
        batch_size: requests answered together.
        device: 'auto' or a torch device.
        dtype: float32, float16 or bfloat16; by default what the model's config names.
        prompt: template with {images} and {question}, or the name of a model config whose prompt is used; by
            default the prompt of the model config with this hub id, then the processor's chat template.
        revision, device_map, attention, quantization, feature_layer: see `load_checkpoint`.
        on_error: 'stop' at a sample that fails, or 'record' it and go on.
        options: options of the dropping method, e.g. budget and alpha.

    Raises:
        UserError: a name, an option or the checkpoint is wrong.
    """

    def __init__(
        self,
        pretrained: str,
        method: str = "hired",
        batch_size: int | str = 1,
        device: str = "auto",
        dtype: str | None = None,
        prompt: str | None = None,
        revision: str | None = None,
        device_map: str | None = None,
        attention: str = "sdpa",
        quantization: str = "none",
        feature_layer: int | None = None,
        on_error: str = "stop",
        **options: Any,
    ) -> None:
        defaults = defaults_for(pretrained)
        dropper = build(method, **options)
        checkpoint = load_checkpoint(
            pretrained,
            revision=revision,
            dtype=dtype or defaults.dtype,
            device=device,
            device_map=device_map,
            attention=attention,
            quantization=quantization,
            feature_layer=feature_layer,
        )
        template = prompt_named(prompt) if prompt else defaults.prompt
        self._start(DroppingLlava(checkpoint, dropper, template), _whole(batch_size), on_error, None)

    @classmethod
    def around(
        cls, llava: DroppingLlava, *, batch_size: int, on_error: str = "stop", log: ReplyFile | None = None
    ) -> HiredLlava:
        """A model around a checkpoint that is loaded already.

        Args:
            llava: the checkpoint with its dropping method.
            batch_size: requests answered together.
            on_error: 'stop' or 'record'.
            log: where replies are kept as they come.
        """
        model = cls.__new__(cls)
        model._start(llava, batch_size, on_error, log)
        return model

    def _start(self, llava: DroppingLlava, batch_size: int, on_error: str, log: ReplyFile | None) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if on_error not in ("stop", "record"):
            raise UserError(f"on_error must be 'stop' or 'record', got {on_error!r}")
        self.llava = llava
        self.batch_size = batch_size
        self.on_error = on_error
        self.log = log
        self.replies: dict[RequestKey, Reply] = {}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Generated text for each request, in the order of the requests."""

        def reply(prepared: list[Prepared], generation: dict[str, Any]) -> list[Reply]:
            answers = self.llava.answer(prepared, generation)
            return [Reply(text=a.text, counts=a.counts, images=a.images) for a in answers]

        return [r.text for r in self._replies(requests, reply)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(loss, greedy) for each request.

        The first number is the mean loss per token: lmms-eval's multiple-choice scoring takes the choice of
        lowest value.
        """

        def reply(prepared: list[Prepared], generation: dict[str, Any]) -> list[Reply]:
            scored = self.llava.likelihood(prepared)
            return [Reply(loss=s.loss, greedy=s.greedy, counts=s.counts, images=s.images) for s in scored]

        replies = self._replies(requests, reply)
        return [(float("inf") if r.loss is None else r.loss, bool(r.greedy)) for r in replies]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered: dialogues of several rounds are outside what the paper evaluates.

        Raises:
            UserError: always.
        """
        raise UserError("hired_llava answers single-round tasks; this task asks for several rounds")

    def _replies(
        self,
        requests: list[Instance],
        reply: Callable[[list[Prepared], dict[str, Any]], list[Reply]],
    ) -> list[Reply]:
        """Answer requests in batches of equal generation options, going on from the log if there is one."""
        keys = [_key(r) for r in requests]
        replies = {key: known for key in keys if self.log and (known := self.log.get(key)) is not None}
        waiting = [(k, r) for k, r in zip(keys, requests, strict=True) if k not in replies]
        groups: dict[str, list[tuple[RequestKey, Instance]]] = {}
        for key, request in waiting:
            groups.setdefault(repr(_generation(request)), []).append((key, request))
        with tqdm(
            total=len(requests), initial=len(requests) - len(waiting), desc="answering", unit="q"
        ) as bar:
            for members in groups.values():
                for start in range(0, len(members), self.batch_size):
                    batch = dict(members[start : start + self.batch_size])
                    answered = self._answer_batch(batch, reply)
                    replies.update(answered)
                    if self.log:
                        self.log.add(answered)
                    bar.update(len(batch))
        self.replies.update(replies)
        return [replies[key] for key in keys]

    def _answer_batch(
        self,
        batch: dict[RequestKey, Instance],
        reply: Callable[[list[Prepared], dict[str, Any]], list[Reply]],
    ) -> dict[RequestKey, Reply]:
        """Replies of a batch; where a sample fails, on_error says whether the run stops.

        Raises:
            UserError: a sample failed; the message names its task and document.
        """
        prepared: dict[RequestKey, Prepared] = {}
        replies: dict[RequestKey, Reply] = {}
        for key, request in batch.items():
            try:
                prepared[key] = self._prepared(request)
            except UserError as error:
                if self.on_error == "stop":
                    raise UserError(f"{key[0]} document {key[1]}: {error}") from error
                replies[key] = Reply(error=str(error))
        if prepared:
            generation = _generation(next(iter(batch.values())))
            try:
                answered = reply(list(prepared.values()), generation)
            except (RuntimeError, ValueError, IndexError) as error:
                error.add_note("while answering " + ", ".join(f"{k[0]} document {k[1]}" for k in prepared))
                raise
            replies.update(zip(prepared, answered, strict=True))
        return replies

    def _prepared(self, request: Instance) -> Prepared:
        """A request's question with its images encoded.

        Raises:
            UserError: the document's images cannot be used.
        """
        context, target, doc_to_visual, doc_id, task, split = request.args
        document = self.task_dict[task][split][doc_id]
        try:
            visuals = doc_to_visual(document)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"its image cannot be read: {error}") from error
        question = Question(context, tuple(visuals or ()))
        if request.request_type != "loglikelihood":
            return self.llava.prepare(question)
        return self.llava.prepare(question, target if isinstance(target, str) else str(target(document)))


def _key(request: Instance) -> RequestKey:
    _, _, _, doc_id, task, _ = request.args
    return task, doc_id, request.idx


def _generation(request: Instance) -> dict[str, Any]:
    """Generation options of a request; none where a likelihood is asked for."""
    return request.args[1] if request.request_type == "generate_until" else {}


def _whole(batch_size: int | str) -> int:
    try:
        return int(batch_size)
    except ValueError as error:
        raise UserError(f"batch_size must be a whole number, got {batch_size!r}") from error
