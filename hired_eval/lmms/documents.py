"""Documents as lmms-eval's tasks read them, without decoding a picture again for its next question."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any
from zlib import crc32

import pyarrow as pa
from datasets import Dataset, Image, List
from PIL import Image as Pillow

from hired_eval.errors import UserError
from hired_eval.models.prompt import IMAGE_MARK, Turn

END_BYTES = 4096
"""Of an encoded picture, which hold its last pixels or their checksum."""
ROWS_AT_ONCE = 100


Decoded = dict[str, tuple[bytes, Pillow.Image]]
"""By column, the picture decoded last and the file that it was made of."""


class Documents:
    """Rows of a data set.

    Each question about a picture is a row of its own, with the picture's file. Who reads the rows keeps what
    is decoded once for all of them, so that threads can read rows at the same time.

    Args:
        dataset: rows, with encoded pictures in columns of feature `Image`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._features = {
            name: f for name, f in dataset.features.items() if isinstance(f, Image) and f.decode
        }
        self._encoded = dataset
        for name, feature in self._features.items():
            self._encoded = self._encoded.cast_column(name, Image(mode=feature.mode, decode=False))

    def read(self, index: int, decoded: Decoded) -> dict[str, Any]:
        """One row, pictures decoded; what a picture that cannot be decoded raises is Pillow's.

        Args:
            index: of the row.
            decoded: pictures of the row read before, which are not decoded again; this row's replace them.
        """
        row: dict[str, Any] = self._encoded[index]
        return row | {name: self._picture(name, row[name], decoded) for name in self._features}

    def _picture(self, column: str, value: dict[str, Any] | None, decoded: Decoded) -> Pillow.Image | None:
        if value is None:
            return None
        content = value["bytes"]
        if content is None:
            picture: Pillow.Image = self._features[column].decode_example(value)
            return picture
        if column not in decoded or decoded[column][0] != content:
            decoded[column] = content, self._features[column].decode_example(value)
        # a copy, so that a task that changes its picture does not change the next question's
        return decoded[column][1].copy()

    def picture_keys(self, indices: Sequence[int]) -> list[tuple[Hashable, ...] | None]:
        """Of each row a key that is equal where the pictures' files are; None where it has no picture.

        It is for bringing questions about one picture together: only the size and the end of a file are
        looked at, without a copy, so that different pictures may have the same key, if rarely.

        Args:
            indices: of the rows.
        """
        columns = [name for name, f in self.dataset.features.items() if _shows_pictures(f)]
        if not columns:
            return [None] * len(indices)
        files = self.dataset.select_columns(columns)
        if list(indices) != list(range(len(files))):
            files = files.select(indices)
        keys: list[tuple[Hashable, ...] | None] = []
        for table in files.with_format("arrow").iter(ROWS_AT_ONCE):
            for row in zip(*(table[name] for name in columns), strict=True):
                key = tuple(_key(file) for column in row for file in _files(column))
                keys.append(key or None)
        return keys


def _shows_pictures(feature: Any) -> bool:
    return isinstance(feature, Image) or (isinstance(feature, List) and isinstance(feature.feature, Image))


def _files(value: pa.Scalar) -> list[pa.StructScalar]:
    """The files in one row of a column of pictures, or of lists of pictures."""
    if not value.is_valid:
        return []
    files = [value] if isinstance(value, pa.StructScalar) else list(value.values)
    return [file for file in files if file.is_valid]


def _key(file: pa.StructScalar) -> Hashable:
    content = file["bytes"].as_buffer()
    if content is None:
        return str(file["path"])
    return content.size, crc32(content[-min(END_BYTES, content.size) :])


def read_question(context: Any) -> str:
    """The text of a question, as a task gives it.

    Raises:
        UserError: it is no text.
    """
    if not isinstance(context, str):
        raise UserError(f"its question is not text but a {type(context).__name__}")
    return context


def read_messages(messages: Any) -> tuple[tuple[Turn, ...], tuple[Pillow.Image, ...]]:
    """The turns of a conversation as a task of lmms-eval's chat form gives it, and its pictures in order.

    Raises:
        UserError: it shows something else than texts and pictures.
    """
    turns: list[Turn] = []
    pictures: list[Pillow.Image] = []
    for message in messages:
        parts: list[str | None] = []
        for content in message["content"]:
            kind = content["type"]
            if kind == "text":
                parts.append(read_question(content["text"]))
            elif kind == "image":
                pictures.extend(read_pictures([content["url"]]))
                parts.append(None)
            else:
                raise UserError(f"its task shows a {kind}; this model sees only pictures")
        turns.append(Turn(message["role"], tuple(parts)))
    return tuple(turns), tuple(pictures)


def read_single_turn(turns: Sequence[Turn]) -> str:
    """The question of messages that are one turn; pictures behind a text are marked in it.

    Raises:
        UserError: the messages are more than a question.
    """
    if len(turns) != 1 or turns[0].role != "user":
        roles = ", ".join(turn.role for turn in turns)
        raise UserError(
            f"its task has turns of {roles}, and the prompt has room for one question; use a checkpoint with "
            "a chat template, and leave prompt out"
        )
    parts = turns[0].parts
    question = parts[next((i for i, part in enumerate(parts) if part is not None), 0) :]
    return "".join(IMAGE_MARK if part is None else part for part in (parts if None in question else question))


def read_pictures(visuals: Any) -> tuple[Pillow.Image, ...]:
    """The pictures of a document, as a task gives them; None stands for no picture.

    Raises:
        UserError: it gives something else, such as the path of a video.
    """
    given = [visuals] if isinstance(visuals, Pillow.Image) else visuals
    if given is not None and not isinstance(given, list | tuple):
        raise UserError(f"its task shows a {type(given).__name__}; this model sees only pictures")
    for visual in given or ():
        if not isinstance(visual, Pillow.Image | None):
            raise UserError(f"its task shows a {type(visual).__name__}; this model sees only pictures")
    return tuple(visual for visual in given or () if visual is not None)
