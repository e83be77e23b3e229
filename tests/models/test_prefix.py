"""Questions about one image share the KV cache of their prompts' beginning; answers stay the same."""

from typing import Any

import pytest
import torch

from hired_eval import Full
from hired_eval.dropping import TokenDropper
from hired_eval.dropping.registry import build
from hired_eval.models import prefix
from hired_eval.models.answering import DroppingVLM, Prepared, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from tests import tiny

PROMPT = "U:{images}\n{question} A:"
METHODS: dict[str, dict[str, Any]] = {"full": {}, "hired": {"budget": 0.3}}


def questions(images: int = 1) -> list[Question]:
    """Twelve questions of different lengths about four pictures of different shapes."""
    sizes = [(112, 112), (60, 200), (333, 222), (31, 100)]
    pictures = [tiny.picture(*size, seed=i) for i, size in enumerate(sizes)]
    return [
        Question(f"{'why' * (i % 4)} {i}?", tuple(pictures[(i // 3 + j) % 4] for j in range(images)))
        for i in range(12)
    ]


def llava(checkpoint: tuple[Any, Any], dropper: TokenDropper, share: bool) -> DroppingVLM:
    return DroppingVLM(Checkpoint(*checkpoint), dropper, PROMPT, share_prefix=share)


def prefills(model: Any) -> tuple[list[int], Any]:
    """Visual tokens that go through the language model, forward pass by forward pass."""
    seen: list[int] = []

    def count(module: Any, args: Any, kwargs: Any) -> None:
        input_ids = args[0] if args else kwargs["input_ids"]
        seen.append(int((input_ids == model.config.image_token_id).sum()))

    return seen, model.model.register_forward_pre_hook(count, with_kwargs=True)


def scores(model: DroppingVLM, prepared: list[Prepared]) -> tuple[list[str], torch.Tensor]:
    texts = [a.text for a in model.answer(prepared, {"max_new_tokens": 6})]
    return texts, torch.tensor([x.loss for x in model.likelihood(prepared)])


@pytest.mark.parametrize("architecture", ["llava_next", "llava"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("images", [1, 2])
def test_answers_and_likelihoods_are_the_same_with_and_without_sharing(
    architecture: str, method: str, images: int, request: pytest.FixtureRequest
) -> None:
    checkpoint = request.getfixturevalue(architecture)
    results = []
    for share in (False, True):
        model = llava(checkpoint, build(method, **METHODS[method]), share)
        prepared = [model.prepare(q, f" {'yes' * (i % 3 + 1)}") for i, q in enumerate(questions(images))]
        assert all(bool(p.shared) == share for p in prepared)
        results.append(scores(model, prepared))
    (plain_texts, plain_losses), (shared_texts, shared_losses) = results
    assert shared_texts == plain_texts
    torch.testing.assert_close(shared_losses, plain_losses, atol=1e-5, rtol=1e-5)
    assert len(set(plain_losses.tolist())) == len(plain_losses), "each question must have a score of its own"


def test_each_image_is_prefilled_once_over_batches(llava_next: tuple[Any, Any]) -> None:
    model = llava(llava_next, Full(), True)
    prepared = [model.prepare(q) for q in questions()]
    seen, handle = prefills(llava_next[0])
    try:
        for start in range(0, 12, 2):
            model.answer(prepared[start : start + 2], {"max_new_tokens": 2})
    finally:
        handle.remove()
    kept = {p.digests: p.counts[0].kept for p in prepared}
    assert sum(seen) == sum(kept.values())


def test_without_room_for_the_caches_the_batch_is_answered_without_them(
    llava_next: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llava(llava_next, Full(), True)
    prepared = [model.prepare(q, " yes") for q in questions()]
    expected = scores(model, prepared)
    monkeypatch.setattr(prefix, "free_bytes", lambda device: 1000)
    model = llava(llava_next, Full(), True)
    seen, handle = prefills(llava_next[0])
    try:
        texts, losses = scores(model, prepared)
    finally:
        handle.remove()
    assert texts == expected[0]
    torch.testing.assert_close(losses, expected[1], atol=1e-5, rtol=1e-5)
    assert max(seen) == sum(p.counts[0].kept for p in prepared)


def test_old_caches_are_forgotten_when_memory_is_short(
    llava_next: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llava(llava_next, Full(), True)
    prepared = [model.prepare(q) for q in questions()]
    caches = prefix.PrefixCaches(family_of(llava_next[0]))
    one = prefix.count_kv_bytes(llava_next[0].config, max(p.shared for p in prepared), torch.float32)
    monkeypatch.setattr(prefix, "spare_bytes", lambda device: one)
    seen, handle = prefills(llava_next[0])
    try:
        with torch.inference_mode():
            for p in (prepared[0], prepared[3], prepared[0], prepared[0]):
                caches.batch([p.prefix], 0)
    finally:
        handle.remove()
    first, second = prepared[0].counts[0].kept, prepared[3].counts[0].kept
    assert seen == [first, second, first]


def test_a_question_before_the_image_is_part_of_the_prefix(llava_next: tuple[Any, Any]) -> None:
    picture = tiny.picture(112, 112)
    results = []
    for share in (False, True):
        model = DroppingVLM(Checkpoint(*llava_next), Full(), "{question} {images} A:", share_prefix=share)
        prepared = [model.prepare(Question(text, (picture,)), " yes") for text in ("what?", "who is it?")]
        results.append(scores(model, prepared)[1])
    assert prepared[0].prefix.key != prepared[1].prefix.key
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_nothing_is_shared_without_an_image_or_with_nothing_behind_it(llava_next: tuple[Any, Any]) -> None:
    model = DroppingVLM(Checkpoint(*llava_next), Full(), "{question}{images}")
    assert model.prepare(Question("what?")).shared == 0
    assert model.prepare(Question("what?", (tiny.picture(50, 50),))).shared == 0
    assert model.prepare(Question("what?", (tiny.picture(50, 50),)), " yes").shared == 0


def test_beams_are_searched_without_sharing(llava_next: tuple[Any, Any]) -> None:
    options = {"max_new_tokens": 4, "num_beams": 2}
    texts = []
    for share in (False, True):
        model = llava(llava_next, Full(), share)
        texts.append([a.text for a in model.answer([model.prepare(q) for q in questions()], dict(options))])
    assert texts[0] == texts[1]
