"""Prompts: the images' places, and text that stays text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hired_eval import Full
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.configs import model_configs
from hired_eval.models.prompt import check_template, continue_prompt, render, tokenize
from tests import tiny

TOKENIZER = tiny.tokenizer()
VICUNA = "USER: {images}\n{question} ASSISTANT:"
IMAGE_ID = TOKENIZER.convert_tokens_to_ids("<image>")


@pytest.mark.parametrize(
    ("images", "prompt"),
    [
        (0, "USER: why? ASSISTANT:"),
        (1, "USER: <image>\nwhy? ASSISTANT:"),
        (2, "USER: <image> <image>\nwhy? ASSISTANT:"),
    ],
)
def test_images_stand_before_the_question(images: int, prompt: str) -> None:
    assert render(VICUNA, "why?", images, TOKENIZER, "<image>") == prompt


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(
            ["<ima", "ge>", "<s>", "</s>", "<pad>", "{images}", "{question}", "a", " ", "<", "\n"]
        )
    ),
    images=st.integers(0, 2),
)
def test_special_tokens_in_a_question_are_text(pieces: list[str], images: int) -> None:
    prompt = render(VICUNA, "".join(pieces), images, TOKENIZER, "<image>")
    ids = TOKENIZER(prompt, add_special_tokens=False)["input_ids"]
    assert ids.count(IMAGE_ID) == images
    special = {TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id}
    assert special.isdisjoint(ids)
    kept = prompt.replace(" ", "").replace("\n", "")
    assert kept.endswith("".join(pieces).replace(" ", "").replace("\n", "") + "ASSISTANT:")


def with_special(*tokens: str | AddedToken) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with more special tokens, which `all_special_tokens` does not name."""
    more = tiny.tokenizer()
    special = [t if isinstance(t, AddedToken) else AddedToken(t, special=True) for t in tokens]
    more.backend_tokenizer.add_special_tokens(special)
    assert {t.content for t in special}.isdisjoint(more.all_special_tokens)
    return more


SPECIAL = ["<|eot_id|>", "¶", "<s", " ~", "# ", "[INST] ", "< |", "||"]
MORE = with_special(*SPECIAL, AddedToken("<|im_end|>", special=True, lstrip=True, rstrip=True))
CONTROL = {i for i, token in MORE.added_tokens_decoder.items() if token.special} - {
    MORE.unk_token_id,
    IMAGE_ID,
}


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from([*SPECIAL, *"<|a ", "<|im_end|>", "<|eot", "_id|>", "<image>", "age>", "<im", "s>"])
    ),
    images=st.integers(0, 2),
    template=st.sampled_from(
        [
            VICUNA,
            "{images}<|eot_id|><{question}",
            "{question}s>{images}",
            "{question}|{images}",
            "</{question}{images}",
        ]
    ),
)
def test_no_control_token_comes_from_a_question(pieces: list[str], images: int, template: str) -> None:
    question = "".join(pieces)
    ids = tokenize(MORE, render(template, question, images, MORE, "<image>"))
    own = tokenize(MORE, render(template, "a", images, MORE, "<image>"))
    assert ids.count(IMAGE_ID) == images
    assert [i for i in ids if i in CONTROL] == [i for i in own if i in CONTROL]


@settings(max_examples=100, deadline=None)
@given(question=st.text(st.characters(codec="ascii", exclude_characters="<|¶~#["), max_size=30))
def test_a_question_without_special_tokens_is_unchanged(question: str) -> None:
    assert render(VICUNA, question, 1, MORE, "<image>") == f"USER: <image>\n{question} ASSISTANT:"
    assert continue_prompt("a", question, MORE, "<image>") == f"a{question}"


@pytest.mark.parametrize(
    ("prompt", "continuation", "whole"),
    [("a", "</s>", "a< /s>"), ("a<im", "age>", "a<im age>"), ("<image>a", "<image>", "<image>a< image>")],
)
def test_special_tokens_in_a_continuation_are_text(prompt: str, continuation: str, whole: str) -> None:
    assert continue_prompt(prompt, continuation, TOKENIZER, "<image>") == whole


