"""Pictures of every kind: read right, or refused by name."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from hired_eval import Full
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.images import as_rgb, digest, whole_pictures
from tests import tiny
from tests.data import truncated_png, write_docvqa
from tests.spine import run_quietly

EIGHT_BITS = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "LA", "PA", "RGBX", "RGBa", "La"]
ORIENTATION = 0x0112


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
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 255)), (1, 2, 3)),
        (Image.new("RGBA", (2, 2), (0, 100, 200, 127)), (128, 178, 228)),
        (Image.new("LA", (2, 2), (0, 51)), (204, 204, 204)),
        (Image.new("PA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (9, 9, 9, 0)).convert("RGBa"), (255, 255, 255)),
        (Image.new("LA", (2, 2), (0, 51)).convert("La"), (204, 204, 204)),
        (Image.new("YCbCr", (2, 2), (255, 128, 128)), (255, 255, 255)),
    ],
    ids=[
        "grey",
        "bits",
        "cmyk",
        "palette",
        "transparent",
        "opaque",
        "translucent",
        "grey alpha",
        "palette alpha",
        "premultiplied",
        "grey premultiplied",
        "ycbcr",
    ],
)
def test_colors_are_kept(image: Image.Image, color: tuple[int, int, int]) -> None:
    assert as_rgb(image).getpixel((0, 0)) == color


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B"])
def test_deep_pictures_are_refused(mode: str) -> None:
    with pytest.raises(UserError, match=f"mode {mode} has more than 8 bits a channel; convert it to 8 bits"):
        as_rgb(Image.new(mode, (5, 5)))


@pytest.mark.parametrize(
    ("mode", "key"),
    [("P", 0), ("P", b"\x00\xff"), ("L", 0), ("RGB", (0, 0, 0)), ("1", 0)],
    ids=["index", "table", "grey", "color", "bits"],
)
def test_what_a_key_makes_transparent_is_white(mode: str, key: Any) -> None:
    file = encoded(Image.new(mode, (4, 4)), "PNG", transparency=key)
    image = Image.open(io.BytesIO(file["bytes"]))
    assert image.info["transparency"] is not None
    assert as_rgb(image).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(image.convert("RGB")).getpixel((0, 0)) == (255, 255, 255), "the key survives a conversion"


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"an image of {size[0]} x {size[1]} pixels has nothing to see"):
        as_rgb(Image.new("RGB", size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_once_as_a_viewer_turns_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(tiny.picture(8, 5), kind, exif=exif, **options)["bytes"]
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert shown.size == ((5, 8) if orientation in (5, 6, 7, 8) else (8, 5))
    of_a_data_set = datasets.Image().decode_example({"bytes": content, "path": None})
    once = as_rgb(Image.open(io.BytesIO(content)))
    for seen in (once, as_rgb(once), as_rgb(of_a_data_set), as_rgb(of_a_data_set.convert("RGB"))):
        assert digest(seen) == digest(shown.convert("RGB"))
    named = as_rgb(Image.open(io.BytesIO(content)).convert("RGB"))
    assert digest(named) == digest(once), "a conversion by the task keeps the orientation"


def test_an_orientation_in_xmp_counts() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    content = encoded(tiny.picture(8, 5), "JPEG", xmp=xmp)["bytes"]
    of_a_data_set = datasets.Image().decode_example({"bytes": content, "path": None})
    assert as_rgb(Image.open(io.BytesIO(content))).size == as_rgb(of_a_data_set).size == (5, 8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "damaged",
    [b"Exif\x00\x00XX*\x00", b"Exif\x00\x00MM\x00*\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"?"],
    ids=["header", "cut", "offset", "nothing"],
)
def test_damaged_exif_data_say_nothing(kind: str, damaged: bytes) -> None:
    upright = tiny.picture(8, 5)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(upright, kind, exif=damaged, **options)["bytes"]
    expected = Image.open(io.BytesIO(encoded(upright, kind, **options)["bytes"])).convert("RGB")
    assert digest(as_rgb(Image.open(io.BytesIO(content)))) == digest(expected)


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Pictures of every mode, with and without transparency and orientation."""
    mode = draw(
        st.sampled_from(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
    )
    size = draw(st.sampled_from([(1, 1), (7, 5), (40, 90), (90, 30)]))
    channels = {"1": "L", "P": "L", "PA": "LA"}.get(mode, mode)
    noise = np.random.default_rng(draw(st.integers(0, 99))).bytes(len(Image.new(channels, size).tobytes()))
    image = Image.frombytes(channels, size, noise)
    if mode in ("P", "PA"):
        image.putpalette(list(range(256)) * 3)
    else:
        image = image.convert(mode)
    if mode in ("1", "L", "P", "RGB") and draw(st.booleans()):
        keys = {"RGB": (0, 0, 0), "P": draw(st.sampled_from([7, bytes(range(256))]))}
        image.info["transparency"] = keys.get(mode, 0)
    exif = Image.Exif()
    exif[ORIENTATION] = draw(st.integers(1, 8))
    image.info["exif"] = exif.tobytes()
    return image


@pytest.mark.parametrize("architecture", ["llava", "llava_next"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(picture=pictures())
def test_the_tower_sees_what_the_stock_processor_makes_of_the_upright_picture(
    architecture: str, picture: Image.Image, request: pytest.FixtureRequest
) -> None:
    parts = request.getfixturevalue(architecture)
    llava = DroppingVLM(Checkpoint(*parts), Full(), "{images}{question}")
    upright = ImageOps.exif_transpose(picture)
    stock = parts[1].image_processor(images=[upright], return_tensors="pt")["pixel_values"]
    stock = stock[0] if stock.dim() == 5 else stock
    seen = llava.pictures.read(as_rgb(picture))
    assert torch.equal(seen.pixels, stock[: seen.layout.partitions])
    assert llava.prepare(Question("?", (picture,))).digests == (digest(as_rgb(upright)),)


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


def test_blocks_and_threads_in_any_order_leave_pillow_as_it_was() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    first, second = whole_pictures(), whole_pictures()
    first.__enter__()
    with whole_pictures():
        pass
    second.__enter__()
    first.__exit__(None, None, None)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "the second block still runs"
    cut = truncated_png()["bytes"]

    def refused(_: int) -> bool:
        with pytest.raises(UserError, match="truncated"):
            as_rgb(Image.open(io.BytesIO(cut)))
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(refused, range(40)))
    second.__exit__(None, None, None)
    assert before == ImageFile.LOAD_TRUNCATED_IMAGES


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
