"""Which parquet files of a folder are one split: named as `datasets` names them, readable, and all there."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from hired_eval.errors import UserError, first_line

SHARDED = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{16})?")
NUMBERED = re.compile(r"(?P<split>.+)-(?P<index>\d+)")
IN_A_SPLIT_FOLDER = re.compile(r"(?:part-)?(?P<index>\d{4,5})(?:-.*)?")
"""`validation/0000.parquet` of the hub's own conversion, and `part-00000-....parquet` of Spark."""
LFS = b"version https://git-lfs"
NAMED = 5
"""Files that a message names; of more, how many there are."""


@dataclass(frozen=True)
class Shard:
    """What a file's name says of it.

    Attributes:
        file: where it is.
        split: what stands in front of the numbers.
        index: its number; 0 where it has none.
        form: how many files there are in all ('sharded'), only which one it is ('numbered'), or neither.
        count: number of files in all, for 'sharded'.
    """

    file: Path
    split: str
    index: int = 0
    form: Literal["sharded", "numbered", "single"] = "single"
    count: int | None = None


def is_hidden(path: Path) -> bool:
    """Names that `datasets` leaves out: of macOS, Jupyter, the hub's download folder, and the like."""
    return path.name.startswith((".", "__"))


def is_parquet(path: Path) -> bool:
    """Whether a file's name says that it is parquet."""
    return path.suffix.lower() == ".parquet"


def content_of(folder: Path) -> list[Path]:
    """Files and folders in a folder, sorted; hidden ones left out.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_hidden(path))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror or error}") from error


def list_parquet(folder: Path) -> list[Path]:
    """The parquet files that lie directly in a folder, sorted; broken links count.

    Raises:
        UserError: the folder cannot be read.
    """
    return [path for path in content_of(folder) if is_parquet(path) and not path.is_dir()]


def read_shard(file: Path, folder_split: str | None = None) -> Shard:
    """What a name says: `split-00000-of-00001`, `split-0` or `split`; nothing else is a part of a split.

    Args:
        file: a parquet file.
        folder_split: the split, where the folder around it is named so and the file need not be.
    """
    if found := SHARDED.fullmatch(file.stem):
        return Shard(
            file, folder_split or found["split"], int(found["index"]), "sharded", int(found["count"])
        )
    found = NUMBERED.fullmatch(file.stem)
    if folder_split is not None:
        found = IN_A_SPLIT_FOLDER.fullmatch(file.stem) or found
    if found:
        return Shard(file, folder_split or found["split"], int(found["index"]), "numbered")
    return Shard(file, folder_split or file.stem)


def order_shards(shards: Sequence[Shard]) -> list[Path]:
    """The files of one split in order, each part once and none missing.

    Args:
        shards: of one split, in one folder.

    Raises:
        UserError: a part is missing, or there is more than one set of files.
    """
    first = shards[0]
    where = f"split {first.split} in {first.file.parent}"
    by_index = {one.index: one for one in shards}
    if len({(one.form, one.count) for one in shards}) > 1 or len(by_index) < len(shards):
        names = _named(one.file.name for one in shards)
        raise UserError(f"{where} was found more than once ({names}); leave one complete set of files")
    indices = range(first.count) if first.count is not None else range(min(by_index), max(by_index) + 1)
    if missing := [index for index in indices if index not in by_index]:
        numbers = _named(
            f"{index:05d}-of-{first.count:05d}" if first.count is not None else str(index)
            for index in missing
        )
        raise UserError(
            f"{where} lacks {len(missing)} of its {len(indices)} files ({numbers}); copy it whole"
        )
    files = [by_index[index].file for index in sorted(by_index)]
    sizes = [file.stat().st_size if file.exists() else None for file in files]
    for (a, size), (b, other) in combinations(zip(files, sizes, strict=True), 2):
        if size is not None and size == other and filecmp.cmp(a, b, shallow=False):
            raise UserError(f"{where} holds the same file twice: {a.name} and {b.name}; copy it again")
    return files


def count_rows(files: Sequence[Path], remedy: str) -> int:
    """Number of rows of files that are parts of one split.

    Args:
        files: of parquet.
        remedy: what to do about a file that is damaged.

    Raises:
        UserError: a file cannot be read, the columns are not the same in all, or there is no row.
    """
    rows = 0
    columns: list[str] | None = None
    for file in files:
        with _opened(file, remedy) as parquet:
            rows += parquet.metadata.num_rows
            names = sorted(parquet.schema_arrow.names)
        if columns is not None and names != columns:
            other = _named(sorted(set(names) ^ set(columns)) or names)
            raise UserError(
                f"{file} and {files[0].name} do not have the same columns ({other}); they are not parts of "
                "one data set"
            )
        columns = names
    if not rows:
        raise UserError(f"{files[0]} holds no documents; {remedy}")
    return rows


def _opened(file: Path, remedy: str) -> ParquetFile:
    try:
        if file.is_symlink() and not file.exists():
            raise UserError(f"{file} is a link to {file.readlink()}, which does not exist; {remedy}")
        with file.open("rb") as stream:
            if stream.read(len(LFS)) == LFS:
                raise UserError(f"{file} is a pointer of Git LFS, not data; fetch it with git lfs pull")
        return ParquetFile(file)
    except PermissionError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except (OSError, ArrowException) as error:
        raise UserError(f"{file} is damaged ({first_line(error)}); {remedy}") from error


def _named(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more
