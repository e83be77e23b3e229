"""The folder of a run: record.json and samples.parquet, read and written whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pandas as pd
from filelock import FileLock, Timeout

from hired_eval.errors import UserError
from hired_eval.records.record import Record

RECORD, SAMPLES, REPLIES, LOCKS = "record.json", "samples.parquet", "replies*.jsonl", ".locks"
FORMAT = 2
"""1: `method` held the options of the config, and `identity` a hash of the config as it was written."""
NEEDED = {"run", "status", "identity", "finished"}
"""What a record of any format has."""


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
