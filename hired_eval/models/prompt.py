"""Prompts: where the images and the question stand, and that text from a data set stays text."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from loguru import logger
from transformers import PreTrainedTokenizerBase

from hired_eval.errors import UserError, first_line
from hired_eval.models.configs import IMAGES, QUESTION

IMAGE_MARK = "<image>"
"""How lmms-eval's tasks mark the place of an image in a question."""
MOST_ROUNDS = 50
"""Breaking one special token can make another, once or twice."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: system, user or assistant.
        parts: its texts in order, and None where a picture is.
    """

    role: str
    parts: tuple[str | None, ...]


def check_template(template: str) -> str:
    """The template itself, if a question and its images have a place in it.

    Raises:
        UserError: `{images}` or `{question}` is missing.
    """
    if template.count(IMAGES) != 1 or template.count(QUESTION) != 1:
        raise UserError(f"the prompt must hold {IMAGES} and {QUESTION} once each, got {template!r}")
    return template


def count_marked_places(question: str, image_token: str) -> int:
    """How many places for images a question marks, with `<image>` or the model's own image token."""
    return len(re.findall(_marks(image_token), question))


def render(
    template: str,
    question: str,
    images: int,
    tokenizer: PreTrainedTokenizerBase,
    image_token: str,
    placeholder: str | None = None,
) -> str:
    """One prompt.

    Args:
        template: text with `{images}` and `{question}`; where no image stands at `{images}`, it goes with the
            line break or space behind it.
        question: as the benchmark states it. Where it marks exactly as many places as it has images, they
            stand there; otherwise they stand at `{images}`. Special tokens in it are text, so that `<s>` in a
            question starts nothing (a space is put behind their first character).
        images: number of images.
        tokenizer: its special tokens are the ones made harmless.
        image_token: what the tokens of an image are in the prompt.
        placeholder: what stands for one image, the tokens around it included; by default the image token.
    """
    pieces = [_Piece(question, foreign=True)]
    placed = 0 < images == count_marked_places(question, image_token)
    if placed:
        image = _Piece(placeholder or image_token)
        between = [_Piece(text, foreign=True) for text in re.split(_marks(image_token), question)]
        pieces = [piece for text in between for piece in (image, text)][1:]
    if images == 0 or placed:
        template = re.sub(re.escape(IMAGES) + r"\s?", "", template)
    # the question comes last, so that braces in it are never filled in
    before, after = template.replace(IMAGES, " ".join([placeholder or image_token] * images)).split(QUESTION)
    return _harmless([_Piece(before), *pieces, _Piece(after)], find_special_tokens(tokenizer, image_token))


def render_chat(turns: Sequence[Turn], processor: Any, placeholder: str) -> str:
    """A conversation by the processor's own chat template, up to where the answer begins.

    Args:
        turns: the conversation; special tokens in its texts are text, as in `render`.
        processor: stock.
        placeholder: what stands for one image, the tokens around it included.

    Raises:
        UserError: the template refuses the conversation.
    """
    texts: list[str] = []

    def content(part: str | None) -> dict[str, str]:
        if part is None:
            return {"type": "image"}
        text = part.strip()
        texts.append(text)
        # white space at the ends is left to the template, which may cut it off
        held = part.replace(text, f"\ue000{len(texts) - 1}\ue001", 1) if text else part
        return {"type": "text", "text": held}

    messages = [{"role": turn.role, "content": [content(part) for part in turn.parts]} for turn in turns]
    try:
        made = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise UserError(
            f"the checkpoint's chat template refuses the task's messages ({first_line(error)}); take the "
            "simple form, with --force_simple"
        ) from error
    if placeholder not in made:
        made = made.replace(processor.image_token, placeholder)
    parts = re.split("\ue000(\\d+)\ue001", made)
    pieces = [
        _Piece(texts[int(part)], foreign=True) if i % 2 else _Piece(part) for i, part in enumerate(parts)
    ]
    return _harmless(pieces, find_special_tokens(processor.tokenizer, processor.image_token))


def continue_prompt(
    prompt: str, continuation: str, tokenizer: PreTrainedTokenizerBase, image_token: str
) -> str:
    """A prompt with a continuation behind it, in which special tokens are text as well."""
    pieces = [_Piece(prompt), _Piece(continuation, foreign=True)]
    return _harmless(pieces, find_special_tokens(tokenizer, image_token))


def find_special_tokens(tokenizer: PreTrainedTokenizerBase, image_token: str) -> set[str]:
    """Every text that the tokenizer turns into a control token, named for a purpose or not."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {*tokenizer.all_special_tokens, *added, image_token} - {""}


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Ids of a prompt with its first token (BOS) once, as stock processors tokenize their chat template.

    Where the prompt begins with BOS as text, the tokenizer adds none of its own.
    """
    bos = tokenizer.bos_token
    written = bool(bos) and prompt.lstrip().startswith(str(bos))
    ids: list[int] = tokenizer(prompt, add_special_tokens=not written)["input_ids"]
    return ids


