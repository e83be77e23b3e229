"""The eight mini benchmarks as parquet files, each in the schema of the real data set."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Sequence, Value
from PIL import Image as Pictures

from hired_eval.mini.canvas import Page, Rng
from hired_eval.mini.pages import WORD_STYLES, chart, form, shapes, signs, word
from hired_eval.mini.questions import (
    Question,
    chartqa,
    docvqa,
    mme,
    ocrbench,
    pope,
    scienceqa,
    textvqa,
    vqav2,
)
from hired_eval.mini.seeds import page_rng

Row = dict[str, Any]
TEXT, TEXTS = Value("string"), Sequence(Value("string"))

SPLITS = {
    "vqav2": "validation", "scienceqa": "test", "textvqa": "validation", "docvqa": "validation",
    "ocrbench": "test", "mme": "test", "pope": "test", "chartqa": "test",
}  # fmt: skip

FEATURES: dict[str, Features] = {
    "vqav2": Features(
        question_type=TEXT, multiple_choice_answer=TEXT,
        answers=[{"answer": TEXT, "answer_confidence": TEXT, "answer_id": Value("int64")}],
        image_id=Value("int64"), answer_type=TEXT, question_id=Value("int64"), question=TEXT, image=Image(),
    ),
    "scienceqa": Features(
        image=Image(), question=TEXT, choices=TEXTS, answer=Value("int8"), hint=TEXT, task=TEXT, grade=TEXT,
        subject=TEXT, topic=TEXT, category=TEXT, skill=TEXT, lecture=TEXT, solution=TEXT,
    ),
    "textvqa": Features(
        image_id=TEXT, question_id=Value("int32"), question=TEXT, question_tokens=TEXTS, image=Image(),
        image_width=Value("int32"), image_height=Value("int32"), flickr_original_url=TEXT,
        flickr_300k_url=TEXT,
        answers=TEXTS, image_classes=TEXTS, set_name=TEXT, ocr_tokens=TEXTS,
    ),
    "docvqa": Features(
        questionId=TEXT, question=TEXT, question_types=TEXTS, image=Image(), docId=Value("int64"),
        ucsf_document_id=TEXT, ucsf_document_page_no=TEXT, answers=TEXTS, data_split=TEXT,
    ),
    "ocrbench": Features(dataset=TEXT, question=TEXT, question_type=TEXT, answer=TEXTS, image=Image()),
    "mme": Features(question_id=TEXT, image=Image(), question=TEXT, answer=TEXT, category=TEXT),
    "pope": Features(
        id=TEXT, question_id=TEXT, question=TEXT, answer=TEXT, image_source=TEXT, image=Image(), category=TEXT
    ),
    "chartqa": Features(type=TEXT, question=TEXT, answer=TEXT, image=Image()),
}  # fmt: skip


def png(page: Page) -> dict[str, Any]:
    """The page's picture as datasets stores it."""
    buffer = io.BytesIO()
    page.image.save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def some(questions: list[Question], rng: Rng, count: int) -> list[Question]:
    """Up to ``count`` of the questions, drawn at random."""
    return [questions[i] for i in rng.permutation(len(questions))[:count]]


def annotators(answer: str, rng: Rng, wrong: list[str]) -> list[str]:
    """Ten answers of which seven to ten agree."""
    agree = int(rng.integers(7, 11))
    answers = [answer] * agree + [str(rng.choice(wrong)) for _ in range(10 - agree)]
    return [answers[i] for i in rng.permutation(10)]


