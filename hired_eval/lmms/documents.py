"""Documents as lmms-eval's tasks read them, without decoding a picture again for its next question."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Image
from PIL import Image as Pillow

from hired_eval.errors import UserError


class Documents:
    """Rows of a data set.

    Questions about one picture stand in rows of their own, each with the picture's file, and mostly follow
    each other: the picture decoded last in each column is kept, and the next row with the same file gets a
    copy of it.

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
        self._last: dict[str, tuple[bytes, Pillow.Image]] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row, pictures decoded; what a picture that cannot be decoded raises is Pillow's."""
        row: dict[str, Any] = self._encoded[index]
        return row | {name: self._picture(name, row[name]) for name in self._features}

    def _picture(self, column: str, value: dict[str, Any] | None) -> Pillow.Image | None:
        if value is None:
            return None
        content = value["bytes"]
        if content is None:
            picture: Pillow.Image = self._features[column].decode_example(value)
            return picture
        if column not in self._last or self._last[column][0] != content:
            self._last[column] = content, self._features[column].decode_example(value)
        # a copy, so that a task that changes its picture does not change the next question's
        return self._last[column][1].copy()


def read_question(context: Any) -> str:
    """The text of a question, as a task gives it.

    Raises:
        UserError: it is no text.
    """
    if not isinstance(context, str):
        raise UserError(f"its question is not text but a {type(context).__name__}")
    return context


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
