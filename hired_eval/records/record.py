"""The record of a run: one folder with record.json and samples.parquet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pandas as pd
from filelock import FileLock, Timeout

from hired_eval.errors import UserError

RECORD, SAMPLES, REPLIES, LOCKS = "record.json", "samples.parquet", "replies*.jsonl", ".locks"
FORMAT = 2
"""1: `method` held the options of the config, and `identity` a hash of the config as it was written."""
NEEDED = {"run", "status", "identity", "finished"}
"""What a record of any format has."""


@dataclass(frozen=True)
class Benchmark:
    """One column of the paper's tables.

    Attributes:
        name: as in `configs/task/`.
        lmms_task: the task of lmms-eval.
        metric: the metric of lmms-eval that the paper reports.
        scoring: how documents make a score: the name of a `hired_eval.records.scores.Scorer`.
        scale: of that scorer; None for its own.
        category: likewise.
        only: 'COLUMN=VALUE' of the documents that are asked; None for all.
    """

    name: str
    lmms_task: str
    metric: str
    scoring: str
    scale: float | None = None
    category: str | None = None
    only: str | None = None


@dataclass(frozen=True)
class Method:
    """The method that ran.

    Attributes:
        target: its class, as a config's `_target_` names it.
        options: every option with the value that ran, `budget` put in.
    """

    target: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Identity:
    """What makes a run this run and no other; see docs/records.md.

    Attributes:
        config_sha256: the same for the same question about the same places.
        settings: what was asked for, as it comes to, by name.
        code: module that decides what is answered -> hash of it.
        checkpoint: fingerprint of the model's files, or its commit on the hub; None where it is not known.
        data: where the documents come from.
        documents: fingerprint of the documents, or their commit on the hub; None where it is not known.
        versions: package -> version.
        git_commit: of the checkout that the package ran from; None elsewhere.
    """

    config_sha256: str
    settings: dict[str, Any]
    code: dict[str, str]
    checkpoint: str | None
    data: str
    documents: str | None
    versions: dict[str, str]
    git_commit: str | None


@dataclass(frozen=True)
class Drawing:
    """The random order in which a part of a benchmark was answered.

    Attributes:
        seed: of the order.
        units: what is drawn, in the whole benchmark: pictures with their questions, or pairs of questions.
        documents: in the whole benchmark.
        largest: documents of the largest unit.
        first: units at the beginning that are one of each category; the others are drawn from all.
        strata: category -> units of it where pairs are drawn, else documents; '' where there are none.
    """

    seed: int
    units: int
    documents: int
    largest: int
    first: int
    strata: dict[str, int]


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval; see `hired_eval.records.statistics.Estimate`."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
    shown_low: float | None
    shown_high: float | None


@dataclass(frozen=True)
class Count:
    """Visual tokens of a document: mean and maximum over documents with a picture."""

    mean: float
    max: int


@dataclass(frozen=True)
class Tokens:
    """Visual tokens given to the language model, allowed by a budget, and given by the stock model."""

    kept: Count | None = None
    allowed: Count | None = None
    full: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Timings:
    """When and where a measurement was made.

    Attributes:
        machine: processor and accelerator in one line.
        device: of torch.
        seconds: that answering took.
        questions_timed: how many were answered in them.
        questions_per_second: likewise.
        batch_size: as asked for; of 'auto' that of the largest batch.
        out_of_memory: each time that memory ran out, the batch size that did not fit and the next.
        together: how many runs of a sweep were answered in one pass over the pictures; the seconds of reading
            and encoding them are split evenly among these.
        processes: that answered.
    """

    machine: str = ""
    device: str = ""
    seconds: float = 0.0
    questions_timed: int = 0
    questions_per_second: float = 0.0
    batch_size: int | None = None
    out_of_memory: list[dict[str, int]] = field(default_factory=list)
    together: int = 1
    processes: int = 1


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of repetitions."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Time, memory and arithmetic of one batch.

    Attributes:
        throughput_tokens_per_second: new tokens of the whole batch.
        time_to_first_token_seconds: from the start of a run.
        latency_seconds: until the last token.
        vision_seconds: until the visual tokens are there.
        memory_gigabytes: peak of a whole run.
        vision_memory_gigabytes: what the vision tower takes at its peak.
        kv_cache_bytes: when the last token is there.
        flops: of vision, prefill and decode.
        least_seconds: that these take on this machine.
        share_of_roofline: their sum over the measured latency.
        machine: the best that was measured here.
        workload: what was timed.
        selection_seconds: of choosing the tokens, before the language model and inside it, in runs apart that
            wait for the device around it; None in records from before it was measured.
    """

    throughput_tokens_per_second: Spread
    time_to_first_token_seconds: Spread
    latency_seconds: Spread
    vision_seconds: Spread
    memory_gigabytes: float
    vision_memory_gigabytes: float
    kv_cache_bytes: int
    flops: dict[str, float]
    least_seconds: dict[str, float]
    share_of_roofline: float
    machine: dict[str, float]
    workload: dict[str, int]
    selection_seconds: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run says of itself.

    Attributes:
        run: name of its folder.
        measure: accuracy, or another measurement.
        benchmark: the task and metric.
        method: what ran.
        method_label: the method's name in tables.
        method_defaults: the default of each of its options.
        method_version: `VERSION` of its class.
        model: name.
        weights: pretrained, pickle or dummy.
        data: where the documents come from.
        seed: of everything random.
        identity: what makes it this run.
        config: every option as it was asked for, the home folder as ~.
        status: complete where there is a result, of all samples.
        finished: time; '' while it has not.
        error: why there is none.
        samples: documents that were answered, or pictures that were looked at.
        documents: of the benchmark.
        partial: whether some were left out.
        drawing: of a part that was drawn at random; None for any other.
        failed_samples: of an accuracy.
        score: of an accuracy; None where a sample failed.
        lmms_eval_metrics: what lmms-eval itself computed.
        tokens: of an accuracy.
        batch_size: of an efficiency.
        tokens_kept: of an efficiency, mean over its pictures.
        out_of_memory: of an efficiency, whether it ended so.
        efficiency: what was measured; None where memory ran out.
        timings: time and place.
        samples_sha256: of the file of samples; written with it.
    """

    run: str
    measure: str = "accuracy"
    benchmark: Benchmark
    method: Method
    method_label: str
    method_defaults: dict[str, Any]
    method_version: int
    model: str
    weights: str
    data: str
    seed: int = 0
    identity: Identity
    config: dict[str, Any]
    status: Literal["complete", "failed"]
    finished: str
    error: str | None = None
    samples: int = 0
    documents: int = 0
    partial: bool = False
    drawing: Drawing | None = None
    failed_samples: int = 0
    score: Score | None = None
    lmms_eval_metrics: dict[str, float | None] = field(default_factory=dict)
    tokens: Tokens = Tokens()
    batch_size: int | None = None
    tokens_kept: float | None = None
    out_of_memory: bool = False
    efficiency: Speed | None = None
    timings: Timings = Timings()
    samples_sha256: str = field(default="", compare=False)

    @property
    def budget(self) -> float | None:
        """Token budget of the method; None for a method without one."""
        budget: float | None = self.method.options.get("budget")
        return budget

    @property
    def kept_share(self) -> float | None:
        """Mean visual tokens kept over those of the stock model; None where they are not counted."""
        kept, full = self.tokens.kept, self.tokens.full
        return kept.mean / full.mean if kept and full else None


class OldRecordError(UserError):
    """A record of an earlier version of this package."""


class RunFolder:
    """The folder of one run.

    A run is complete when `record.json` is there: it is written last, and every file is put in place whole.
    """

    def __init__(self, runs: Path, name: str) -> None:
        self.path = runs / name

    def record(self) -> Record | None:
        """The record of an earlier, complete run; None where there is none or it failed.

        One of an earlier version is removed with all that it left: it is run again.

        Raises:
            UserError: record or samples are damaged.
        """
        try:
            record = read_record(self.path)
        except OldRecordError:
            self.clear()
            return None
        if record is None or record.status != "complete":
            return None
        samples = self.path / SAMPLES
        if not samples.is_file() or _sha256(samples) != record.samples_sha256:
            raise UserError(f"{samples} is damaged; delete its folder or set rerun=true to run it again")
        return record

    def replies(self) -> list[Path]:
        """The files of replies that the processes of an unfinished run left."""
        return sorted(self.path.glob(REPLIES))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run, so that no other process does the same work.

        Raises:
            UserError: another process holds it, or the folder of runs cannot be written.
        """
        locks = self.path.parent / LOCKS
        lock = FileLock(locks / f"{self.path.name}.lock")
        with explained_disk_errors(self.path):
            locks.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:  # an OSError too
                raise UserError(
                    f"another process is working on this run ({self.path}); wait for it, or end it"
                ) from error
            for name in (RECORD, SAMPLES, REPLIES):
                for leftover in self.path.glob(f".{name}.*"):  # of a process that was killed
                    leftover.unlink()
        try:
            yield
        finally:
            lock.release()

    def write(self, record: Record, samples: pd.DataFrame) -> None:
        """Put samples and record in place, the record last, and drop the replies kept on the way.

        Those of a part drawn at random stay, for a larger part to go on from.

        Raises:
            UserError: the disk is full or not writable; what was answered is still in replies.jsonl.
        """
        with explained_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / RECORD) as described, replacing(self.path / SAMPLES) as temporary:
                samples.to_parquet(temporary, index=False)
                described.write_text(_described(replace(record, samples_sha256=_sha256(temporary))))
                # that of fewer documents does not describe the samples that come now
                (self.path / RECORD).unlink(missing_ok=True)
            if record.status == "complete" and record.drawing is None:
                for file in self.replies():
                    file.unlink()

    def fail(self, record: Record) -> None:
        """Leave a record that says the run failed; what was answered stays for the next attempt.

        Raises:
            UserError: the disk is full or not writable.
        """
        with explained_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / RECORD) as temporary:
                temporary.write_text(_described(replace(record, status="failed")))

    def clear(self) -> None:
        """Forget an earlier attempt."""
        with explained_disk_errors(self.path):
            for file in (self.path / RECORD, self.path / SAMPLES, *self.replies()):
                file.unlink(missing_ok=True)


