"""The run records that reports are made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from hired_eval.errors import UserError
from hired_eval.records.context import VERSIONS, context_of
from hired_eval.records.flips import Flips, find_flips
from hired_eval.records.folder import SAMPLES, OldRecordError, read_record
from hired_eval.records.goal import read_goal
from hired_eval.records.record import Record
from hired_eval.records.scores import Part, Scorer, difference, mean_share, score, scorer_for
from hired_eval.records.statistics import Difference, Estimate

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
        return [record for record in self._read if isinstance(record, Record)]

    @cached_property
    def damaged(self) -> list[str]:
        """What is wrong with records that cannot be read: a line each kind, with how many there are."""
        errors = [error for error in self._read if isinstance(error, UserError)]
        old = sum(isinstance(error, OldRecordError) for error in errors)
        lines = [str(error) for error in errors if not isinstance(error, OldRecordError)]
        more = [f"{len(lines) - 1} more records of {self.runs} that cannot be read"] * (len(lines) > 1)
        if old:
            what = "1 record of an earlier version" if old == 1 else f"{old} records of an earlier version"
            more.append(f"{what} in {self.runs}; run again to renew {'it' if old == 1 else 'them'}")
        return [*lines[:1], *more]

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

        Of the checkpoint, the documents and the scoring that were used last.
        """
        earlier = {r.run for r in self.superseded}
        return [r for r in self._complete if r.measure == measure and r.run not in earlier]

    def accuracy(self) -> list[Record]:
        """Complete runs that have a score, see `measuring`."""
        return [r for r in self.measuring("accuracy") if r.score is not None]

    @cached_property
    def _complete(self) -> list[Record]:
        """Oldest first."""
        complete = [r for r in self.records if r.status == "complete"]
        return sorted(complete, key=lambda r: (r.finished, r.run))

    @cached_property
    def _latest(self) -> dict[tuple[str, ...], str | None]:
        latest: dict[tuple[str, ...], str | None] = {}
        for record in self._complete:
            latest.update(_origins(record))
        return latest

    @cached_property
    def superseded(self) -> list[Record]:
        """Runs of an earlier checkpoint, on earlier documents, or scored otherwise than later runs."""
        return [r for r in self._complete if any(self._latest[k] != v for k, v in _origins(r).items())]

    def superseded_lines(self, measure: str) -> list[str]:
        """One line that says how many runs of a measurement are superseded, and by what; [] for none."""
        causes: Counter[str] = Counter()
        runs = [r for r in self.superseded if r.measure == measure]
        for record in runs:
            causes.update(
                f"{kind} {' '.join(key)}"
                for (kind, *key), origin in _origins(record).items()
                if self._latest[(kind, *key)] != origin
            )
        named = ", ".join(f"another {cause} ({n})" for cause, n in causes.items())
        return [f"Left out: {len(runs)} runs that are older than runs with {named}."] if runs else []

    def failed(self) -> list[Record]:
        """Runs that ended with an error or with samples that failed, and were not made good later."""
        good = {_asked(r): r.finished for r in self._complete}
        return [r for r in self.records if r.status != "complete" and r.finished > good.get(_asked(r), "")]

    def samples(self, record: Record) -> pd.DataFrame:
        """The samples of a run, one row a document.

        Raises:
            UserError: the file is missing or damaged.
        """
        file = self.runs / record.run / SAMPLES
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); run it again with rerun=true") from error

    def arrays(self, record: Record) -> dict[str, np.ndarray]:
        """The arrays of a measurement, by name.

        Raises:
            UserError: the file is missing or damaged.
        """
        file = self.runs / record.run / ARRAYS
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); run it again with rerun=true") from error

    def picture(self, record: Record, name: str) -> Path:
        """A picture that a measurement kept."""
        return self.runs / record.run / PICTURES / name

    def score(self, runs: Sequence[Record]) -> Estimate:
        """The score of a run, or the mean of runs that differ in their seed alone.

        Raises:
            UserError: see `samples`.
        """
        first, names = runs[0], tuple(r.run for r in runs)
        if names not in self._scores:
            frames = [self.samples(r) for r in runs]
            self._scores[names] = score(frames, scorer_of_run(first), first.seed, part_of(first))
        return self._scores[names]

    @cached_property
    def _scores(self) -> dict[tuple[str, ...], Estimate]:
        """Scores that were asked for, by names of runs: a table and its figure ask for the same."""
        return {}

    def difference(self, pairs: Sequence[tuple[Record, Record]]) -> Difference | None:
        """The score of runs minus that of others on the same documents; None where they share none.

        Args:
            pairs: a run and the one it is compared with, for each seed.

        Raises:
            UserError: parts of a benchmark that were drawn in different orders, or see `samples`.
        """
        part = None
        for pair in pairs:
            if reason := why_apart(*pair):
                raise UserError(reason)
            part = part or part_of(pair[0]) or part_of(pair[1])
        frames = [(self.samples(run), self.samples(reference)) for run, reference in pairs]
        scorer = scorer_of_run(pairs[0][0])
        return difference(frames, scorer if part is None else scorer.of_part(), part=part)

    def mean_share(self, benchmarks: Sequence[Sequence[tuple[Record, Record]]]) -> Estimate | None:
        """The score of runs in percent of that of others, mean over benchmarks; see `scores.mean_share`.

        Args:
            benchmarks: of each benchmark pairs as for `difference`.

        Raises:
            UserError: see `samples`.
        """
        return mean_share(
            [
                (scorer_of_run(pairs[0][0]), [(self.samples(a), self.samples(b)) for a, b in pairs])
                for pairs in benchmarks
            ]
        )

    def flips(self, run: Record, reference: Record) -> Flips:
        """The documents that a run answers otherwise than the one that it is compared with.

        Raises:
            UserError: see `samples`.
        """
        return find_flips(self.samples(reference), self.samples(run))


