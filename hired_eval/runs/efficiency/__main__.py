"""`python -m hired_eval.runs.efficiency`: the efficiency records of a folder, measured beside possible."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hired_eval.errors import UserError
from hired_eval.records.store import Store
from hired_eval.runs.efficiency.table import table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m hired_eval.runs.efficiency", description=__doc__)
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="folder of run records")
    arguments = parser.parse_args()
    try:
        store = Store(arguments.runs_dir)
        print(table([*store.measuring("efficiency"), *store.measuring("efficiency_stock")]))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
