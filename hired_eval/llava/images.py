"""Pictures as the vision tower wants them."""

from __future__ import annotations

import hashlib

from PIL import Image

from hired_eval.errors import UserError

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, decoded completely.

    Raises:
        UserError: the file is damaged, or has more than 8 bits a channel, which Pillow would clip.
    """
    if image.mode in DEEP_MODES:
        raise UserError(
            f"an image of mode {image.mode} has more than 8 bits a channel; convert it to 8 bits first"
        )
    try:
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"the image cannot be decoded: {error}") from error


def digest(image: Image.Image) -> str:
    """A hash of the picture's size and pixels, 16 hex digits."""
    content = hashlib.blake2b(f"{image.mode} {image.size} ".encode(), digest_size=8)
    content.update(image.tobytes())
    return content.hexdigest()
