"""Questions in, answers out: documents of every kind, batches, likelihoods."""

from typing import Any

import pytest
import torch
from PIL import Image

from hired_eval import Full, HiRED, TokenDropper
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from tests import tiny

PROMPT = "USER: {images}\n{question} ASSISTANT:"
SIZES = [(1, 1), (2, 1), (112, 112), (300, 200), (10000, 20), (20, 10000)]
FEW = {"max_new_tokens": 5}


def answering(parts: tuple[Any, Any], dropper: TokenDropper) -> DroppingVLM:
    return DroppingVLM(Checkpoint(*parts), dropper, PROMPT)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_full_answers_as_the_stock_model_on_every_shape(
    llava_next: tuple[Any, Any], size: tuple[int, int]
) -> None:
    model, processor = llava_next
    llava = answering(llava_next, Full())
    image = tiny.picture(*size)
    (answer,) = llava.answer([llava.prepare(Question("what is it?", (image,)))], FEW)
    inputs = processor(images=image, text="USER: <image>\nwhat is it? ASSISTANT:", return_tensors="pt")
    with torch.inference_mode():
        stock = model.generate(**inputs, do_sample=False, pad_token_id=0, **FEW)
    expected = processor.tokenizer.decode(stock[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.text == expected
    assert answer.counts[0].kept == answer.counts[0].full
    assert answer.counts[0].allowed is None


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_budget_holds_on_every_shape(llava_next: tuple[Any, Any], size: tuple[int, int]) -> None:
    llava = answering(llava_next, HiRED(budget=0.2))
    prepared = llava.prepare(Question("what is it?", (tiny.picture(*size),)))
    (counts,) = prepared.counts
    assert counts.allowed is not None
    assert 0 < counts.kept <= counts.allowed
    assert prepared.input_ids.count(llava.family.config.image_token_id) == counts.kept


def test_documents_of_all_kinds_share_a_batch(llava_next: tuple[Any, Any]) -> None:
    pictures = [tiny.picture(60 + 30 * i, 100, seed=i) for i in range(5)]
    questions = [
        Question("no picture at all?"),
        Question("one?", (pictures[0],)),
        Question("", (pictures[1],)),
        Question("x" * 900, (pictures[2],)),
        Question("five?", tuple(pictures)),
        Question("what <image> is </s> <s> this <image>?", (pictures[3],)),
        Question("\u202e\u0007 عربي \\frac{a}{b} <b>&amp;</b> {images}", (pictures[4],)),
    ]
    llava = answering(llava_next, HiRED(budget=0.2))
    prepared = [llava.prepare(question) for question in questions]
    together = llava.answer(prepared, FEW)
    assert [answer.text for answer in together] == [llava.answer([p], FEW)[0].text for p in prepared]
    assert [len(answer.counts) for answer in together] == [len(question.images) for question in questions]
    backwards = llava.answer(prepared[::-1], FEW)[::-1]
    assert [a.text for a in backwards] == [a.text for a in together]
    assert [a.counts for a in backwards] == [a.counts for a in together]


def test_a_prompt_beyond_the_context_is_refused(llava_next: tuple[Any, Any]) -> None:
    llava = answering(llava_next, Full())
    with pytest.raises(UserError, match=r"the prompt has .* tokens, .* and the model's context holds 2048"):
        llava.prepare(Question("x" * 10_000, (tiny.picture(60, 60),)))


def test_texts_to_stop_at_are_cut_off(llava_next: tuple[Any, Any]) -> None:
    llava = answering(llava_next, Full())
    prepared = llava.prepare(Question("what is it?", (tiny.picture(60, 60),)))
    (whole,) = llava.answer([prepared], FEW)
    stop = whole.text[2]
    (cut,) = llava.answer([prepared], {**FEW, "until": [stop]})
    assert cut.text == whole.text.split(stop)[0]


@pytest.mark.parametrize("dropper", [Full(), HiRED(budget=0.3)], ids=["full", "hired"])
def test_a_likelihood_does_not_depend_on_the_batch(
    llava_next: tuple[Any, Any], dropper: TokenDropper
) -> None:
    llava = answering(llava_next, dropper)
    image = tiny.picture(80, 80)
    asked = [("is it?", " yes"), ("is it?", " not at all"), ("something much longer is asked?", " b")]
    prepared = [llava.prepare(Question(text, (image,)), continuation) for text, continuation in asked]
    assert [p.scored for p in prepared] == [4, 11, 2]
    together = llava.likelihood(prepared)
    alone = [llava.likelihood([p])[0] for p in prepared]
    torch.testing.assert_close([r.loss for r in together], [r.loss for r in alone], rtol=1e-4, atol=1e-4)
    assert [r.greedy for r in together] == [r.greedy for r in alone]


def test_the_greedy_continuation_is_recognised(llava_next: tuple[Any, Any]) -> None:
    llava = answering(llava_next, HiRED(budget=0.3))
    question = Question("what is it?", (tiny.picture(80, 80),))
    (answer,) = llava.answer([llava.prepare(question)], {"max_new_tokens": 3})
    said = answer.text.replace(" ", "")
    likely, unlikely = llava.likelihood(
        [llava.prepare(question, said), llava.prepare(question, said[:-1] + "~")]
    )
    assert likely.greedy
    assert not unlikely.greedy
    assert likely.loss < unlikely.loss


def test_pictures_that_cannot_be_used_are_refused(llava_next: tuple[Any, Any]) -> None:
    llava = answering(llava_next, Full())
    with pytest.raises(UserError, match="more than 8 bits"):
        llava.prepare(Question("?", (Image.new("I;16", (5, 5)),)))
