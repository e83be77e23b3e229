"""Published numbers beside the measured ones."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from hired_eval.errors import UserError
from hired_eval.paths import published_folder
from hired_eval.reporting.rows import Row
from hired_eval.reporting.spec import TableSpec

Numbers = Sequence[dict[str, str]]
"""`value`, a number as printed, with the columns that find it; see `results/paper/`."""


def published(spec: TableSpec) -> Numbers:
    """The numbers that a table names, from beside its own file or the package's; none where it names none.

    Raises:
        UserError: there is no such file, or it is no CSV with a column `value`.
    """
    if spec.published is None:
        return []
    own = spec.origin.parent / spec.published.file
    file = own if own.is_file() else published_folder() / spec.published.file
    try:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{own}, which {spec.origin} names, cannot be read; put a CSV there") from error
    if not all("value" in row for row in rows):
        raise UserError(f"{file} has no column 'value', which holds the published numbers; add it")
    return rows


def value(numbers: Numbers, row: Row, **where: str) -> str | None:
    """The number of a row, as printed; None where there is none, or more than one."""
    wanted = {**row.published, **where}
    found = [number["value"] for number in numbers if wanted.items() <= number.items()]
    return found[0] if row.published and len(found) == 1 else None
