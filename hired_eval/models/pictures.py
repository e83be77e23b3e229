"""The pictures of questions, from their files to the visual tokens that a method keeps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from loguru import logger
from PIL import Image

from hired_eval.dropping import VisionStage
from hired_eval.errors import UserError
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.family import Family, Picture
from hired_eval.models.images import as_rgb, digest, pad_to_square
from hired_eval.models.memory import is_out_of_memory
from hired_eval.models.prompt import Turn
from hired_eval.models.question import QuestionTower
from hired_eval.models.reading import ReadPicture, ReadQuestion
from hired_eval.models.visual_tokens import (
    PICTURES_A_PASS,
    Encoder,
    VisualTokens,
    drop_tokens,
    make_visual_tokens,
)

IMAGES_REMEMBERED = 16

KnownPicture = tuple[tuple[bool, tuple[int, int], bytes], ReadPicture]
"""Whether it has others in its prompt, its size and its pixels; and the picture read."""


class Pictures:
    """Reads, encodes and drops, and remembers the visual tokens of the last pictures.

    Args:
        checkpoint: stock model and processor.
        family: of the model.
        stage: the method's, before the language model.
        per_pass: pictures that `encode` gives the vision tower together; 'auto': 16 on a GPU, 1 on the CPU,
            whose sums differ with it in the last digits. Where a text tower reads the question, always 1.

    Raises:
        UserError: see `Encoder` and `QuestionTower`.
    """

    def __init__(
        self, checkpoint: Checkpoint, family: Family, stage: VisionStage, per_pass: int | Literal["auto"]
    ) -> None:
        self.family, self.stage, self.square = family, stage, checkpoint.square
        self.image_processor: Any = checkpoint.processor.image_processor
        self.encoder = Encoder(family, [stage])
        usual = 1 if family.tower.device.type == "cpu" else PICTURES_A_PASS
        self.per_pass: int = usual if per_pass == "auto" else per_pass
        self._question_tower: QuestionTower | None = None
        if stage.question_tower is not None:
            self._question_tower = QuestionTower(stage.question_tower, family)
            self.per_pass = 1
        self._remembered: OrderedDict[str, VisualTokens] = OrderedDict()
        self._images_remembered = IMAGES_REMEMBERED

    def read(self, image: Image.Image, among: int = 1) -> Picture:
        """An RGB image as the vision tower gets it, where its prompt has that many images."""
        return self.family.read(self._framed(image), self.image_processor, among)

    def _framed(self, image: Image.Image) -> Image.Image:
        """An RGB image as it is, or on a square where all are."""
        if self.square is None:
            return image
        mean: Sequence[float] = self.image_processor.image_mean
        return pad_to_square(image, self.square, [round(255 * value) for value in mean])

    def read_question(
        self,
        text: str,
        images: Sequence[Image.Image],
        known: list[KnownPicture] | None = None,
        turns: tuple[Turn, ...] = (),
    ) -> ReadQuestion:
        """Read a question's images. The model computes nothing here, so that threads may do it ahead.

        Args:
            text: the question.
            images: in the order of the prompt.
            known: pictures read before, which are not read again; new ones are added.
            turns: a conversation that asks the question, where there is one.

        Raises:
            UserError: an image cannot be used.
        """
        known = [] if known is None else known
        among = len(images)
        pictures = []
        for image in images:
            rgb = self._framed(as_rgb(image))
            # comparing pixels takes a tenth of the time of their digest
            pixels = rgb.tobytes()
            seen = among > 1, rgb.size, pixels
            picture = next((picture for other, picture in known if other == seen), None)
            if picture is None:
                picture = self._read_picture(rgb, digest(rgb, pixels), among)
                known.append((seen, picture))
            pictures.append(picture)
        return ReadQuestion(text, tuple(pictures), turns)

    def _read_picture(self, image: Image.Image, name: str, among: int) -> ReadPicture:
        """A picture with its partitions; without them where its tokens are known already."""
        key = name if among == 1 else f"{name}-of-several"
        layout = self.family.layout((image.height, image.width), among)
        if key in self._remembered:
            pixels = 3 * image.width * image.height
            return ReadPicture(name, key, layout, partial(self.read, image, among), pixels)
        picture = self.read(image, among)
        picture = replace(picture, pixels=picture.pixels.to(self.family.tower.dtype))
        return ReadPicture(name, key, layout, lambda: picture, picture.pixels.nbytes)

    @torch.inference_mode()
    def encode(self, questions: Sequence[ReadQuestion]) -> None:
        """Encode questions' pictures ahead of `visual_tokens`, up to `per_pass` in one pass.

        They are remembered until the next call at least. A pass that fails is left to `visual_tokens`, which
        encodes one picture at a time and says whose picture cannot be used. Where memory ran out, passes are
        half as large from then on.
        """
        wanted = {picture.key: picture for question in questions for picture in question.pictures}
        self._images_remembered = max(IMAGES_REMEMBERED, len(wanted))
        unknown = [picture for key, picture in wanted.items() if key not in self._remembered]
        while unknown and self.per_pass > 1:
            part = unknown[: self.per_pass]
            try:
                pictures = [replace(picture.read(), layout=picture.layout) for picture in part]
                tokens = make_visual_tokens(
                    self.family, pictures, self.stage, per_pass=len(part), encoder=self.encoder
                )
            except UserError:
                tokens = []
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.per_pass = max(1, len(part) // 2)
                logger.warning(
                    f"memory ran out with {len(part)} pictures in a pass of the vision tower; going on with "
                    f"{self.per_pass}"
                )
                # the pass is kept for other methods as soon as the tower is through with it
                self.encoder.forget()
                continue
            for picture, kept in zip(part, tokens, strict=False):
                self._remember(picture.key, kept)
            unknown = unknown[len(part) :]

    def visual_tokens(self, picture: ReadPicture, question: str) -> VisualTokens:
        """Visual tokens of a picture; the last few are remembered, as questions about one come together.

        Raises:
            UserError: the picture cannot be used, or the method refuses it.
        """
        key = picture.key if self._question_tower is None else f"{picture.key} {question}"
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key]
        encoding = self.encoder.encode([picture.read()], self.stage)
        if self._question_tower is not None:
            encoding = self._question_tower.compare(encoding, question)
        (tokens,) = drop_tokens(self.family, encoding, [picture.layout], self.stage)
        self._remember(key, tokens)
        return tokens

    def _remember(self, key: str, tokens: VisualTokens) -> None:
        self._remembered[key] = tokens
        if len(self._remembered) > self._images_remembered:
            self._remembered.popitem(last=False)

    def release(self) -> None:
        """Free the memory of remembered pictures."""
        self._remembered.clear()
        self.encoder.forget()
