"""The runs of a set, answered from scratch in one process."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import pandas as pd

from hired_eval.paths import hide_home
from hired_eval.records.folder import SAMPLES
from hired_eval.records.scores import Scorer
from hired_eval.records.store import scorer_of_run
from hired_eval.regression.chosen import ChosenSet
from hired_eval.regression.reference import Made, weights_of
from hired_eval.reporting.regression import COLUMNS
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import measure
from hired_eval.runs.options import read_config
from hired_eval.runs.plan import describe_machine, plan_run


def identify_here(chosen: ChosenSet) -> Made:
    """What the set's results are made with here, before anything is loaded.

    Raises:
        UserError: the set names something that is not there.
    """
    documents, versions, commit, weights = {}, {}, None, ""
    for benchmark in chosen.benchmarks:
        for method in chosen.methods:
            config = read_config(chosen.config(method, benchmark))
            plan = plan_run(config)
            identity = plan.record.identity
            documents[benchmark] = identity.documents
            versions, commit = identity.versions, identity.git_commit
            weights = weights_of(plan.source, config.model)
    return Made(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        overrides=[hide_home(override) for override in chosen.overrides],
        methods=chosen.methods,
        samples=chosen.samples,
        weights=weights,
        documents=documents,
        versions=versions,
        git_commit=commit,
        machine=describe_machine(),
    )


def answer_samples(
    chosen: ChosenSet, models: Models, say: Callable[[str], None], log: TextIO
) -> tuple[pd.DataFrame, dict[str, Scorer]]:
    """Every run of the set; samples as `reporting.regression.COLUMNS`, and how each benchmark is scored.

    Nothing of an earlier run is used, since the code may have changed.

    Args:
        chosen: the set.
        models: loads the model once.
        say: called with one line about what is being done.
        log: takes the libraries' progress bars and warnings.

    Raises:
        UserError: see `hired_eval.runs.measuring.measure`.
    """
    frames: list[pd.DataFrame] = []
    scorers: dict[str, Scorer] = {}
    for benchmark in chosen.benchmarks:
        start = time.perf_counter()
        with TemporaryDirectory(prefix="hired-eval-") as scratch:
            configs = [
                replace(read_config(chosen.config(method, benchmark)), runs_dir=Path(scratch))
                for method in chosen.methods
            ]
            for number, method in enumerate(chosen.methods):
                models.following = configs[number + 1 :]
                with redirect_stderr(log):
                    outcome = measure(configs[number], lambda line: None, models)
                scorers[benchmark] = scorer_of_run(outcome.record)
                frames.append(_compact(outcome.folder, benchmark, method))
        seconds = time.perf_counter() - start
        say(f"{benchmark}: {len(chosen.methods)} methods answered in {seconds:.0f} s")
    return pd.concat(frames, ignore_index=True), scorers


def _compact(folder: Path, benchmark: str, method: str) -> pd.DataFrame:
    samples = pd.read_parquet(folder / SAMPLES)
    asked = samples["question"] + "\n" + samples["target"]
    return samples.assign(
        benchmark=benchmark, method=method, asked=[zlib.crc32(text.encode()) for text in asked]
    )[COLUMNS]
