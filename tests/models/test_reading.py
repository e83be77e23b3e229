"""Pictures are read ahead in threads, each once, in bounded memory; answers do not depend on it."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from hired_eval import Full, HiRED
from hired_eval.errors import UserError
from hired_eval.lmms.answerer import Answerer, as_written
from hired_eval.lmms.model import HiredVLM
from hired_eval.models import answering, reading
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.reading import ReadAhead, count_workers
from hired_eval.records.replies import Reply
from tests import tiny
from tests.models.test_batching import PROMPT, requests_for

PICTURES = [tiny.picture(40 + 50 * i, 220 - 40 * i, seed=i) for i in range(5)]


def png(picture: Image.Image) -> dict[str, Any]:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def dataset(pictures: list[dict[str, Any] | None]) -> datasets.Dataset:
    rows = [{"question": "how" * (i * 7 % 5) + f"{i}?", "image": p} for i, p in enumerate(pictures)]
    features = {"question": datasets.Value("string"), "image": datasets.Image()}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


@pytest.fixture(scope="module")
def documents() -> datasets.Dataset:
    """Like POPE: every picture comes back far from where it was; one document has none."""
    files = [png(picture) for picture in PICTURES]
    return dataset([*files, *files[::-1], None, *files])


def show(document: dict[str, Any]) -> list[Image.Image]:
    return [] if document["image"] is None else [document["image"].convert("RGB")]


def model_for(
    checkpoint: tuple[Any, Any],
    documents: datasets.Dataset,
    *,
    per_pass: int = 1,
    workers: int = 0,
    **options: Any,
) -> tuple[HiredVLM, list[Any]]:
    llava = DroppingVLM(Checkpoint(*checkpoint), HiRED(budget=0.4), PROMPT, pictures_per_pass=per_pass)
    model = HiredVLM.around(Answerer(llava, batch_size=3, **options), workers=workers)
    requests, _ = requests_for([{"question": question} for question in documents["question"]])
    for request in requests:
        context, generation, _, *which = request.args
        request.arguments = (context, generation, show, *which)
    model.task_dict = {"task": {"test": documents}}
    return model, requests


def replies_of(model: HiredVLM, requests: list[Any]) -> list[Reply]:
    model.generate_until(requests)
    return [model.replies[("task", i, 0, 0)] for i in range(len(requests))]


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reading")]


@pytest.fixture(scope="module")
def one_by_one(llava_next: tuple[Any, Any], documents: datasets.Dataset) -> list[Reply]:
    """Each question by itself, its picture read where it is asked for."""
    replies = []
    for document in documents:
        llava = DroppingVLM(Checkpoint(*llava_next), HiRED(budget=0.4), PROMPT)
        prepared = llava.prepare(Question(document["question"], tuple(show(document))))
        (answer,) = llava.answer([prepared], {"max_new_tokens": 5})
        counts = tuple(as_written(answer.counts))
        replies.append(Reply(text=answer.text, counts=counts, images=answer.images))
    return replies


@contextmanager
def tower_passes(checkpoint: tuple[Any, Any]) -> Iterator[list[int]]:
    """The partitions of each pass of the vision tower."""
    passes: list[int] = []
    handle = checkpoint[0].model.vision_tower.embeddings.register_forward_hook(
        lambda module, args, output: passes.append(len(output))
    )
    try:
        yield passes
    finally:
        handle.remove()


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_replies_are_the_same_with_any_number_of_workers(
    workers: int, llava_next: tuple[Any, Any], documents: datasets.Dataset, one_by_one: list[Reply]
) -> None:
    model, requests = model_for(llava_next, documents, workers=workers)
    with tower_passes(llava_next) as passes:
        assert replies_of(model, requests) == one_by_one
    assert len(passes) == len(PICTURES), "each picture goes through the tower once"
    assert len({reply.text for reply in one_by_one}) > 3, "answers must depend on the document"
    assert not reading_threads()


def test_several_pictures_share_a_pass(
    llava_next: tuple[Any, Any], documents: datasets.Dataset, one_by_one: list[Reply]
) -> None:
    model, requests = model_for(llava_next, documents, per_pass=3, workers=2)
    with tower_passes(llava_next) as passes:
        assert replies_of(model, requests) == one_by_one
    partitions = [count.layout.partitions for count in model.llava.pictures._remembered.values()]
    assert sorted(passes) == sorted([sum(partitions[:3]), sum(partitions[3:])])


def test_a_pass_that_does_not_fit_is_halved(
    llava_next: tuple[Any, Any], documents: datasets.Dataset, one_by_one: list[Reply]
) -> None:
    def refuse(module: Any, args: Any) -> None:
        if len(args[0]) > 12:
            raise torch.OutOfMemoryError("out of memory")

    handle = llava_next[0].model.vision_tower.embeddings.register_forward_pre_hook(refuse)
    try:
        model, requests = model_for(llava_next, documents, per_pass=5)
        assert replies_of(model, requests) == one_by_one
    finally:
        handle.remove()
    assert model.llava.pictures.per_pass == 2


@pytest.mark.parametrize("workers", [0, 3])
def test_a_picture_that_cannot_be_read_fails_its_documents_alone(
    workers: int, llava_next: tuple[Any, Any], documents: datasets.Dataset, one_by_one: list[Reply]
) -> None:
    damaged = {"bytes": png(PICTURES[0])["bytes"][:60], "path": None}
    files = documents.cast_column("image", datasets.Image(decode=False))["image"]
    broken = dataset([damaged if i in (2, 7) else file for i, file in enumerate(files)])
    model, requests = model_for(llava_next, broken, workers=workers, on_error="record", per_pass=2)
    replies = replies_of(model, requests)
    assert [i for i, reply in enumerate(replies) if reply.error] == [2, 7]
    assert "its image cannot be read" in str(replies[2].error)
    assert [r for r in replies if not r.error] == [r for i, r in enumerate(one_by_one) if i not in (2, 7)]
    model, requests = model_for(llava_next, broken, workers=workers)
    with pytest.raises(UserError, match="task document 2: its image cannot be read"):
        model.generate_until(requests)
    assert not reading_threads()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_hangs_when_answering_raises(
    error: type[BaseException],
    llava_next: tuple[Any, Any],
    documents: datasets.Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any) -> None:
        raise error("stopped")

    before = torch.get_num_threads()
    monkeypatch.setattr(DroppingVLM, "answer", fail)
    model, requests = model_for(llava_next, documents, workers=2)
    with pytest.raises(error, match="stopped"):
        model.generate_until(requests)
    assert not reading_threads()
    assert torch.get_num_threads() == before


def test_reading_is_bounded_where_answering_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READ_AHEAD_BYTES", 50)
    begun: list[int] = []
    furthest = 0
    with ReadAhead(2) as ahead:
        for i, result in enumerate(ahead.map(lambda i: begun.append(i) or i, range(100), lambda result: 10)):
            assert result == i
            if i < 5:
                time.sleep(0.02)  # time for the threads to run as far ahead as they may
            furthest = max(furthest, len(begun) - i)
    assert sorted(begun) == list(range(100))
    assert 2 < furthest <= 6


def test_the_first_is_read_alone_and_errors_come_in_their_place() -> None:
    done = threading.Event()

    def read(i: int) -> int:
        if i == 0:
            time.sleep(0.05)
            done.set()
        elif not done.is_set():
            raise AssertionError("the first was not finished")
        if i == 4:
            raise ValueError("the fifth")
        return i

    with ReadAhead(3) as ahead:
        results = ahead.map(read, range(9), lambda result: 1)
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="the fifth"):
            next(results)


def test_workers_are_as_asked_for_or_none_without_a_gpu() -> None:
    assert count_workers(3, torch.device("cpu")) == 3
    assert count_workers("auto", torch.device("cpu")) == 0
    assert 1 <= count_workers("auto", torch.device("cuda")) <= 16


def test_the_batch_size_follows_the_free_memory(
    llava_next: tuple[Any, Any],
    documents: datasets.Dataset,
    one_by_one: list[Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    stock = DroppingVLM.answer
    monkeypatch.setattr(
        DroppingVLM, "answer", lambda self, batch, *a: sizes.append(len(batch)) or stock(self, batch, *a)
    )
    text = llava_next[0].config.text_config
    # keys and values of two layers; eight tensors of the width and three of the MLP's; in float32
    a_token = 4 * (2 * 2 * text.num_key_value_heads * 12 + 8 * 48 + 3 * 96)
    longest = 100
    monkeypatch.setattr(answering, "free_bytes", lambda device: 5 * longest * a_token // 2)
    llava = DroppingVLM(Checkpoint(*llava_next), HiRED(budget=0.4), PROMPT)
    assert llava.count_rows_that_fit(longest) == 2
    assert llava.count_rows_that_fit(longest // 2) == 4
    assert llava.count_rows_that_fit(3 * longest) == 0
    for free, expected in ((5 * longest * a_token // 2, range(2, 6)), (1, range(1, 2)), (2**40, range(8, 9))):
        monkeypatch.setattr(answering, "free_bytes", lambda device, free=free: free)
        model, requests = model_for(llava_next, documents)
        model = HiredVLM.around(Answerer(model.llava, batch_size="auto"))
        model.task_dict = {"task": {"test": documents}}
        sizes.clear()
        assert replies_of(model, requests) == one_by_one
        assert max(sizes) == model.own.effort.largest_batch
        assert max(sizes) in expected


def test_a_method_that_refuses_a_picture_in_a_pass_names_its_document(
    llava_next: tuple[Any, Any], documents: datasets.Dataset
) -> None:
    class Choosy(Full):
        def drop(self, encoding: Any, layouts: Any) -> Any:
            if PICTURES[3].size[::-1] in [layout.image_size for layout in layouts]:
                raise UserError("not this one")
            return super().drop(encoding, layouts)

    model, requests = model_for(llava_next, documents, per_pass=5, on_error="record")
    model.llava.pictures.stage = Choosy()
    errors = {i: reply.error for i, reply in enumerate(replies_of(model, requests)) if reply.error}
    assert errors == dict.fromkeys([3, 6, 14], "not this one")
