"""Published numbers beside the measured ones."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from hired_eval.errors import UserError
from hired_eval.paths import published_folder
from hired_eval.reporting.rows import Row
from hired_eval.reporting.spec import TableSpec

Numbers = Sequence[dict[str, str]]
"""`value`, a number as printed, with the columns that find it; see `results/paper/`.

Where there is a column `lineage`, several papers may print a number; see `results/published/`.
"""


def published(spec: TableSpec) -> Numbers:
    """The numbers that a table names, from beside its own file or the package's; none where it names none.

    Raises:
        UserError: there is no such file, or it is no CSV with a column `value`.
    """
    if spec.published is None:
        return []
    own = spec.origin.parent / spec.published.file
    places = [own, *(published_folder(name) / spec.published.file for name in ("published", "paper"))]
    file = next((place for place in places if place.is_file()), places[-1])
    try:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{own}, which {spec.origin} names, cannot be read; put a CSV there") from error
    if not all("value" in row for row in rows):
        raise UserError(f"{file} has no column 'value', which holds the published numbers; add it")
    return rows


def value(numbers: Numbers, row: Row, **where: str) -> str | None:
    """The number of a row, as printed; None where there is none, or more than one without a lineage.

    '64.2 (A, C: copied); 62.5 (B)' where there are lineages.
    """
    wanted = {**row.published, **where}
    found = [number for number in numbers if wanted.items() <= number.items()] if row.published else []
    if found and all("lineage" in number for number in found):
        return "; ".join(_by_lineage(found, numbers))
    return found[0]["value"] if len(found) == 1 else None


def _by_lineage(found: Numbers, numbers: Numbers) -> list[str]:
    """Each different number once, with who prints it."""
    texts = []
    for printed in dict.fromkeys(number["value"] for number in found):
        same = [number for number in found if number["value"] == printed]
        copied = ": copied" * any(is_copied(number, numbers) for number in same)
        texts.append(f"{printed} ({', '.join(dict.fromkeys(n['lineage'] for n in same))}{copied})")
    return texts


def is_copied(number: dict[str, str], numbers: Numbers) -> bool:
    """Whether another lineage prints the same digits for the same method and benchmark.

    At the same number of tokens; at another one, where the two rows have one more number in common, since one
    alone may be chance.
    """
    own = _row_of(number, numbers)
    others = {
        (n["lineage"], n["tokens"]): n
        for n in numbers
        if n["lineage"] != number["lineage"]
        and (n["model"], n["method"]) == (number["model"], number["method"])
    }
    for other in others.values():
        common = own & _row_of(other, numbers)
        if (number["benchmark"], number["value"]) in common and (
            other["tokens"] == number["tokens"] or len(common) > 1
        ):
            return True
    return False


def _row_of(number: dict[str, str], numbers: Numbers) -> set[tuple[str, str]]:
    """Benchmarks and values of the published row that a number is in."""
    keys = ("lineage", "model", "method", "tokens")
    return {(n["benchmark"], n["value"]) for n in numbers if all(n[key] == number[key] for key in keys)}
