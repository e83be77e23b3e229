"""`python -m hired_eval.reporting table3`: the paper's Table 3 from the records that are there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hired_eval.errors import UserError
from hired_eval.reporting.table import read_records, table3


def main() -> None:
    """Print a report of the records in a folder of runs."""
    parser = argparse.ArgumentParser(prog="python -m hired_eval.reporting", description=__doc__)
    parser.add_argument("report", choices=["table3"], help="which report to print")
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="folder of run records")
    arguments = parser.parse_args()
    try:
        print(table3(read_records(arguments.runs_dir)))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
