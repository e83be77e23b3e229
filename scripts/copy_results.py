"""Copies what `make reproduce-all` made of the bundled model to results/mini, which is committed.

Every table and figure, one picture of the gallery, and the field's table if `make reproduce-field` made it.
Nothing is copied if a table or figure is missing or a table holds partial or dummy results.
"""

import argparse
import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from hired_eval.errors import UserError
from hired_eval.records.store import Store
from hired_eval.reporting.configs import PACKAGED
from hired_eval.reporting.figures import FIGURES
from hired_eval.reporting.gallery import marked
from hired_eval.reporting.kinds import KINDS
from hired_eval.reporting.spec import RowSpec

MINI = Path(__file__).parents[1] / "results" / "mini"
SPECS = {name: PACKAGED.spec(name) for name in PACKAGED.files("report")}
SPECS.pop("published_next")
TABLES = [name for name, spec in SPECS.items() if spec.kind in KINDS]
FIELD = "field"
"""The table that make reproduce-all does not make."""
OF_A_PART = {"table2", FIELD}
"""Tables of a part of a benchmark by design."""


def files_of(tables: Sequence[str]) -> list[str]:
    """The files of tables."""
    return [f"{name}.{suffix}" for name in tables for suffix in ("md", "tex", "csv")]


FILES = files_of([name for name in TABLES if name != FIELD])
FILES += [f"{name}.png" for name in (*FIGURES, *(SPECS.keys() - {*TABLES}))]


def check(reports: Path) -> None:
    """Refuse reports that are not to be shown as results.

    Raises:
        UserError: a file is missing, or a table is of a part of a benchmark, or of dummy weights.
    """
    missing = [name for name in FILES if not (reports / name).is_file()]
    if missing:
        raise UserError(f"{reports} has no {', '.join(missing)}; start with make reproduce-all")
    for name in set(TABLES) - OF_A_PART:
        with (reports / f"{name}.csv").open(newline="") as stream:
            marks = {mark for row in csv.DictReader(stream) for mark in row["marks"]}
        if marks & {"*", "+"}:
            raise UserError(
                f"{name} in {reports} is of a part of a benchmark or of dummy weights; "
                "start make reproduce-all without limit and weights"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="folder of run records")
    parser.add_argument("--reports", type=Path, default=Path("results/reports"), help="folder of reports")
    parser.add_argument("--out", type=Path, default=MINI, help="folder the files go to")
    options = parser.parse_args()
    store = Store(options.runs)
    gallery = [r for r in store.measuring("gallery") if r.benchmark.name == "docvqa"]
    shown = PACKAGED.row(RowSpec(method="hired", budget=0.2)).of(gallery)
    try:
        check(options.reports)
        if not shown:
            raise UserError(
                f"{options.runs} has no gallery of DocVQA with HiRED 20 %; start with make reproduce-all"
            )
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    options.out.mkdir(parents=True, exist_ok=True)
    files = [*FILES, *(name for name in files_of([FIELD]) if (options.reports / name).is_file())]
    for name in files:
        shutil.copyfile(options.reports / name, options.out / name)
    marked(store, shown[-1], store.arrays(shown[-1]), 0).save(options.out / "gallery.png", optimize=True)
    print(f"written: {len(files) + 1} files in {options.out}")


if __name__ == "__main__":
    main()
