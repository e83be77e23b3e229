"""Prompts: the images' places, and text that stays text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval.errors import UserError
from hired_eval.llava.prompt import check_template, render
from hired_eval.models import model_configs
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
        st.sampled_from(["<image>", "<s>", "</s>", "<pad>", "{images}", "{question}", "a", " ", "<", "\n"])
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


@pytest.mark.parametrize(
    "template", ["", "{images}", "{question}", "{images}{images}{question}", "{image}{question}"]
)
def test_a_template_without_a_place_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="once each"):
        check_template(template)


@pytest.mark.parametrize("name", model_configs())
def test_the_prompts_of_the_model_configs_have_both_places(name: str) -> None:
    assert check_template(model_configs()[name]["prompt"]).count("{question}") == 1
