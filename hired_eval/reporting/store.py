"""The run records that reports are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hired_eval.errors import UserError
from hired_eval.records import SAMPLES, OldRecordError, read_record
from hired_eval.reporting.statistics import Difference, paired_difference

Record = dict[str, Any]
ARRAYS = "arrays.npz"
PICTURES = "pictures"


@dataclass(frozen=True)
class Store:
    """A folder of run records.

    Attributes:
        runs: the folder; each run has a folder of its own in it.
    """

    runs: Path

    @cached_property
    def records(self) -> list[Record]:
        """All records by name, those of failed runs included and damaged ones left out."""
        return [record for record in self._read if isinstance(record, dict)]

    @cached_property
    def damaged(self) -> list[str]:
        """What is wrong with records that cannot be read; one line for all of an earlier version."""
        errors = [error for error in self._read if isinstance(error, UserError)]
        old = sum(isinstance(error, OldRecordError) for error in errors)
        lines = [str(error) for error in errors if not isinstance(error, OldRecordError)]
        if old:
            what = "1 record of an earlier version" if old == 1 else f"{old} records of an earlier version"
            lines.append(f"{what} in {self.runs}; run again to renew {'it' if old == 1 else 'them'}")
        return lines

    @cached_property
    def _read(self) -> list[Record | UserError | None]:
        """What is in each run's folder."""
        found: list[Record | UserError | None] = []
        for folder in sorted(self.runs.glob("*/")):
            try:
                found.append(read_record(folder))
            except UserError as error:
                found.append(error)
        return found

    def measuring(self, measure: str) -> list[Record]:
        """Complete records of one kind of measurement: accuracy, generation_attention, ...

        Of the checkpoint and the documents that were used last.
        """
        earlier = {r["run"] for r in self.superseded}
        return [r for r in self._complete if measure_of(r) == measure and r["run"] not in earlier]

    def accuracy(self) -> list[Record]:
        """Complete runs that have a score, of the checkpoint and the documents that were used last."""
        return [r for r in self.measuring("accuracy") if r["score"] is not None]

    @cached_property
    def _complete(self) -> list[Record]:
        """Oldest first."""
        complete = [r for r in self.records if r["status"] == "complete"]
        return sorted(complete, key=lambda r: (str(r["finished"]), r["run"]))

    @cached_property
    def superseded(self) -> list[Record]:
        """Runs of an earlier checkpoint of a model, or on earlier documents: no match for later ones."""
        latest: dict[tuple[str, ...], str | None] = {}
        for record in self._complete:
            latest.update(_origins(record))
        return [r for r in self._complete if any(latest[k] != v for k, v in _origins(r).items())]

    def failed(self) -> list[Record]:
        """Runs that ended with an error or with samples that failed, and were not made good later."""
        good = {r["identity"].get("config_sha256"): str(r["finished"]) for r in self._complete}
        return [
            r
            for r in self.records
            if r["status"] != "complete"
            and str(r["finished"]) > good.get(r["identity"].get("config_sha256") or "none", "")
        ]

    def samples(self, record: Record) -> pd.DataFrame:
        """The samples of a run, one row a document.

        Raises:
            UserError: the file is missing or damaged.
        """
        file = self.runs / record["run"] / SAMPLES
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); run it again with rerun=true") from error

    def arrays(self, record: Record) -> dict[str, np.ndarray]:
        """The arrays of a measurement, by name.

        Raises:
            UserError: the file is missing or damaged.
        """
        file = self.runs / record["run"] / ARRAYS
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); run it again with rerun=true") from error

    def picture(self, record: Record, name: str) -> Path:
        """A picture that a measurement kept."""
        return self.runs / str(record["run"]) / PICTURES / name

    def difference(self, record: Record, reference: Record) -> Difference | None:
        """A run's score minus another's on the same documents, paired; None where they share none."""
        benchmark = record["benchmark"]
        return paired_difference(
            self.samples(record), self.samples(reference), benchmark["scoring"], score_scale(record)
        )


def measure_of(record: Record) -> str:
    """What a record measured; accuracy where it does not say."""
    measure: str = record.get("measure", "accuracy")
    return measure


def _origins(record: Record) -> dict[tuple[str, ...], str | None]:
    """What a run was made of: the content of its checkpoint, and of its documents."""
    identity = record["identity"]
    return {
        ("checkpoint", record["model"], record["weights"]): identity.get("checkpoint"),
        ("documents", record["data"], record["benchmark"]["name"]): identity.get("documents"),
    }


def score_scale(record: Record) -> float:
    """The factor from a sample's score to the unit of the record's score."""
    scale: float = record.get("score_scale", record["benchmark"]["scale"])
    return scale


def best(records: Iterable[Record]) -> Record | None:
    """Of runs of the same cell: the one over most documents, and of those the newest."""
    return max(records, key=lambda r: (r["samples"], str(r["finished"])), default=None)
