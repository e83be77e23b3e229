"""The committed results: one Parquet file of samples, and what they were made with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from hired_eval.errors import UserError
from hired_eval.records.folder import explained_disk_errors, replacing
from hired_eval.reporting.regression import COLUMNS
from hired_eval.runs.identity import fingerprint
from hired_eval.runs.options import ModelOptions

SAMPLES, FACTS = "samples.parquet", "reference.json"
FORMAT = 2
WEIGHT_FILES = ("safetensors", "bin", "json")
"""Not the model card, which may be written again."""


@dataclass(frozen=True)
class Made:
    """What results were made with.

    Attributes:
        finished: time.
        overrides: Hydra's overrides of every run.
        methods: name of a run -> its overrides.
        samples: documents of each benchmark.
        weights: name of the checkpoint with a fingerprint of its files.
        documents: benchmark -> hash of its data; null for data of the hub.
        versions: of the packages that matter.
        git_commit: of the checkout.
        machine: processor, threads, accelerator.
    """

    finished: str
    overrides: list[str]
    methods: dict[str, str]
    samples: int
    weights: str
    documents: dict[str, str | None]
    versions: dict[str, str]
    git_commit: str | None
    machine: str


def weights_of(source: str, model: ModelOptions) -> str:
    """The checkpoint of a model config, so that other weights are told from these."""
    if not Path(source).is_dir():
        return f"{source}@{model.revision}"
    parts = [fingerprint(Path(source), f"*.{kind}")[:12] for kind in WEIGHT_FILES]
    return "-".join([model.name, model.weights, *parts])


def read(folder: Path) -> tuple[Made, pd.DataFrame]:
    """The reference in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    facts, samples = folder / FACTS, folder / SAMPLES
    if not facts.is_file() or not samples.is_file():
        raise UserError(f"there is no reference in {folder}; make one with --update, and commit it")
    try:
        content = json.loads(facts.read_text())
        if content.pop("format") != FORMAT:
            raise UserError(f"{facts} has another format than this version reads; renew it with --update")
        return Made(**content), pd.read_parquet(samples, columns=COLUMNS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the reference in {folder} is damaged ({reason}); take it from version control again, or renew "
            "it with --update"
        ) from error


def write(folder: Path, made: Made, samples: pd.DataFrame) -> None:
    """Put a reference in place.

    Raises:
        UserError: the folder cannot be written.
    """
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / SAMPLES) as temporary:
            samples[COLUMNS].to_parquet(temporary, index=False, compression="zstd")
        with replacing(folder / FACTS) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(made)}, indent=1) + "\n")


def refuse_other(now: Made, reference: Made, folder: Path) -> None:
    """Stop where results cannot be compared.

    Args:
        now: what a part of the reference's set, or all of it, is made with here.
        reference: what the reference was made with.
        folder: the reference's, for the message.

    Raises:
        UserError: another set, other weights, or other data.
    """
    remedy = "renew the reference with --update if that is meant"
    if now.overrides != reference.overrides:
        raise UserError(
            f"{folder} was made with the overrides {' '.join(reference.overrides)}, and the set has "
            f"{' '.join(now.overrides)}; {remedy}"
        )
    for name, overrides in now.methods.items():
        if reference.methods.get(name) != overrides:
            was = reference.methods.get(name, "nothing")
            raise UserError(f"{folder} has {was!r} for {name}, and the set {overrides!r}; {remedy}")
    if now.samples > reference.samples:
        raise UserError(
            f"{folder} has {reference.samples} samples of each benchmark, and the set {now.samples}; {remedy}"
        )
    if now.weights != reference.weights:
        raise UserError(
            f"the weights differ ({now.weights}) from those of {folder} ({reference.weights}); {remedy}"
        )
    for benchmark, documents in now.documents.items():
        if benchmark not in reference.documents:
            raise UserError(f"{folder} lacks the benchmark {benchmark}; {remedy}")
        if reference.documents[benchmark] != documents:
            raise UserError(
                f"the data of {benchmark} differs ({documents}) from that of {folder} "
                f"({reference.documents[benchmark]}); {remedy}"
            )