@pytest.mark.parametrize(
    ("question", "images", "prompt"),
    [
        ("a<image>b<image>c?", 2, "USER: a<image>b<image>c? ASSISTANT:"),
        ("<image>", 1, "USER: <image> ASSISTANT:"),
        ("<im<image>age>", 1, "USER: <im<image>age> ASSISTANT:"),
        ("a<image>b", 2, "USER: <image> <image>\na< image>b ASSISTANT:"),
        ("a<image>b<image>", 1, "USER: <image>\na< image>b< image> ASSISTANT:"),
        ("a<image>b", 0, "USER: a< image>b ASSISTANT:"),
        ("a<image 1>b", 1, "USER: <image>\na<image 1>b ASSISTANT:"),
    ],
)
def test_images_stand_where_a_question_marks_as_many_places(question: str, images: int, prompt: str) -> None:
    assert render(VICUNA, question, images, TOKENIZER, "<image>") == prompt


def test_the_mark_of_lmms_eval_stands_for_another_image_token() -> None:
    assert render(VICUNA, "a<image>b", 1, TOKENIZER, "<s>") == "USER: a<s>b ASSISTANT:"


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("written", ["<s>", ""])
def test_bos_stands_once(adds: bool, written: str) -> None:
    tokenizer = tiny.tokenizer()
    if adds:
        bos = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = bos
    ids = tokenize(tokenizer, render(written + VICUNA, "<s>why?", 1, tokenizer, "<image>"))
    assert ids.count(tokenizer.bos_token_id) == (adds or written != "")
    assert ids.index(tokenizer.bos_token_id) == 0 if adds or written else True


@pytest.mark.parametrize("share", [True, False])
def test_interleaved_questions_are_answered_as_the_stock_model_does(
    llava_next: tuple[Any, Any], share: bool
) -> None:
    model, processor = llava_next
    pictures = [tiny.picture(60, 90, 1), tiny.picture(112, 60, 2)]
    questions = ["a<image>b<image>which?", "a<image>b<image>what?", "<image>c<image>"]
    llava = DroppingVLM(Checkpoint(model, processor), Full(), "{images}\n{question}:", share_prefix=share)
    options = {"max_new_tokens": 8, "do_sample": False}
    prepared = [llava.prepare(Question(question, tuple(pictures))) for question in questions]
    said = [answer.text for answer in llava.answer(prepared, dict(options))]
    assert [bool(p.shared) for p in prepared] == [share] * 3
    for question, answer in zip(questions, said, strict=True):
        inputs = processor(images=pictures, text=[f"{question}:"], return_tensors="pt")
        new = model.generate(**inputs, **options, pad_token_id=0)[0, inputs["input_ids"].shape[1] :]
        assert processor.tokenizer.decode(new, skip_special_tokens=True) == answer


def test_marks_that_are_text_are_told_once(llava_next: tuple[Any, Any]) -> None:
    llava = DroppingVLM(Checkpoint(*llava_next), Full(), VICUNA)
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    for _ in range(2):
        llava.prepare(Question("a<image>b<image>", (tiny.picture(60, 60),)))
    llava.prepare(Question("a<image>b", (tiny.picture(60, 60),)))
    logger.remove(sink)
    (line,) = lines
    assert line.startswith("a question marks 2 places for its 1 images: the marks are read as text")


@pytest.mark.parametrize(
    "template", ["", "{images}", "{question}", "{images}{images}{question}", "{image}{question}"]
)
def test_a_template_without_a_place_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="once each"):
        check_template(template)


@pytest.mark.parametrize("name", model_configs())
def test_the_prompts_of_the_model_configs_have_both_places(name: str) -> None:
    assert check_template(model_configs()[name]["prompt"]).count("{question}") == 1