def _origins(record: Record) -> dict[tuple[str, ...], str | None]:
    """What a run was made of: the content of its checkpoint, its documents, and how they are scored."""
    identity, benchmark = record.identity, record.benchmark
    origins: dict[tuple[str, ...], str | None] = {
        ("checkpoint of", record.model, record.weights): identity.checkpoint,
        ("version of the documents of", record.data, benchmark.name): identity.documents,
        ("version of", record.method.target): str(record.method_version),
    }
    if record.measure == "accuracy":
        origins["scoring of", benchmark.name] = repr(benchmark)
    return origins


def _asked(record: Record) -> str:
    """All that was asked of a run."""
    config = record.config
    settings = {k: v for k, v in context_of(record).items() if k not in (*VERSIONS, "device", "machine")}
    size = config.get("batch_size") if record.measure.startswith("efficiency") else None
    what = [asdict(record.benchmark), asdict(record.method), settings, config.get("limit")]
    where = [record.measure, record.model, record.weights, record.data, record.seed, size]
    return json.dumps([*what, *where], sort_keys=True)


def scorer_of_run(record: Record) -> Scorer:
    """How the samples of a run make its score.

    Raises:
        UserError: see `scorer_of`.
    """
    scorer = scorer_for(record.benchmark)
    return scorer.of_part() if record.partial else scorer


def part_of(record: Record) -> Part | None:
    """What is known of a run on a part that was drawn at random; None for any other run."""
    if record.drawing is None:
        return None
    goal = read_goal(record.config)
    return Part(record.drawing, goal.points if goal else None, goal is not None)


def why_apart(run: Record, reference: Record) -> str | None:
    """Why two runs on parts of a benchmark have no difference: their documents were not chosen alike."""
    if not (run.partial and reference.partial) or run.drawing == reference.drawing:
        return None
    return (
        f"{run.run} and {reference.run} answered parts of {run.benchmark.name} in different "
        f"orders ({_order_text(run)}, {_order_text(reference)}) and are not compared; run both with the same "
        "order and order_seed"
    )


def _order_text(record: Record) -> str:
    return "order=dataset" if record.drawing is None else f"order=random order_seed={record.drawing.seed}"


def best(records: Iterable[Record]) -> Record | None:
    """Of runs of the same cell: the one over most documents, and of those the newest."""
    return max(records, key=lambda r: (r.samples, r.finished), default=None)
