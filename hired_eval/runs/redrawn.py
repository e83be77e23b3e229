"""What a finished run kept of some pictures, found by encoding them again; nothing is answered anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from hired_eval.errors import UserError, first_line
from hired_eval.lmms.documents import read_pictures
from hired_eval.models.answering import DroppingVLM
from hired_eval.models.images import UNREADABLE, as_rgb, whole_pictures
from hired_eval.records.record import Record
from hired_eval.runs.loading import Models
from hired_eval.runs.options import read_config
from hired_eval.runs.plan import Say, plan_run
from hired_eval.runs.probes import Asked, gallery

ONE_TOKEN = {"max_new_tokens": 1, "do_sample": False}
"""The answer is in the run's samples."""


@dataclass(frozen=True)
class Redrawn:
    """Kept tokens of one document's picture.

    Attributes:
        picture: its partitions side by side, as the vision tower sees them.
        arrays: as `measure=gallery` leaves them, those of its first picture.
        kept: visual tokens given to the language model.
        full: of the stock model.
    """

    picture: Image
    arrays: dict[str, np.ndarray]
    kept: int
    full: int


def redraw(record: Record, documents: Sequence[int], models: Models, say: Say) -> dict[int, Redrawn]:
    """Kept tokens of the documents of a finished run that have one picture, by number of the document.

    Args:
        record: of the run.
        documents: their numbers.
        models: keeps the checkpoint for another run with it.
        say: called with one line about what is being done.

    Raises:
        UserError: checkpoint or documents cannot be loaded, or are others than those of the run.
    """
    plan = plan_run(read_config(record.config))
    now, then = plan.record.identity, record.identity
    if (now.checkpoint, now.documents) != (then.checkpoint, then.documents):
        raise UserError(f"the checkpoint or the documents of {record.run} have changed since; run it again")
    task, asked = plan.load_task(), []
    with whole_pictures():
        for number in documents:
            try:
                pictures = read_pictures(task.doc_to_visual(task.eval_docs[number]))
            except UNREADABLE as error:
                raise UserError(
                    f"the picture of document {number} cannot be read: {first_line(error)}"
                ) from error
            if len(pictures) == 1:
                asked.append(Asked(number, "", as_rgb(pictures[0]), "", dict(ONE_TOKEN)))
        llava = DroppingVLM(
            plan.load_checkpoint(models, say), plan.dropper, plan.config.model.prompt, share_prefix=False
        )
        with torch.inference_mode():
            found = gallery(llava, asked)
    return {one.doc_id: _at(i, found.pictures, found.arrays, found.rows) for i, one in enumerate(asked)}


def _at(
    i: int, pictures: dict[str, Image], arrays: dict[str, np.ndarray], rows: list[dict[str, Any]]
) -> Redrawn:
    """The i-th of what `measure=gallery` finds."""
    of_first = {
        name.removesuffix(f"_{i}") + "_0": array for name, array in arrays.items() if name.endswith(f"_{i}")
    }
    return Redrawn(pictures[f"{i}.png"], of_first, int(rows[i]["kept"]), int(rows[i]["full"]))
