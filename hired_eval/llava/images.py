"""Pictures as the vision tower wants them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile

from hired_eval.errors import UserError

# of Pillow for a damaged picture, and of the task itself for a document without the picture it expects
UNREADABLE = (
    OSError, SyntaxError, ValueError, Image.DecompressionBombError, AttributeError, KeyError, TypeError
)  # fmt: skip
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@contextmanager
def whole_pictures() -> Iterator[None]:
    """Pillow refuses a truncated file while the block runs; lmms-eval makes it fill the rest with grey."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def refuse_deep(image: Image.Image) -> None:
    """Refuse a picture of more than 8 bits a channel, which Pillow's conversion to RGB clips to white.

    Raises:
        UserError: naming the mode.
    """
    if image.mode in DEEP_MODES:
        raise UserError(
            f"an image of mode {image.mode} has more than 8 bits a channel; convert it to 8 bits first"
        )


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, decoded completely; of an animation the first frame.

    Raises:
        UserError: the file is damaged or truncated, or has more than 8 bits a channel.
    """
    refuse_deep(image)
    try:
        with whole_pictures():
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"the image cannot be decoded: {error}") from error


def digest(image: Image.Image) -> str:
    """A hash of the picture's size and pixels, 16 hex digits."""
    content = hashlib.blake2b(f"{image.mode} {image.size} ".encode(), digest_size=8)
    content.update(image.tobytes())
    return content.hexdigest()
