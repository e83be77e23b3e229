"""Small data sets in the real benchmarks' schema, as parquet, made by the tests themselves."""

import io
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from tests import tiny


def write_docvqa(folder: Path, documents: int, images: list[Any] | None = None) -> Path:
    """DocVQA's validation split, two questions a picture; returns the folder for data.path."""
    pictures = images or [
        tiny.picture(60 + 17 * i, 200 - 13 * i, seed=i) for i in range((documents + 1) // 2)
    ]
    rows = [
        {
            "questionId": str(i),
            "question": f"what is number {i}?",
            "question_types": ["form"],
            "image": pictures[i // 2 % len(pictures)],
            "docId": i // 2,
            "ucsf_document_id": "x",
            "ucsf_document_page_no": "1",
            "answers": [f"{i}", "a"],
            "data_split": "val",
        }
        for i in range(documents)
    ]
    features = datasets.Features(
        {
            **{k: datasets.Value("string") for k in ("questionId", "question", "ucsf_document_id")},
            **{k: datasets.Value("string") for k in ("ucsf_document_page_no", "data_split")},
            "question_types": datasets.List(datasets.Value("string")),
            "image": datasets.Image(),
            "docId": datasets.Value("int64"),
            "answers": datasets.List(datasets.Value("string")),
        }
    )
    target = folder / "DocVQA"
    target.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(
        target / "validation-00000-of-00001.parquet"
    )
    return folder


def write_parquet(folder: Path, data_set: str, rows: list[dict[str, Any]]) -> Path:
    """A test split as the hub lays it out: pictures in the column `image`, else texts or lists of them."""
    text = datasets.Value("string")
    columns = {k: datasets.List(text) if isinstance(v, list) else text for k, v in rows[0].items()}
    features = datasets.Features({**columns, "image": datasets.Image()})
    target = folder / data_set
    target.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(target / "test-00000-of-00001.parquet")
    return folder


def write_mme(folder: Path, pairs: int) -> Path:
    """MME's schema, two questions a picture."""
    rows = [
        {
            "question_id": f"{i // 2}.png",
            "image": tiny.picture(50 + i // 2, 60, seed=i // 2),
            "question": f"is it number {i}? Please answer yes or no.",
            "answer": "Yes" if i % 2 == 0 else "No",
            "category": "color" if i < pairs else "code_reasoning",
        }
        for i in range(2 * pairs)
    ]
    return write_parquet(folder, "MME", rows)


def write_ocrbench(folder: Path, right: int, wrong: int) -> Path:
    """OCRBench's schema; any answer to the first `right` questions is right, any to the others wrong."""
    rows = [
        {
            "dataset": "toy",
            "question": f"what is written? {i}",
            "question_type": "Regular Text Recognition",
            "answer": ["" if i < right else "never said"],
            "image": tiny.picture(50 + i, 60, seed=i),
        }
        for i in range(right + wrong)
    ]
    return write_parquet(folder, "OCRBench", rows)


def truncated_png() -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("RGB", (80, 80), "red").save(stream, "PNG")
    return {"bytes": stream.getvalue()[:-40], "path": None}
