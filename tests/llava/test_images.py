"""Pictures of every kind: read right, or refused by name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from hired_eval.errors import UserError
from hired_eval.llava.images import as_rgb, digest
from tests import tiny
from tests.data import truncated_png, write_docvqa
from tests.spine import run_quietly

EIGHT_BITS = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "LA", "PA", "RGBX", "RGBa"]


def encoded(image: Image.Image, kind: str, **options: Any) -> dict[str, Any]:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize("mode", EIGHT_BITS)
def test_pictures_of_eight_bits_keep_their_size(mode: str) -> None:
    rgb = as_rgb(Image.new(mode, (7, 5)))
    assert (rgb.mode, rgb.size) == ("RGB", (7, 5))


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGB", (2, 2), (1, 2, 3)).convert("P", palette=Image.Palette.ADAPTIVE), (1, 2, 3)),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), (1, 2, 3)),
        (Image.new("YCbCr", (2, 2), (255, 128, 128)), (255, 255, 255)),
    ],
    ids=["grey", "bits", "cmyk", "palette", "alpha", "ycbcr"],
)
def test_colors_are_kept(image: Image.Image, color: tuple[int, int, int]) -> None:
    assert as_rgb(image).getpixel((0, 0)) == color


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B"])
def test_deep_pictures_are_refused(mode: str) -> None:
    with pytest.raises(UserError, match=f"mode {mode} has more than 8 bits a channel; convert it to 8 bits"):
        as_rgb(Image.new(mode, (5, 5)))


def test_a_conversion_that_pillow_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be decoded: conversion from La"):
        as_rgb(Image.new("La", (5, 5)))


def test_truncated_files_are_refused_though_lmms_eval_fills_them_up() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    assert before, "lmms-eval sets this on import"
    with pytest.raises(UserError, match=r"cannot be decoded: .*truncated"):
        as_rgb(Image.open(io.BytesIO(truncated_png()["bytes"])))
    assert before == ImageFile.LOAD_TRUNCATED_IMAGES


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert as_rgb(Image.open(io.BytesIO(file["bytes"]))).getpixel((0, 0)) == (255, 0, 0)


def test_a_digest_tells_pictures_apart() -> None:
    wide, high = Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))
    assert digest(wide) == digest(wide.copy())
    assert len({digest(wide), digest(high), digest(wide.convert("L")), digest(tiny.picture(2, 3))}) == 4


def test_a_picture_is_turned_as_its_exif_says(tiny_checkpoint: Path, tmp_path: Path) -> None:
    upright = tiny.picture(40, 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it
    lying = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    data = write_docvqa(tmp_path / "data", 4, [upright, lying])
    options = [f"model.path={tiny_checkpoint}", f"data.path={data}", f"runs_dir={tmp_path / 'runs'}"]
    outcome = run_quietly(*options)
    images = pd.read_parquet(outcome.folder / "samples.parquet")["image"]
    assert images.nunique() == 1


def sixteen_bits() -> dict[str, Any]:
    return encoded(Image.fromarray((np.arange(2500).reshape(50, 50) * 20).astype("uint16")), "PNG")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (sixteen_bits(), "docvqa_val document 2: an image of mode I;16 has more than 8 bits a channel"),
        (truncated_png(), "docvqa_val document 2: its image cannot be read: image file is truncated"),
        ({"bytes": b"no picture", "path": None}, "docvqa_val document 2: its image cannot be read"),
        (None, "docvqa_val document 2: its image cannot be read"),
    ],
    ids=["16 bits", "truncated", "no picture", "none"],
)
def test_a_picture_that_cannot_be_read_stops_the_run_by_name(
    picture: Any, message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = write_docvqa(tmp_path / "data", 4, [tiny.picture(50, 50), picture])
    with pytest.raises(UserError) as stopped:
        run_quietly(f"model.path={tiny_checkpoint}", f"data.path={data}", f"runs_dir={tmp_path / 'runs'}")
    assert message in str(stopped.value)


def test_a_decompression_bomb_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    data = write_docvqa(tmp_path / "data", 4, [tiny.picture(50, 50), encoded(tiny.picture(200, 90), "PNG")])
    with pytest.raises(UserError, match=r"document 2: its image cannot be read: .*decompression bomb"):
        run_quietly(f"model.path={tiny_checkpoint}", f"data.path={data}", f"runs_dir={tmp_path / 'runs'}")
