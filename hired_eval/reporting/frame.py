"""All results in pandas, one row a document of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hired_eval.records.store import Store
from hired_eval.reporting.rows import label_of, seed_of

_WORDS = [
    "run",
    "label",
    "model",
    "weights",
    "data",
    "benchmark",
    "options",
    "question",
    "prediction",
    "target",
]
_NUMBERS = ["budget", "seed", "doc_id", "score", "kept", "allowed", "full"]
_EMPTY = pd.DataFrame(columns=_WORDS, dtype=object).join(pd.DataFrame(columns=_NUMBERS, dtype=float))
"""No results, with the columns that there would be."""


def frame(runs_dir: Path | str = "results/runs") -> pd.DataFrame:
    """The samples of all complete runs with a score, and in front of them what was run.

    Args:
        runs_dir: folder of run records.

    Returns:
        Columns `run`, `label` (the method as tables name it), `budget` (the effective one; NaN without one),
        `seed`, `model`, `weights`, `data`, `benchmark`, `options` (of the method, all of them, as JSON), then
        those of the samples (docs/records.md).

    Raises:
        UserError: samples cannot be read.
    """
    store = Store(Path(runs_dir).expanduser())
    frames = []
    for record in store.accuracy():
        samples = store.samples(record)
        about = {
            "run": record.run,
            "label": label_of(record),
            "budget": float("nan") if record.budget is None else record.budget,
            "seed": seed_of(record),
            "model": record.model,
            "weights": record.weights,
            "data": record.data,
            "benchmark": record.benchmark.name,
            "options": json.dumps(record.method.options),
        }
        frames.append(pd.DataFrame(about, index=samples.index).join(samples))
    return pd.concat(frames, ignore_index=True) if frames else _EMPTY.copy()
