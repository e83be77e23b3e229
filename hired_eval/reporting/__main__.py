"""`python -m hired_eval.reporting table3`: a report from the run records that are there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hired_eval.errors import UserError
from hired_eval.reporting.paper_tables import NothingYetError
from hired_eval.reporting.store import Store
from hired_eval.reporting.write import REPORTS, write


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a report of the records in a folder of runs, and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m hired_eval.reporting", description=__doc__)
    parser.add_argument(
        "report", nargs="+", choices=REPORTS, help="what to write; all: everything that has runs"
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="folder of run records")
    parser.add_argument("--out", type=Path, default=Path("results/reports"), help="folder the files go to")
    chosen = parser.parse_args(arguments)
    store = Store(chosen.runs_dir)
    try:
        for line in write(store, chosen.report, chosen.out):
            print(line)
    except NothingYetError as error:
        failed = [str(r.get("error") or "samples failed") for r in store.failed()]
        why = f"; {len(failed)} runs failed, one of them with: {failed[-1]}" if failed else ""
        sys.exit(f"error: {error}{why}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