def vqav2_rows() -> Iterator[Row]:
    """600 questions, up to three a picture, each kind of question as often as the pictures allow."""
    number, index = 0, 0
    wanted = ["color", "shape", "count", "yes/no"]
    kinds = {"color": "other", "shape": "other", "count": "number", "yes/no": "yes/no"}
    while number < 600:
        rng = page_rng("test", "vqav2", index)
        page = shapes(rng)
        asked = list(vqav2(page, rng))
        image = png(page)
        for offset in range(3):
            fitting = [q for q in asked if q.category == wanted[(index + offset) % 4]]
            for question in some(fitting, rng, 1):
                wrong = {
                    "color": ["gray", "dark"],
                    "shape": ["object"],
                    "count": ["many", "5"],
                    "yes/no": ["maybe"],
                }
                replies = annotators(question.answer, rng, wrong[question.category])
                yield {
                    "question_type": " ".join(question.text.split()[:2]).lower(),
                    "multiple_choice_answer": question.answer,
                    "answers": [
                        {"answer": a, "answer_confidence": "yes", "answer_id": i + 1}
                        for i, a in enumerate(replies)
                    ],
                    "image_id": index, "answer_type": kinds[question.category],
                    "question_id": index * 10 + offset,
                    "question": question.text, "image": image,
                }  # fmt: skip
                number += 1
        index += 1


def scienceqa_rows() -> Iterator[Row]:
    """600 questions: pictures of shapes, forms, and for one in eight no picture but a hint."""
    for index in range(600):
        rng = page_rng("test", "scienceqa", index)
        page = None if index % 8 == 0 else shapes(rng) if index % 8 < 6 else form(rng)
        question = some(list(scienceqa(page, rng)), rng, 1)[0]
        yield {
            "image": None if page is None else png(page), "question": question.text,
            "choices": list(question.choices), "answer": "ABCDE".index(question.answer),
            "hint": question.hint,
            "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "pictures",
            "category": question.category, "skill": "Read a picture", "lecture": "", "solution": "",
        }  # fmt: skip


def textvqa_rows() -> Iterator[Row]:
    """600 questions, up to two a scene."""
    number, index = 0, 0
    while number < 600:
        rng = page_rng("test", "textvqa", index)
        page = signs(rng)
        width, height = page.image.size
        words: list[str] = list(page.facts["signs"].values())  # type: ignore[attr-defined]
        image = png(page)
        for question in some(list(textvqa(page, rng)), rng, 2):
            yield {
                "image_id": f"{index:016x}", "question_id": number, "question": question.text,
                "question_tokens": question.text.rstrip("?").split(), "image": image, "image_width": width,
                "image_height": height, "flickr_original_url": "", "flickr_300k_url": "",
                "answers": annotators(question.answer, rng, ["unanswerable", question.answer[:-1]]),
                "image_classes": ["Sign"], "set_name": "val", "ocr_tokens": words,
            }  # fmt: skip
            number += 1
        index += 1


def docvqa_rows() -> Iterator[Row]:
    """600 questions, two a page; the value as it is and capitalised are accepted."""
    number, index = 0, 0
    while number < 600:
        rng = page_rng("test", "docvqa", index)
        page = form(rng)
        image = png(page)
        for question in some(list(docvqa(page, rng)), rng, 2):
            answers = list(dict.fromkeys([question.answer, question.answer.capitalize()]))
            yield {
                "questionId": str(number), "question": question.text, "question_types": [question.category],
                "image": image, "docId": index, "ucsf_document_id": f"mini{index:04d}",
                "ucsf_document_page_no": "1",
                "answers": answers, "data_split": "val",
            }  # fmt: skip
            number += 1
        index += 1


def ocrbench_rows() -> Iterator[Row]:
    """1,000 questions, as the real benchmark has and its score supposes; no handwritten formulas."""
    plan: list[tuple[str, Callable[[Rng], Page]]] = []
    for style in WORD_STYLES:
        plan += [(style, lambda rng, s=style: word(rng, s))] * 50  # type: ignore[misc]
    plan += [("Scene Text-centric VQA", signs)] * 233
    plan += [("Doc-oriented VQA", form)] * 233
    plan += [("Key Information Extraction", lambda rng: form(rng, "receipt"))] * 234
    for index, (category, draw) in enumerate(plan):
        rng = page_rng("test", "ocrbench", index)
        page = draw(rng)
        question = some([q for q in ocrbench(page, rng) if q.category == category], rng, 1)[0]
        yield {
            "dataset": "mini", "question": question.text, "question_type": category,
            "answer": [question.answer], "image": png(page),
        }  # fmt: skip


