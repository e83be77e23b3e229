"""The mini benchmarks: the real schemas, disjoint seeds, guarded content, sizes that occur in practice."""

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from hired_eval import mini
from hired_eval.errors import UserError
from hired_eval.mini.benchmarks import FEATURES, ROWS, Content, content_hash
from hired_eval.mini.canvas import PINPOINTS, select_best_resolution
from hired_eval.mini.pages import KINDS
from hired_eval.mini.questions import ask_all
from hired_eval.mini.seeds import PURPOSES, page_rng
from hired_eval.mini.vocabulary import VALUES


def some_rows(name: str, count: int = 12) -> list[dict]:
    return list(itertools.islice(ROWS[name](), count))


@pytest.mark.parametrize("name", sorted(ROWS))
def test_rows_have_the_real_schema_and_repeat_exactly(name: str) -> None:
    first, second = some_rows(name), some_rows(name)
    assert all(set(row) == set(FEATURES[name]) for row in first)
    assert content_hash(first) == content_hash(second)


def test_content_hash_sees_a_changed_pixel() -> None:
    rows = some_rows("docvqa", 2)
    before = content_hash(rows)
    picture = Image.open(io.BytesIO(rows[0]["image"]["bytes"])).convert("RGB")
    picture.putpixel((0, 0), (1, 2, 3))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    rows[0]["image"] = {"bytes": buffer.getvalue(), "path": None}
    assert content_hash(rows) != before


@pytest.fixture
def drawn_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """docvqa where what is known of it differs from what is drawn here: the hash of the whole, and more."""

    def draw(**changes: Any) -> Path:
        with np.load(mini.THUMBNAILS) as file:
            known = dict(file)
        wrong = json.loads(mini.HASHES.read_text()) | {"docvqa": "0" * 16}
        (tmp_path / "hashes.json").write_text(json.dumps(wrong))
        np.savez(
            tmp_path / "known.npz", **known | {key: change(known[key]) for key, change in changes.items()}
        )
        found = Content("1" * 16, str(known["docvqa text"]), known["docvqa"])
        monkeypatch.setattr("hired_eval.mini.benchmarks.write", lambda task, file: [file.touch(), found][1])
        monkeypatch.setattr(mini, "HASHES", tmp_path / "hashes.json")
        monkeypatch.setattr(mini, "THUMBNAILS", tmp_path / "known.npz")
        (file,) = mini.write_data_files("docvqa", tmp_path / "cache").values()
        return Path(file)

    return draw


def test_a_library_that_shades_letters_otherwise_is_good_enough(drawn_otherwise: Callable[..., Path]) -> None:
    assert drawn_otherwise(docvqa=lambda pictures: np.where(pictures > 9, pictures - 2, pictures)).exists()


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("docvqa text", lambda text: np.array("0" * 16)),
        ("docvqa", lambda pictures: np.where(pictures > 200, pictures - 9, pictures)),
        ("docvqa", lambda pictures: pictures[:-1]),
    ],
)
def test_other_documents_are_refused(
    what: str, change: Callable[[Any], Any], drawn_otherwise: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"docvqa.*install pillow=="):
        drawn_otherwise(**{what: change})
    assert not list((tmp_path / "cache").glob("*"))


def test_what_is_known_is_what_is_drawn_here() -> None:
    """Within the tolerance: the lowest Pillow shades some letters otherwise than the pinned one."""
    first = Content.of(some_rows("docvqa"))
    with np.load(mini.THUMBNAILS) as known:
        differences = first.thumbnails.astype(int) - known["docvqa"][: len(first.thumbnails)]
        assert np.abs(differences).max() <= mini.TOLERANCE
        assert set(known) == {*ROWS, *(f"{name} text" for name in ROWS)}


def test_a_benchmark_is_drawn_once_and_kept(tmp_path: Path) -> None:
    (file,) = mini.write_data_files("docvqa", tmp_path).values()
    made = Path(file).stat().st_mtime_ns
    assert mini.write_data_files("docvqa", tmp_path) == {"validation": file}
    assert Path(file).stat().st_mtime_ns == made
    rows = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "hub"))
    assert len(rows) == 600
    assert rows.features == FEATURES["docvqa"]


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of"):
        mini.write_data_files("imagenet")


def test_purposes_never_share_a_page() -> None:
    draws = {
        purpose: tuple(page_rng(purpose, "docvqa", index).integers(0, 2**40) for index in range(50))
        for purpose in PURPOSES
    }
    everything = [number for numbers in draws.values() for number in numbers]
    assert len(set(everything)) == len(everything)


def test_every_grid_letterboxing_and_crowded_pages_occur() -> None:
    grids, letterboxed, crowded = Counter(), 0, 0
    for index in range(150):
        rng = page_rng("held-out", "grids", index)
        page = list(KINDS.values())[index % len(KINDS)](rng)
        width, height = page.image.size
        best = tuple(select_best_resolution((height, width), PINPOINTS))
        grids[best] += 1
        letterboxed += abs(width / height - best[1] / best[0]) > 0.05
        crowded += bool(page.facts["crowded"])
    assert set(grids) == {tuple(p) for p in PINPOINTS}
    assert letterboxed > 30
    assert crowded > 30


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_answers_are_drawn_inside_the_picture(kind: str) -> None:
    for index in range(15):
        rng = page_rng("held-out", kind, index)
        page = KINDS[kind](rng)
        width, height = page.image.size
        assert ask_all(page, rng)
        for item in page.items:
            x0, y0, x1, y1 = item.box
            assert x0 > -2
            assert y0 > -2
            assert x1 < width + 2
            assert y1 < height + 4
        shown = {word for item in page.items for word in item.sub}
        for question in ask_all(page, rng):
            if question.answer in VALUES and question.benchmark in ("docvqa", "textvqa"):
                assert question.answer in shown


def test_yes_and_no_are_balanced() -> None:
    rows = some_rows("pope", 180)
    assert Counter(row["answer"] for row in rows) == {"yes": 90, "no": 90}
    assert Counter(row["category"] for row in rows) == {"random": 60, "popular": 60, "adversarial": 60}
    pairs = some_rows("mme", 60)
    by_picture: dict[str, list[str]] = {}
    for row in pairs:
        by_picture.setdefault(row["question_id"], []).append(row["answer"])
    assert all(sorted(answers) == ["No", "Yes"] for answers in by_picture.values())


def test_annotators_mostly_agree() -> None:
    for row in some_rows("vqav2", 30):
        answers = [a["answer"] for a in row["answers"]]
        assert len(answers) == 10
        assert 7 <= answers.count(row["multiple_choice_answer"]) <= 10


def test_scienceqa_has_documents_without_an_image() -> None:
    rows = some_rows("scienceqa", 24)
    assert sum(row["image"] is None for row in rows) == 3
    assert all(row["hint"] for row in rows if row["image"] is None)
    assert np.all([0 <= row["answer"] < len(row["choices"]) for row in rows])
