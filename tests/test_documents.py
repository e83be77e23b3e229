"""Documents are the data set's own, and a picture that comes again is not decoded again."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from PIL import PngImagePlugin

from hired_eval.lmms.documents import Documents

FEATURES = Features({"question": Value("string"), "image": Image(), "more": List(Image()), "second": Image()})


def _file(color: tuple[int, ...], mode: str = "RGB", form: str = "PNG", **options: Any) -> dict[str, Any]:
    content = BytesIO()
    Pillow.new(mode, (5, 3), color).save(content, form, **options)
    return {"bytes": content.getvalue(), "path": None}


def _turned() -> dict[str, Any]:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return _file((1, 2, 3), form="JPEG", exif=exif)


def _dataset(*images: dict[str, Any] | None) -> Dataset:
    rows = [{"question": str(i), "image": e, "more": [e, e], "second": None} for i, e in enumerate(images)]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The PNG files opened so far."""
    opened: list[Any] = []
    usual = PngImagePlugin.PngImageFile._open

    def opening(self: Any) -> None:
        opened.append(self)
        usual(self)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", opening)
    return opened


def test_rows_are_those_of_the_data_set(tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    Pillow.new("L", (4, 4), 7).save(there)
    on_disk = {"bytes": None, "path": str(there)}
    grey, clear = _file((9,), "L"), _file((1, 2, 3, 4), "RGBA")
    dataset = _dataset(grey, grey, clear, _turned(), None, on_disk, grey)
    documents, decoded = Documents(dataset), {}
    for i, expected in enumerate(dataset):
        row = documents.read(i, decoded)
        assert list(row) == list(expected)
        for name in ("image", "second"):
            assert (row[name] is None) == (expected[name] is None)
            if row[name] is not None:
                assert row[name].mode == expected[name].mode
                assert row[name].size == expected[name].size
                assert row[name].tobytes() == expected[name].tobytes()
        assert row["question"] == expected["question"]
        assert [p and p.tobytes() for p in row["more"]] == [p and p.tobytes() for p in expected["more"]]


def test_a_picture_that_follows_itself_is_decoded_once(decoded: list[Any]) -> None:
    red, blue = _file((255, 0, 0)), _file((0, 0, 255))
    dataset = _dataset(red, red, red, blue, red).remove_columns("more")
    documents, known = Documents(dataset), {}
    colors = [documents.read(i, known)["image"].getpixel((0, 0)) for i in range(5)]
    assert colors == [(255, 0, 0)] * 3 + [(0, 0, 255), (255, 0, 0)]
    assert len(decoded) == 3
    documents.read(4, {})
    assert len(decoded) == 4, "each reader decodes for itself"


def test_a_task_that_changes_its_picture_changes_no_other_question() -> None:
    red = _file((255, 0, 0))
    documents, decoded = Documents(_dataset(red, red)), {}
    documents.read(0, decoded)["image"].paste((0, 255, 0), (0, 0, 5, 3))
    assert documents.read(1, decoded)["image"].getpixel((0, 0)) == (255, 0, 0)


def test_a_damaged_picture_is_refused_each_time() -> None:
    red = _file((255, 0, 0))
    damaged = {"bytes": b"no picture", "path": None}
    documents, decoded = Documents(_dataset(red, damaged, damaged).remove_columns("more")), {}
    assert documents.read(0, decoded)["image"].size == (5, 3)
    for i in (1, 2):
        with pytest.raises(Pillow.UnidentifiedImageError):
            documents.read(i, decoded)


def test_rows_with_the_same_files_have_the_same_key(tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    Pillow.new("L", (4, 4), 7).save(there)
    on_disk = {"bytes": None, "path": str(there)}
    red, blue = _file((255, 0, 0)), _file((0, 0, 255))
    documents = Documents(_dataset(red, blue, red, None, on_disk, red, on_disk).remove_columns("more"))
    keys = documents.picture_keys(range(7))
    assert keys[3] is None
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3, 4, 0, 4]
    assert documents.picture_keys([5, 1]) == [keys[5], keys[1]]
    lists = Documents(_dataset(red, blue, red).select_columns(["more"])).picture_keys(range(3))
    assert lists[0] == lists[2] != lists[1]
    assert lists[0] == keys[0] * 2
    text = Documents(_dataset(red, blue).select_columns(["question"]))
    assert text.picture_keys([0, 1]) == [None, None]