MME_PAGES: dict[str, Callable[[Rng], Page]] = {
    "existence": shapes, "count": shapes, "position": shapes, "color": shapes, "posters": signs, "OCR": word,
    "scene": lambda rng: [signs, chart, form][int(rng.integers(3))](rng),
    "numerical_calculation": chart, "code_reasoning": form,
}  # fmt: skip


def mme_rows() -> Iterator[Row]:
    """50 pictures with a yes and a no question in each of seven perception and two cognition categories."""
    for category, draw in MME_PAGES.items():
        found, index = 0, 0
        while found < 50:
            rng = page_rng("test", f"mme {category}", index)
            page = draw(rng)
            pair = [q for q in mme(page, rng) if q.category == category]
            image = png(page) if pair else None
            for question in pair:
                yield {
                    "question_id": f"{category}/{index:04d}.png", "image": image, "question": question.text,
                    "answer": question.answer, "category": category,
                }  # fmt: skip
            found += bool(pair)
            index += 1


def pope_rows() -> Iterator[Row]:
    """50 pictures of three shapes, 18 questions each: three categories, as many yes as no."""
    number, index, found = 0, 0, 0
    while found < 50:
        rng = page_rng("test", "pope", index)
        page = shapes(rng, 3)
        index += 1
        if len(page.facts["counts"]) < 3:  # type: ignore[arg-type]
            continue
        image = png(page)
        for question in pope(page, rng):
            yield {
                "id": str(number), "question_id": str(number), "question": question.text,
                "answer": question.answer, "image_source": f"MINI_test_{found:06d}", "image": image,
                "category": question.category,
            }  # fmt: skip
            number += 1
        found += 1


def chartqa_rows() -> Iterator[Row]:
    """600 questions, two a chart: one of the human and one of the augmented split."""
    for index in range(300):
        rng = page_rng("test", "chartqa", index)
        page = chart(rng)
        image, asked = png(page), list(chartqa(page, rng))
        for split in ("human_test", "augmented_test"):
            question = some([q for q in asked if q.category == split], rng, 1)[0]
            yield {"type": split, "question": question.text, "answer": question.answer, "image": image}


ROWS: dict[str, Callable[[], Iterator[Row]]] = {
    "vqav2": vqav2_rows, "scienceqa": scienceqa_rows, "textvqa": textvqa_rows, "docvqa": docvqa_rows,
    "ocrbench": ocrbench_rows, "mme": mme_rows, "pope": pope_rows, "chartqa": chartqa_rows,
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """What a benchmark's rows hold.

    Attributes:
        whole: `content_hash`.
        text: the same without pictures.
        thumbnails: (n, 8, 8) uint8, the pictures of the rows in grey; a row without one has none.
    """

    whole: str
    text: str
    thumbnails: np.ndarray[Any, np.dtype[np.uint8]]

    @classmethod
    def of(cls, rows: list[Row]) -> Content:
        """That of some rows."""
        pictures = [Pictures.open(io.BytesIO(row["image"]["bytes"])) for row in rows if row["image"]]
        small = [picture.convert("L").resize((8, 8), Pictures.Resampling.BOX) for picture in pictures]
        text = content_hash([{**row, "image": None} for row in rows])
        return cls(content_hash(rows), text, np.array([np.asarray(picture) for picture in small], np.uint8))


def content_hash(rows: list[Row]) -> str:
    """A hash of every field and every pixel, blind to how PNG files happen to be compressed."""
    digest = hashlib.sha256()
    for row in rows:
        for name in sorted(row):
            value = row[name]
            if name == "image" and value is not None:
                picture = Pictures.open(io.BytesIO(value["bytes"]))
                digest.update(repr(picture.size).encode() + picture.tobytes())
            else:
                digest.update(f"{name}={value!r};".encode())
    return digest.hexdigest()[:16]


def write(benchmark: str, path: Path) -> Content:
    """Write a benchmark's parquet file; returns what it holds."""
    rows = list(ROWS[benchmark]())
    columns = {name: [row[name] for row in rows] for name in FEATURES[benchmark]}
    Dataset.from_dict(columns, features=FEATURES[benchmark]).to_parquet(path)
    return Content.of(rows)
