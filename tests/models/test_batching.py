"""Order and size of batches: answers do not depend on them, and memory that runs out makes them smaller."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lmms_eval.api.instance import Instance

from hired_eval import Full, PartitionLayout
from hired_eval.dropping import PackedTokens
from hired_eval.errors import UserError
from hired_eval.lmms.answerer import Answerer, OutOfMemory
from hired_eval.lmms.model import HiredVLM
from hired_eval.models.answering import DroppingVLM, Prepared, Question
from hired_eval.models.batching import BATCHES_A_WINDOW, Window, batches
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.visual_tokens import TokenCounts, VisualTokens
from tests import tiny

PROMPT = "U:{images}\n{question} A:"


def text_only(length: int) -> Prepared:
    return Prepared([5] * length, 0, (), ())


def about(image: str, length: int, question: int) -> Prepared:
    """A question about an image whose prefix is `length` long."""
    packed = PackedTokens(torch.zeros(length, 2), *[torch.zeros(length, dtype=torch.long)] * 3, length)
    layout = PartitionLayout(0, 0, (10, 10), (10, 10))
    tokens = VisualTokens(torch.zeros(length, 3), TokenCounts(length, None, 100), packed, layout)
    return Prepared([4] * length + [7] * question, 0, (tokens,), (image,), shared=length)


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 40), st.booleans()), max_size=60),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_every_question_is_in_one_batch_and_only_shared_prefixes_are_shared(
    wanted: list[tuple[str, int, bool]], batch_size: int
) -> None:
    lengths = dict(zip("abcde", (30, 10, 20, 30, 5), strict=True))
    questions = [
        (i, about(image, lengths[image], own) if with_image else text_only(own))
        for i, (image, own, with_image) in enumerate(wanted)
    ]
    seen: list[int] = []
    for window in cut(questions, batch_size):
        shared: list[str] = []
        for batch in batches(window, lambda longest: batch_size):
            assert 1 <= len(batch) <= batch_size
            assert len({bool(p.shared) for _, p in batch}) == 1, "a batch shares or it does not"
            sizes = [p.shared or len(p.input_ids) for _, p in batch]
            assert sizes == sorted(sizes, reverse=True)
            shared += [p.digests[0] for _, p in batch if p.shared]
            seen += [i for i, _ in batch]
        assert all(shared.count(image) > 1 for image in shared)
        runs = [image for i, image in enumerate(shared) if i == 0 or shared[i - 1] != image]
        assert len(runs) == len(set(runs)), "questions about one image follow each other"
    assert sorted(seen) == list(range(len(wanted)))


def test_a_window_does_not_end_between_questions_about_one_image() -> None:
    size = BATCHES_A_WINDOW * 2
    questions = [(i, about("a" if i < size - 3 else "b", 5, 2)) for i in range(size + 6)]
    assert [len(w) for w in cut(questions, 2)] == [size + 6]
    endless = [(i, about("a", 5, 2)) for i in range(10 * size)]
    assert max(len(w) for w in cut(endless, 2)) == 4 * size


def test_where_pictures_are_read_ahead_the_first_windows_are_short() -> None:
    questions = [(i, about(f"{i}", 5, 2)) for i in range(100)]
    assert [len(w) for w in cut(questions, 4)] == [32, 32, 32, 4]
    assert [len(w) for w in cut(questions, 4, reads_ahead=True)] == [4, 8, 16, 32, 32, 8]
    of_one_picture = [(i, about("a", 5, 2)) for i in range(100)]
    assert [len(w) for w in cut(of_one_picture, 4, reads_ahead=True)] == [100]


def cut(
    questions: list[tuple[int, Prepared]], batch_size: int, *, reads_ahead: bool = False
) -> list[list[tuple[int, Prepared]]]:
    window: Window[int] = Window(batch_size, 2**29, reads_ahead=reads_ahead)
    ended = [window.add(*question) for question in questions]
    return [questions for questions in [*ended, window.end()] if questions]


def requests_for(documents: list[dict[str, Any]]) -> tuple[list[Instance], dict[str, Any]]:
    requests = [
        Instance(
            request_type="generate_until",
            arguments=(
                document["question"], {"max_new_tokens": 5}, lambda d: d["images"], i, "task", "test"
            ),
            idx=0,
            metadata={"task": "task", "doc_id": i, "repeats": 1},
        )
        for i, document in enumerate(documents)
    ]  # fmt: skip
    return requests, {"task": {"test": documents}}


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """Questions of many lengths about pictures of many shapes, one in five without a picture."""
    pictures = [tiny.picture(40 + 50 * i, 220 - 40 * i, seed=i) for i in range(5)]
    return [
        {"question": "how" * (i * 7 % 5) + f"{i}?", "images": [] if i % 5 == 4 else [pictures[i // 4 % 5]]}
        for i in range(23)
    ]


def model_for(
    checkpoint: tuple[Any, Any], documents: list[dict[str, Any]], *, share: bool = True, **options: Any
) -> tuple[HiredVLM, list[Instance]]:
    llava = DroppingVLM(Checkpoint(*checkpoint), Full(), PROMPT, share_prefix=share)
    model = HiredVLM.around(Answerer(llava, **options))
    requests, model.task_dict = requests_for(documents)
    return model, requests


@contextmanager
def memory_for(model: Any, rows: int) -> Iterator[None]:
    """A language model that runs out of memory with more than so many rows."""

    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        if len(kwargs["inputs_embeds"]) > rows:
            raise torch.OutOfMemoryError("out of memory")

    handle = model.model.language_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def one_by_one(llava_next: tuple[Any, Any], documents: list[dict[str, Any]]) -> list[str]:
    llava = DroppingVLM(Checkpoint(*llava_next), Full(), PROMPT, share_prefix=False)
    prepared = [llava.prepare(Question(d["question"], tuple(d["images"]))) for d in documents]
    return [llava.answer([p], {"max_new_tokens": 5})[0].text for p in prepared]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_do_not_depend_on_order_and_batch_size(
    llava_next: tuple[Any, Any],
    documents: list[dict[str, Any]],
    one_by_one: list[str],
    share: bool,
    batch_size: int,
) -> None:
    model, requests = model_for(llava_next, documents, share=share, batch_size=batch_size)
    assert model.generate_until(requests) == one_by_one
    assert len(set(one_by_one)) > 3, "answers must depend on the question or the picture"


def test_out_of_memory_halves_the_batch_and_is_told(
    llava_next: tuple[Any, Any], documents: list[dict[str, Any]], one_by_one: list[str]
) -> None:
    model, requests = model_for(llava_next, documents, batch_size=8)
    with memory_for(llava_next[0], rows=3):
        assert model.generate_until(requests) == one_by_one
    assert model.own.effort.out_of_memory == [OutOfMemory(8, 4), OutOfMemory(4, 2)]


def test_out_of_memory_with_one_question_stops_the_run_or_is_recorded(
    llava_next: tuple[Any, Any], documents: list[dict[str, Any]]
) -> None:
    model, requests = model_for(llava_next, documents[:3], batch_size=2)
    with memory_for(llava_next[0], rows=0), pytest.raises(UserError, match="document 2: memory ran out"):
        model.generate_until(requests)
    model, requests = model_for(llava_next, documents[:3], batch_size=2, on_error="record")
    with memory_for(llava_next[0], rows=0):
        model.generate_until(requests)
    assert ["memory ran out" in str(r.error) for r in model.replies.values()] == [True] * 3


def test_out_of_memory_in_the_vision_tower_is_tried_once_more(
    llava_next: tuple[Any, Any], documents: list[dict[str, Any]], one_by_one: list[str]
) -> None:
    calls: list[int] = []

    def refuse(module: Any, args: Any, output: Any) -> None:
        calls.append(1)
        if len(calls) in (3, 6, 7):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    handle = llava_next[0].model.vision_tower.embeddings.register_forward_hook(refuse)
    try:
        model, requests = model_for(llava_next, documents, batch_size=4, on_error="record")
        answers = model.generate_until(requests)
    finally:
        handle.remove()
    failed = [i for i, r in enumerate(model.replies[("task", i, 0, 0)] for i in range(23)) if r.error]
    assert len(failed) == 1
    assert [a for i, a in enumerate(answers) if i not in failed] == [
        a for i, a in enumerate(one_by_one) if i not in failed
    ]


def test_other_errors_are_not_taken_for_lack_of_memory(
    llava_next: tuple[Any, Any], documents: list[dict[str, Any]]
) -> None:
    def fail(module: Any, args: Any, kwargs: Any) -> None:
        raise RuntimeError("shapes do not fit")

    model, requests = model_for(llava_next, documents[:2], batch_size=2)
    handle = llava_next[0].model.language_model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            model.generate_until(requests)
    finally:
        handle.remove()
