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


def truncated_png() -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("RGB", (80, 80), "red").save(stream, "PNG")
    return {"bytes": stream.getvalue()[:-40], "path": None}
