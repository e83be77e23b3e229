"""`hired-eval show PICTURE`: what a method keeps of a picture, and what the model then answers."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from hired_eval.cli.composing import compose_config
from hired_eval.errors import UserError
from hired_eval.models.images import open_picture
from hired_eval.records.folder import explained_disk_errors, replacing
from hired_eval.reporting.overlay import overlay

GENERATION = {"max_new_tokens": 64, "do_sample": False}
DEFAULT_QUESTION = "Describe the picture in one sentence."
LEAST_WIDTH = 300
"""Pixels of a partition in the overlay, at least."""


def make_parser() -> argparse.ArgumentParser:
    """The options of the command that are none of a run."""
    parser = argparse.ArgumentParser(
        prog="hired-eval show",
        usage="%(prog)s PICTURE [NAME=VALUE ...] [--question TEXT] [--out FILE] [--config-dir FOLDER]",
        description=__doc__,
        epilog="NAME=VALUE as for a run: method=hired budget=0.2 method.alpha=0.3 model=mini device=cpu",
    )
    parser.add_argument("--question", default=DEFAULT_QUESTION, help="what the model is asked")
    parser.add_argument("--out", type=Path, help="the overlay's file (PICTURE-METHOD.png)")
    parser.add_argument("--config-dir", type=Path, help="folder of your own configs")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the overlay and print the answer."""
    parser = make_parser()
    chosen, words = parser.parse_known_args(arguments)
    named = words and not words[0].startswith("-")
    if not named or (re.match(r"[\w.]+=", words[0]) and not Path(words[0]).exists()):
        parser.error("name a picture first")
    try:
        _refuse_unquoted(sys.argv[2:] if arguments is None else arguments)
        _show(Path(words[0]), words[1:], chosen)
    except UserError as error:
        sys.exit(f"error: {error}")


def _refuse_unquoted(arguments: Sequence[str]) -> None:
    """Refuse words behind `--question` that are more of the question.

    Raises:
        UserError: saying how it is put in quotes.
    """
    place = [*arguments, "--question"].index("--question")
    text = [*takewhile(lambda word: not re.match(r"-|[+\w./]+=", word), arguments[place + 1 :])]
    if place and len(text) > 1:
        raise UserError(f'the question has several words; put it in quotes: --question "{" ".join(text)}"')


def _show(file: Path, overrides: list[str], chosen: argparse.Namespace) -> None:
    """Load, keep, answer, draw.

    Raises:
        UserError: a name, an option, the picture, the checkpoint, or the file to write.
    """
    picture = open_picture(file)
    resolved = compose_config(overrides, chosen.config_dir)

    import torch  # seconds, which a mistake in the picture's name need not cost

    from hired_eval.models.answering import DroppingVLM, Question
    from hired_eval.models.configs import typed_text
    from hired_eval.runs.loading import Models
    from hired_eval.runs.options import build_dropper, read_config
    from hired_eval.runs.plan import find_checkpoint
    from hired_eval.runs.probes import partitions_of, places_of

    config = read_config(resolved)
    dropper = build_dropper(config.method, config.of_method)
    question = typed_text("--question", chosen.question)
    checkpoint = Models().get(
        find_checkpoint(config.model),
        config.model,
        config.device,
        config.seed,
        fixed_grid=config.protocol.fixed_grid,
    )
    llava = DroppingVLM(checkpoint, dropper, config.model.prompt)
    with torch.inference_mode():
        prepared = llava.prepare(Question(question, (picture,)))
        answer = llava.answer([prepared], dict(GENERATION))[0].text
        partitions = partitions_of(llava, picture)
    tokens = prepared.images[0]
    kept = places_of(tokens)
    layout = tokens.layout
    scale = max(1, -(-LEAST_WIDTH // partitions.shape[1]))
    drawn = overlay(partitions, (layout.rows, layout.cols), kept, layout.tile[0], scale)
    out = chosen.out or Path(f"{file.stem}-{config.method.label.lower().replace(' ', '')}.png")
    with explained_disk_errors(out), replacing(out) as temporary:
        drawn.save(temporary, "PNG")
    counts = tokens.counts
    of_budget = f", budget {counts.allowed}" if counts.allowed is not None else ""
    merged = int(np.sum(kept[:, 1] < 0))
    made_of_many = f", {merged} of them made of many" if merged else ""
    print(f"answer: {answer}")
    print(f"visual tokens: {counts.kept} of {counts.full}{of_budget}{made_of_many}")
    print(f"overlay: {out}")
