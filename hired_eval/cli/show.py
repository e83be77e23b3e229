"""`hired-eval show PICTURE`: what a method keeps of a picture, and what the model then answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hired_eval.errors import UserError
from hired_eval.models.images import open_picture
from hired_eval.paths import config_folder
from hired_eval.records.record import explained_disk_errors, replacing
from hired_eval.reporting.overlay import overlay

GENERATION = {"max_new_tokens": 64, "do_sample": False}
DEFAULT_QUESTION = "Describe the picture in one sentence."
LEAST_WIDTH = 300
"""Pixels of a partition in the overlay, at least."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the overlay and print the answer."""
    parser = argparse.ArgumentParser(prog="hired-eval show", description=__doc__)
    parser.add_argument("picture", type=Path, help="an image file")
    parser.add_argument("--method", default="hired", help="name of the dropping method")
    parser.add_argument("--budget", help="token budget, above 0 and at most 1 (the method's own)")
    parser.add_argument("--question", default=DEFAULT_QUESTION, help="what the model is asked")
    parser.add_argument(
        "--prompt", help="template with {images} and {question}, or the name of a model config"
    )
    parser.add_argument("--model", default="mini", help="name of a model config")
    parser.add_argument("--model-path", help="folder of its checkpoint, where it is not the config's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, ...")
    parser.add_argument("--out", type=Path, help="the overlay's file (PICTURE-METHOD.png)")
    parser.add_argument(
        "options", nargs="*", metavar="name=value", help="options of the method, e.g. alpha=0.3"
    )
    chosen = parser.parse_intermixed_args(arguments)
    try:
        _show(chosen)
    except UserError as error:
        sys.exit(f"error: {error}")


def _show(chosen: argparse.Namespace) -> None:
    """Load, keep, answer, draw.

    Raises:
        UserError: a name, an option, the picture, the checkpoint, or the file to write.
    """
    picture = open_picture(chosen.picture)
    options = _options(chosen.options)
    if chosen.budget is not None:
        options["budget"] = chosen.budget

    import torch  # seconds, which a mistake in the picture's name need not cost

    from hired_eval.dropping.registry import build_as_typed
    from hired_eval.models.answering import DroppingVLM, Question
    from hired_eval.models.configs import prompt_named, typed_text
    from hired_eval.runs.loading import Models
    from hired_eval.runs.options import read_model
    from hired_eval.runs.plan import find_checkpoint
    from hired_eval.runs.probes import partitions_of, places_of

    dropper = build_as_typed(chosen.method, options)
    model = read_model(_model_config(chosen.model, chosen.model_path))
    prompt = prompt_named(chosen.prompt) if chosen.prompt else model.prompt
    question = typed_text("--question", chosen.question)
    checkpoint = Models().get(find_checkpoint(model), model, chosen.device, 0)
    llava = DroppingVLM(checkpoint, dropper, prompt)
    with torch.inference_mode():
        prepared = llava.prepare(Question(question, (picture,)))
        answer = llava.answer([prepared], dict(GENERATION))[0].text
        partitions = partitions_of(llava, picture)
    tokens = prepared.images[0]
    kept = places_of(tokens)
    layout = tokens.layout
    scale = max(1, -(-LEAST_WIDTH // partitions.shape[1]))
    drawn = overlay(partitions, (layout.rows, layout.cols), kept, layout.tile[0], scale)
    out = chosen.out or Path(f"{chosen.picture.stem}-{chosen.method}.png")
    with explained_disk_errors(out), replacing(out) as temporary:
        drawn.save(temporary, "PNG")
    counts = tokens.counts
    of_budget = f", budget {counts.allowed}" if counts.allowed is not None else ""
    merged = int(np.sum(kept[:, 1] < 0))
    made_of_many = f", {merged} of them made of many" if merged else ""
    print(f"answer: {answer}")
    print(f"visual tokens: {counts.kept} of {counts.full}{of_budget}{made_of_many}")
    print(f"overlay: {out}")


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """'alpha=0.3' as an option, its value as typed.

    Raises:
        UserError: a word without '='.
    """
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"{pair!r} is not an option; write name=value")
    return dict(pair.split("=", 1) for pair in pairs)


def _model_config(name: str, path: str | None) -> dict[str, Any]:
    """A model config by name, with another checkpoint folder where one is named.

    Raises:
        UserError: no such config.
    """
    file = config_folder() / "model" / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.yaml")))
        raise UserError(f"there is no model {name!r}; known: {known}")
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    return {**config, "path": path} if path else config
