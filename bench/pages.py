"""Drawn pages of text, and questions about them as lmms-eval asks them."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value
from lmms_eval.api.instance import Instance
from PIL import Image as Pillow

from bench.end_to_end import Workload
from hired_eval.mini.canvas import Canvas, Frame, background, dark
from hired_eval.mini.vocabulary import FILLER

GRID = 224.0
"""Height of a page in the units in which mini pages are laid out."""
LINES, WORDS = 48, 18
DESIGNS = 16
QUESTIONS = ("What is the first word?", "Which word comes last?", "What is written here?", "Is there a name?")


def draw_pages(count: int, width: int, height: int, threads: int) -> list[bytes]:
    """PNG files of so many pages, no two alike, with width and height in pixels."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(partial(_draw_page, width=width, height=height), range(count)))


def ask(pages: list[bytes], questions: int, new_tokens: int) -> Workload:
    """Requests with some questions about each page, one after the other, answered in so many tokens."""
    rows = [(page, QUESTIONS[i]) for page in pages for i in range(questions)]
    columns = {
        "image": [{"bytes": page, "path": None} for page, _ in rows],
        "question": [text for _, text in rows],
    }
    features = Features({"image": Image(), "question": Value("string")})
    documents = {"pages": {"test": Dataset.from_dict(columns, features=features)}}
    requests = [
        Instance(
            "generate_until",
            (text, {"max_new_tokens": new_tokens}, _show, number, "pages", "test"),
            idx=0,
            metadata={"task": "pages", "doc_id": number, "repeats": 1},
        )
        for number, (_, text) in enumerate(rows)
    ]
    return Workload("pages", requests, documents)


def _show(document: dict[str, Any]) -> list[Pillow.Image]:
    return [document["image"].convert("RGB")]


def _draw_page(number: int, width: int, height: int) -> bytes:
    """A PNG file; pages of one design differ in the number at their end."""
    canvas = Canvas(_frame(width, height), _design(number % DESIGNS, width, height).copy())
    canvas.text(8, GRID - 6, f"page {number}", "DejaVuSerif", 3.2, (0, 0, 0))
    file = io.BytesIO()
    canvas.image.save(file, "PNG")
    return file.getvalue()


@lru_cache(DESIGNS)
def _design(seed: int, width: int, height: int) -> Pillow.Image:
    rng, frame = np.random.default_rng(seed), _frame(width, height)
    canvas = Canvas(frame, background(rng, frame, textured=False))
    for line in range(LINES):
        words = " ".join(str(word) for word in rng.choice(FILLER, WORDS))
        canvas.text(8, 4 + line * (GRID - 12) / LINES, words, "DejaVuSerif", 3.2, dark(rng))
    return canvas.image


def _frame(width: int, height: int) -> Frame:
    return Frame(2, 2, (0.0, 0.0, GRID * width / height, GRID), height / GRID)
