"""The record of a run: one folder with record.json and samples.parquet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from hired_eval.errors import UserError

RECORD, SAMPLES, REPLIES, LOCKS = "record.json", "samples.parquet", "replies*.jsonl", ".locks"
FORMAT = 2
"""1: `method` held the options of the config, and `identity` a hash of the config as it was written."""
NEEDED = {"run", "status", "identity", "finished"}


class OldRecordError(UserError):
    """A record of an earlier version of this package."""


class RunFolder:
    """The folder of one run.

    A run is complete when `record.json` is there: it is written last, and every file is put in place whole.
    """

    def __init__(self, runs: Path, name: str) -> None:
        self.path = runs / name

    def record(self) -> dict[str, Any] | None:
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
        if record is None or record["status"] != "complete":
            return None
        samples = self.path / SAMPLES
        if not samples.is_file() or _sha256(samples) != record["samples_sha256"]:
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
                    f"another process is at this run ({self.path}); wait for it, or end it"
                ) from error
            for name in (RECORD, SAMPLES, REPLIES):
                for leftover in self.path.glob(f".{name}.*"):  # of a process that was killed
                    leftover.unlink()
        try:
            yield
        finally:
            lock.release()

    def write(self, record: dict[str, Any], samples: pd.DataFrame) -> None:
        """Put samples and record in place, the record last, and drop the replies kept on the way.

        Raises:
            UserError: the disk is full or not writable; what was answered is still in replies.jsonl.
        """
        with explained_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / SAMPLES) as temporary:
                samples.to_parquet(temporary, index=False)
            record = {"format": FORMAT, **record, "samples_sha256": _sha256(self.path / SAMPLES)}
            with replacing(self.path / RECORD) as temporary:
                temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
            if record["status"] == "complete":
                for file in self.replies():
                    file.unlink()

    def fail(self, record: dict[str, Any]) -> None:
        """Leave a record that says the run failed; what was answered stays for the next attempt.

        Raises:
            UserError: the disk is full or not writable.
        """
        with explained_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / RECORD) as temporary:
                failed = {"format": FORMAT, **record, "status": "failed"}
                temporary.write_text(json.dumps(failed, indent=2, allow_nan=False) + "\n")

    def clear(self) -> None:
        """Forget an earlier attempt."""
        with explained_disk_errors(self.path):
            for file in (self.path / RECORD, self.path / SAMPLES, *self.replies()):
                file.unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder, None where there is none yet.

    Raises:
        OldRecordError: it is of an earlier version.
        UserError: the file is damaged, or of a later version.
    """
    file = folder / RECORD
    if not file.exists():
        return None
    again = "delete its folder or set rerun=true to run it again"
    try:
        record: Any = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); {again}") from error
    if isinstance(record, dict) and record.keys() >= NEEDED and record.get("format") in range(1, FORMAT):
        raise OldRecordError(f"{file} is a record of an earlier version; run again to renew it")
    if not isinstance(record, dict) or record.get("format") != FORMAT or not record.keys() >= NEEDED:
        raise UserError(f"{file} is not a record of format {FORMAT}; {again}")
    return record


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
