"""Requests of lmms-eval: what tells them apart, which belong together, and their pictures read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from lmms_eval.api.instance import Instance

from hired_eval.errors import UserError, first_line
from hired_eval.lmms.documents import (
    Decoded,
    Documents,
    read_messages,
    read_pictures,
    read_question,
    read_single_turn,
)
from hired_eval.models.images import UNREADABLE, refuse_deep_pictures
from hired_eval.models.pictures import KnownPicture, Pictures
from hired_eval.models.prompt import Turn
from hired_eval.models.reading import ReadQuestion
from hired_eval.records.replies import RequestKey

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


class RequestReader:
    """Reads the pictures of requests.

    Args:
        task_dict: documents by task and split, as lmms-eval gives them to a model.
        pictures: of any of the methods that are asked.
        by_template: in the chat form, messages go into the chat template; by default the prompt has room for
            one turn of them.
        system_prompt: text of a system turn before the messages.
    """

    def __init__(
        self,
        task_dict: Mapping[str, Any],
        pictures: Pictures,
        *,
        by_template: bool = False,
        system_prompt: str | None = None,
    ) -> None:
        self.task_dict, self.pictures, self.by_template = task_dict, pictures, by_template
        self.first = () if system_prompt is None else (Turn("system", (system_prompt,)),)
        self._known: dict[tuple[str, str], Documents] = {}

    def group(self, requests: dict[RequestKey, Instance]) -> Iterable[Job]:
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

    def _documents(self, task: str, split: str) -> Any:
        """The documents of a task, by number."""
        dataset = self.task_dict[task][split]
        if not isinstance(dataset, Dataset):
            return dataset
        known = self._known.get((task, split))
        if known is None:
            known = self._known[task, split] = Documents(dataset)
        return known

    def read(self, job: Job) -> list[ReadRequest]:
        """Requests about the same pictures with these pictures read, each once."""
        decoded: Decoded = {}
        known: list[KnownPicture] = []
        return [self._read_one(key, request, decoded, known) for key, request in job]

    def _read_one(
        self, key: RequestKey, request: Instance, decoded: Decoded, known: list[KnownPicture]
    ) -> ReadRequest:
        """A request with its pictures read."""
        context, target, doc_to_visual, doc_id, task, split = request.args
        messages = None
        documents = self._documents(task, split)
        try:
            document = (
                documents.read(doc_id, decoded) if isinstance(documents, Documents) else documents[doc_id]
            )
            refuse_deep_pictures(document)
            if in_chat_form(request):
                messages = request.args[1](document)
            else:
                visuals = doc_to_visual(document)
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
            turns: tuple[Turn, ...] = ()
            if messages is None:
                asked, shown = read_question(context), tuple(read_pictures(visuals))
            else:
                turns, shown = read_messages(messages)
                turns = (*self.first, *turns)
                if self.by_template:
                    texts = (part for turn in turns if turn.role == "user" for part in turn.parts)
                    asked = "\n".join(text for text in texts if text)
                else:
                    asked, turns = read_single_turn(turns), ()
            read = self.pictures.read_question(asked, shown, known, turns)
            return ReadRequest(key, read, continuation)
        except UserError as error:
            return ReadRequest(key, error)


def count_bytes(read: list[ReadRequest]) -> int:
    """Host memory of the pictures of requests, one picture counted once."""
    questions = [r.question for r in read if isinstance(r.question, ReadQuestion)]
    return sum({p.key: p.nbytes for q in questions for p in q.pictures}.values())


def keys_of(
    requests: list[Instance], sampled: set[str], numbers: Sequence[int] | None = None
) -> list[RequestKey]:
    """What tells each request from all others.

    lmms-eval asks for repeated answers with the same request, several times over. Where answers are sampled,
    each time is a draw of its own; elsewhere one answer is all of them.

    Args:
        requests: in lmms-eval's order.
        sampled: generation options, as `repr` writes them, with which answers are sampled.
        numbers: of the documents in the whole data set, where the task has some of them alone.
    """
    times: Counter[int] = Counter()
    keys = []
    for request in requests:
        _, _, _, doc_id, task, _ = request.args
        draw = times[id(request)] if repr(generation_of(request)) in sampled else 0
        times[id(request)] += 1
        keys.append((task, doc_id if numbers is None else numbers[doc_id], request.idx, draw))
    return keys


def generation_of(request: Instance) -> dict[str, Any]:
    """Generation options of a request; none where a likelihood is asked for."""
    if request.request_type != "generate_until":
        return {}
    options: dict[str, Any] = request.args[2 if in_chat_form(request) else 1]
    return options


def in_chat_form(request: Instance) -> bool:
    """Whether a request has a task's messages in place of a question and its pictures."""
    return isinstance(request.args[2], dict)
