"""Prompts: where the images and the question stand, and that text from a data set stays text."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from hired_eval.errors import UserError

IMAGES, QUESTION = "{images}", "{question}"


def check_template(template: str) -> str:
    """The template itself, if a question and its images have a place in it.

    Raises:
        UserError: `{images}` or `{question}` is missing.
    """
    if template.count(IMAGES) != 1 or template.count(QUESTION) != 1:
        raise UserError(f"the prompt must hold {IMAGES} and {QUESTION} once each, got {template!r}")
    return template


def render(
    template: str, question: str, images: int, tokenizer: PreTrainedTokenizerBase, image_token: str
) -> str:
    """One prompt.

    Args:
        template: text with `{images}` and `{question}`; with no image, `{images}` goes with the line break
            or space behind it.
        question: as the benchmark states it; special tokens in it are text, so that `<image>` in a question
            is no placeholder (a space is put behind their first character).
        images: number of images, placed before the question.
        tokenizer: its special tokens are the ones made harmless.
        image_token: the placeholder of one image.
    """
    special = "|".join(re.escape(token) for token in {*tokenizer.all_special_tokens, image_token})
    harmless = re.sub(special, lambda match: f"{match[0][0]} {match[0][1:]}", question)
    if images == 0:
        template = re.sub(re.escape(IMAGES) + r"\s?", "", template)
    # the question comes last, so that braces in it are never filled in
    return template.replace(IMAGES, " ".join([image_token] * images)).replace(QUESTION, harmless)
