"""GQA's pictures: a data set of their own, which its questions name by id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from PIL.Image import Image

from hired_eval.errors import UserError
from hired_eval.lmms.columns import read_picture_columns
from hired_eval.lmms.local_data import Wanted, find_local_files

GQA = Wanted("lmms-lab-encoder/GQA", "testdev_balanced_images", "testdev")
FETCHES = "gqa_process_docs"
"""lmms-eval's function that fetches them from the hub, and writes one anew for each question."""


def pictures_apart(config: dict[str, Any]) -> Wanted | None:
    """The data set that holds the pictures of a task; None where they are in the documents.

    Args:
        config: of the task.
    """
    return GQA if getattr(config.get("process_docs"), "__name__", "") == FETCHES else None


def find_picture_files(folder: Path, questions: Wanted, pictures: Wanted) -> list[Path]:
    """The files of a local copy that hold the pictures.

    Args:
        folder: `data.path`; where it is the config of the questions, the pictures are in the folder above.
        questions: what the task reads.
        pictures: see `pictures_apart`.

    Raises:
        UserError: see `find_local_files`.
    """
    folder = folder.expanduser().absolute()
    return find_local_files(folder.parent if folder.name == questions.config else folder, pictures)


def read_pictures_apart(asked: Wanted, files: list[Path] | None) -> Dataset:
    """The pictures: columns `id` and `image`.

    Args:
        asked: the data set.
        files: a local copy; None for the hub.
    """
    if files is None:
        return load_dataset(asked.repository, asked.config, split=asked.split)
    kwargs = {"data_files": [str(file) for file in files], "features": read_picture_columns(files[0])}
    return load_dataset("parquet", split="train", **kwargs)


def shown_from(pictures: Dataset) -> Callable[[dict[str, Any]], list[Image]]:
    """What gives a document's picture, as lmms-eval's task gives it.

    Args:
        pictures: see `read_pictures_apart`.
    """
    places = {name: i for i, name in enumerate(pictures["id"])}

    def show(document: dict[str, Any]) -> list[Image]:
        name = document["imageId"]
        if name not in places:
            raise UserError(f"picture {name} is not among the {len(places)} of {GQA}; copy it whole")
        picture: Image = pictures[places[name]]["image"]
        return [picture.convert("RGB")]

    return show
