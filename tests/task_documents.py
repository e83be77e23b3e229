"""Documents in the schemas of lmms-eval's tasks, made up for the tests."""

from pathlib import Path
from typing import Any

import datasets

from tests import tiny

LETTERS = "ABCD"


def picture(i: int) -> Any:
    return tiny.picture(40 + 3 * i, 50, seed=i)


def choices(i: int) -> dict[str, Any]:
    """A question with four options; the answers to the first two thirds are A."""
    return {
        "index": i,
        "question": f"which is it? {i}",
        "answer": LETTERS[0 if i < 4 else 1],
        "image": picture(i),
    }


def mmstar(i: int) -> dict[str, Any]:
    return choices(i) | {"category": "math", "l2_category": "geometry" if i else "numbers"}


def mmmu(i: int) -> dict[str, Any]:
    subject = "Art" if i else "Music"
    return {
        "id": f"validation_{subject}_{i}",
        "question": "What is in <image 1>?",
        "options": "['one', 'two']",
        "answer": LETTERS[i % 2],
        "question_type": "multiple-choice",
        "image_1": picture(i),
    }


def mmbench(i: int) -> dict[str, Any]:
    texts = {"A": "one", "B": "two", "C": "three", "D": "four", "hint": "nan", "source": "x", "split": "dev"}
    return choices(i) | texts | {"category": "a" if i else "b", "L2-category": "c"}


def seedbench(i: int) -> dict[str, Any]:
    asked = {f"choice_{letter}": letter for letter in "abcd"}
    pictures = [picture(i), picture(i + 9)][: 1 + i % 2]
    return choices(i) | asked | {"data_type": "image", "question_id": str(i), "image": pictures}


def hallusion(i: int) -> dict[str, Any]:
    return choices(i) | {"category": "VD", "gt_answer": "1", "gt_answer_details": "yes"}


def mathvista(i: int) -> dict[str, Any]:
    return {
        **{"pid": str(i), "question": "how many?", "choices": ["1", "2"], "answer": "1", "query": "q"},
        **{"question_type": "multi_choice", "answer_type": "text", "precision": "1.0", "unit": ""},
        "decoded_image": picture(i),
    }


def ai2d(i: int) -> dict[str, Any]:
    return choices(i) | {"options": ["one", "two", "three"], "answer": str(i % 3)}


def vqa(i: int) -> dict[str, Any]:
    return {"question": "what is it?", "question_id": str(i), "answers": ["A" if i % 2 else "B"] * 4} | {
        **{"answer": "A", "questionId": str(i), "category": "x"},
        "image": picture(i),
    }


def multidocvqa(i: int) -> dict[str, Any]:
    pages = {f"image_{page}": picture(page) if page <= 1 + i % 2 else None for page in range(1, 21)}
    return {"questionId": str(i), "question": "what?", "answers": f"['{LETTERS[i % 2]}']"} | pages


def blink(i: int) -> dict[str, Any]:
    texts = {"prompt": "which?", "question": "which?", "answer": f"({LETTERS[i % 2]})", "idx": str(i)}
    pictures = {"image_1": picture(i), "image_2": picture(i + 9) if i % 2 else None}
    return texts | pictures | {"choices": ["one", "two"], "sub_task": "Counting"}


def muirbench(i: int) -> dict[str, Any]:
    texts = {"idx": str(i), "task": "a" if i else "b", "image_relation": "x", "image_type": "y"}
    pictures = [picture(i), picture(i + 9)]
    return choices(i) | texts | {"options": ["one", "two"], "image_list": pictures}


def caption(i: int) -> dict[str, Any]:
    return {"img_id": str(i), "caption": [f"a picture {i}"], "answer": ["x"], "image": picture(i)}


def refcoco(i: int) -> dict[str, Any]:
    asked = {"question_id": str(i), "question": "where?", "answer": ["the red one", "it"], "file_name": "x"}
    return asked | {"bbox": [1.0, 2.0, 20.0, 30.0], "image": picture(i)}


def feature(value: Any) -> Any:
    if isinstance(value, list):
        return datasets.List(feature(value[0]))
    if hasattr(value, "convert"):
        return datasets.Image()
    return datasets.Value({int: "int64", float: "float64"}.get(type(value), "string"))


def write(target: Path, split: str, rows: list[dict[str, Any]]) -> None:
    """Documents as a split in a folder, as on the hub."""
    known = {key: value for row in rows for key, value in row.items() if value is not None}
    features = datasets.Features({key: feature(known.get(key, picture(0))) for key in rows[0]})
    target.mkdir(parents=True)
    rows_set = datasets.Dataset.from_list(rows, features=features)
    rows_set.to_parquet(target / f"{split}-00000-of-00001.parquet")
