"""Pictures as the vision tower wants them: upright, on white, in RGB."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from hired_eval.errors import UserError, first_line

# of Pillow for a damaged picture
DAMAGED = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
# and of the task itself for a document without the picture it expects
UNREADABLE = (*DAMAGED, AttributeError)
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
# what brings a picture of that EXIF orientation upright (Exif 2.32, tag 0x0112)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Strictness:
    """Pillow's setting for truncated files, which is one for the whole process.

    The first block that wants whole pictures sets it and the last one to end puts it back, in whatever order
    blocks and threads come and go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before = False

    def enter(self) -> None:
        """A block begins."""
        with self._lock:
            if self._blocks == 0:
                self._before = ImageFile.LOAD_TRUNCATED_IMAGES
            self._blocks += 1
            # every time, since lmms-eval sets it where it is imported within a block
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def leave(self) -> None:
        """A block ends."""
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._before


_STRICTNESS = _Strictness()


@contextmanager
def whole_pictures() -> Iterator[None]:
    """Pillow refuses a truncated file while the block runs; lmms-eval makes it fill the rest with grey."""
    _STRICTNESS.enter()
    try:
        yield
    finally:
        _STRICTNESS.leave()


def refuse_deep(image: Image.Image) -> None:
    """Refuse a picture of more than 8 bits a channel, which Pillow's conversion to RGB clips to white.

    Raises:
        UserError: naming the mode.
    """
    if image.mode in DEEP_MODES:
        raise UserError(
            f"an image of mode {image.mode} has more than 8 bits a channel; convert it to 8 bits first"
        )


def refuse_deep_pictures(document: Mapping[str, Any]) -> None:
    """Refuse a document with such a picture, before the task's own conversion to RGB hides what was lost.

    Raises:
        UserError: naming the mode.
    """
    for value in document.values():
        for picture in value if isinstance(value, list) else [value]:
            if isinstance(picture, Image.Image):
                refuse_deep(picture)


def open_picture(file: Path) -> Image.Image:
    """The picture in a file, as `as_rgb` gives it.

    Raises:
        UserError: no such file, not a picture, or one that `as_rgb` refuses; the message names the file.
    """
    try:
        with Image.open(file) as image:
            return as_rgb(image)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{file} is not a picture that Pillow can read") from error
    except OSError as error:
        raise UserError(f"{file} cannot be opened: {error.strerror or error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{file} is too large: {error}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it and as the model sees it: upright, on white, in RGB.

    It is decoded completely; of an animation the first frame counts. The result carries neither orientation
    nor transparency any more, so that a second call changes nothing.

    Raises:
        UserError: the file is damaged or truncated, has more than 8 bits a channel, or no pixels.
    """
    refuse_deep(image)
    if 0 in image.size:
        raise UserError(f"an image of {image.width} x {image.height} pixels has nothing to see")
    try:
        with whole_pictures():
            image.load()
            rgb = _on_white(_upright(image))
    except DAMAGED as error:
        raise UserError(f"the image cannot be decoded: {first_line(error)}") from error
    rgb.info = {}
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; EXIF data that cannot be read say nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGED:
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _on_white(image: Image.Image) -> Image.Image:
    """The picture in RGB, what is transparent laid on white, as transformers' image processors do."""
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if image.info.get("transparency") is None and not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def pad_to_square(image: Image.Image, side: int, colour: Sequence[int]) -> Image.Image:
    """An RGB picture in the middle of a square of one colour, side x side pixels."""
    if image.size == (side, side):
        return image
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), tuple(colour))
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    return square.resize((side, side), Image.Resampling.BICUBIC)


def digest(image: Image.Image, pixels: bytes | None = None) -> str:
    """A hash of the picture's size and pixels, 16 hex digits.

    Args:
        image: the picture.
        pixels: its `tobytes()`, where they are at hand; else they are copied once more.
    """
    content = hashlib.blake2b(f"{image.mode} {image.size} ".encode(), digest_size=8)
    content.update(image.tobytes() if pixels is None else pixels)
    return content.hexdigest()
