"""`hired-eval report table3`: a report from the run records that are there."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hired_eval.errors import UserError
from hired_eval.records.store import Store
from hired_eval.reporting.choosing import NothingYetError
from hired_eval.reporting.configs import Configs
from hired_eval.reporting.spec import TableSpec, read_row
from hired_eval.reporting.write import reports, write


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a report of the records in a folder of runs, and print its tables."""
    parser = argparse.ArgumentParser(prog="hired-eval report", description=__doc__)
    parser.add_argument(
        "report",
        nargs="+",
        help=f"what to write: {', '.join(reports())} (everything that has runs), or a table's own TABLE.yaml",
    )
    add_options(parser)
    chosen = parser.parse_args(arguments)
    print_reports(chosen, chosen.report)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that reports have in common."""
    parser.add_argument(
        "--against",
        metavar="METHOD",
        help="what differences are to, instead of full execution: hired (at the budget of each row), or with "
        "options, in quotes, 'hired budget=0.2 alpha=0.3'",
    )
    parser.add_argument(
        "--config-dir", type=Path, help="folder of your own configs: report/, task/ and method/ are read"
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="folder of run records")
    parser.add_argument("--out", type=Path, default=Path("results/reports"), help="folder the files go to")


def print_reports(chosen: argparse.Namespace, names: Sequence[str | TableSpec]) -> None:
    """Write reports with the options of `add_options`, and print them; exits where that cannot be done."""
    store = Store(chosen.runs_dir)
    try:
        against = None if chosen.against is None else read_row(chosen.against)
        for line in write(store, names, chosen.out, Configs(chosen.config_dir), against):
            _print(line)
    except NothingYetError as error:
        failed = [r.error or "samples failed" for r in store.failed()]
        why = f"; {len(failed)} runs failed, one of them with: {failed[-1]}" if failed else ""
        if not chosen.runs_dir.is_dir():
            why = f"; there is no folder {chosen.runs_dir} (--runs-dir names another)"
        sys.exit(f"error: {error}{why}")
    except UserError as error:
        sys.exit(f"error: {error}")


def _print(text: str) -> None:
    """Print; where the reader, such as `head`, has left, go on in silence: the files are still to come."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