def _described(record: Record) -> str:
    """The text of record.json."""
    method = {"_target_": record.method.target, **record.method.options}
    content = {"format": FORMAT, **asdict(record), "method": method}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder, named as the folder is, which may be a copy; None where there is none.

    Raises:
        OldRecordError: it is of an earlier version.
        UserError: the file is damaged, or of a later version.
    """
    file = folder / RECORD
    if not file.exists():
        return None
    again = "delete its folder or set rerun=true to run it again"
    try:
        content: Any = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); {again}") from error
    if isinstance(content, dict) and content.keys() >= NEEDED and content.get("format") in range(1, FORMAT):
        raise OldRecordError(f"{file} is a record of an earlier version; run again to renew it")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file} is not a record of format {FORMAT}; {again}")
    if isinstance(content.get("method"), dict):
        options = {**content["method"]}
        target = options.pop("_target_", None)
        # records from before methods had labels go by the name of the class
        label = {"method_label": str(target).rpartition(".")[2]}
        content = label | content | {"method": {"target": target, "options": options}}
    try:
        record: Record = _typed(Record, content, "")
    except _UnfitError as error:
        raise UserError(f"{file} is not a record of format {FORMAT}: {error}; {again}") from error
    return replace(record, run=folder.name)


class _UnfitError(Exception):
    """A part of a record is missing, or of another type."""


_types = cache(get_type_hints)


def _typed(kind: Any, value: Any, name: str) -> Any:
    """A value of JSON as its type says, objects as dataclasses; what these do not know is left out.

    Raises:
        _UnfitError: naming the part.
    """
    if isinstance(kind, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        kind = get_args(kind)[0]
    plain = get_origin(kind) or kind
    plain = dict if is_dataclass(kind) else {Literal: str, float: float | int}.get(plain, plain)
    if not isinstance(value, plain) or isinstance(value, bool) != (kind is bool):
        raise _UnfitError(f"its {name} is {value!r}")
    if not (is_dataclass(kind) and isinstance(kind, type)):
        return value
    prefix = f"{name}." * bool(name)
    given = [f.name for f in fields(kind) if f.name in value]
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if lacking := [f"{prefix}{part}" for part in needed if part not in given]:
        raise _UnfitError(f"it lacks {', '.join(lacking)}")
    types = _types(kind)
    return kind(**{part: _typed(types[part], value[part], f"{prefix}{part}") for part in given})


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary file beside `file` that takes its place when the block ends well."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder "
            "(runs_dir=FOLDER, or --out), then start again: what was answered is kept"
        ) from error