class PromptWriter:
    """Questions as the ids of prompts, in which text from a data set stays text.

    Args:
        processor: stock; its tokenizer and image token count, and for conversations its chat template.
        template: text with `{images}` and `{question}`.
        image_token_id: id of the image token.
        placeholder: what stands for one image.

    Raises:
        UserError: the template lacks a place.
    """

    def __init__(self, processor: Any, template: str, image_token_id: int, placeholder: str) -> None:
        self.processor = processor
        tokenizer, image_token = processor.tokenizer, processor.image_token
        self.tokenizer, self.image_token = tokenizer, image_token
        self.image_token_id, self.placeholder = image_token_id, placeholder
        # a chat template has the marks around an image in it, which here belong to each image
        with_marks = placeholder.replace(image_token, IMAGES)
        self.template = check_template(template.replace(with_marks, IMAGES))
        special = tokenizer.convert_tokens_to_ids(sorted(find_special_tokens(tokenizer, image_token)))
        self._control_ids = {*special} - {tokenizer.unk_token_id, image_token_id}
        self._control_tokens: dict[tuple[int, tuple[Turn, ...]], list[int]] = {}
        self._told_of_marks = False

    def write(
        self, question: str, images: int, continuation: str = "", turns: tuple[Turn, ...] = ()
    ) -> tuple[list[int], int]:
        """The ids of a prompt, one placeholder an image, and how many at its end are the continuation's.

        Args:
            question: as the benchmark states it.
            images: their number.
            continuation: text behind the prompt.
            turns: a conversation that asks it, for which the chat template takes the place of the prompt's.

        Raises:
            UserError: the tokenizer makes control tokens of text, other placeholders than there are images,
                or no tokens of the continuation.
        """
        text = self._render(question, images, turns)
        ids = tokenize(self.tokenizer, continue_prompt(text, continuation, self.tokenizer, self.image_token))
        self._check_text(question, images, turns, ids)
        if ids.count(self.image_token_id) != images:
            raise UserError(
                f"the tokenizer makes {ids.count(self.image_token_id)} placeholders of {images} images; "
                f"its image token must be {self.image_token!r} with id {self.image_token_id}"
            )
        scored = 0
        if continuation:
            scored = len(ids) - _common_prefix(tokenize(self.tokenizer, text), ids)
            if scored == 0:
                raise UserError(f"the continuation {continuation!r} has no tokens to score")
        return ids, scored

    def _render(self, question: str, images: int, turns: tuple[Turn, ...]) -> str:
        if turns:
            return render_chat(turns, self.processor, self.placeholder)
        return render(self.template, question, images, self.tokenizer, self.image_token, self.placeholder)

    def _check_text(self, question: str, images: int, turns: tuple[Turn, ...], ids: list[int]) -> None:
        """Say where a question's marks for images are text, and refuse control tokens from a question.

        Raises:
            UserError: the tokenizer makes a control token of text, e.g. by normalizing it.
        """
        marks = 0 if turns else count_marked_places(question, self.image_token)
        if images and marks not in (0, images) and not self._told_of_marks:
            self._told_of_marks = True
            logger.warning(
                f"a question marks {marks} places for its {images} images: the marks are read as text and "
                "the images are put in front, here and wherever the numbers differ"
            )
        plain = tuple(Turn(t.role, tuple(None if part is None else "a" for part in t.parts)) for t in turns)
        form = images, plain
        if form not in self._control_tokens:
            made = tokenize(self.tokenizer, self._render("a", images, plain))
            self._control_tokens[form] = self._controls(made)
        if self._controls(ids) != self._control_tokens[form]:
            raise UserError(f"the tokenizer makes control tokens of text in the question {question[:80]!r}")

    def _controls(self, ids: list[int]) -> list[int]:
        """The control tokens among ids, in their order; placeholders are counted elsewhere."""
        return [i for i in ids if i in self._control_ids]


def _common_prefix(first: list[int], second: list[int]) -> int:
    """How many leading ids two sequences share."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))


@dataclass(frozen=True)
class _Piece:
    """A part of a prompt; foreign where it is from a data set."""

    text: str
    foreign: bool = False


def _marks(image_token: str) -> str:
    return "|".join(re.escape(mark) for mark in {IMAGE_MARK, image_token})


def _harmless(pieces: list[_Piece], special: Collection[str]) -> str:
    """The pieces put together, without a special token that is made of foreign text, or partly of it."""
    text = "".join(piece.text for piece in pieces)
    foreign = [piece.foreign for piece in pieces for _ in piece.text]
    # of two tokens that begin alike, tokenizers take the longer
    pattern = re.compile("|".join(re.escape(t) for t in sorted(special, key=len, reverse=True)))
    for _ in range(MOST_ROUNDS):
        edits: dict[int, tuple[int, str]] = {}
        found = pattern.search(text)
        while found:
            start, end = found.span()
            if any(foreign[start:end]):
                place, cut, put = _broken(found[0], foreign[start:end])
                edits[start + place] = (cut, put)
            found = pattern.search(text, start + 1)
        if not edits:
            break
        for place in sorted(edits, reverse=True):
            cut, put = edits[place]
            text = text[:place] + put + text[place + cut :]
            foreign[place : place + cut] = [True] * len(put)
    return text


def _broken(token: str, foreign: list[bool]) -> tuple[int, int, str]:
    """How a special token is broken: where, how many characters go, and what stands there instead.

    Args:
        token: the special token.
        foreign: which of its characters may be touched, one at least.
    """
    core = token.strip()
    at = token.index(core)
    first = foreign.index(True)
    if len(core) > 1 and (foreign[at] or foreign[at + 1]):
        return at + 1, 0, " "
    if at < first < at + len(core):
        return first, 0, " "
    if core and foreign[at]:  # one character: nothing can be put between
        return at, 1, " "
    return first, 1, "" if token[first] == " " else " "  # white space at the edge
