"""`hired-eval rank budget=0.1 group=reading`: which methods keep most of the score at one budget."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hired_eval.errors import UserError, refuse_spaces, unknown
from hired_eval.reporting.__main__ import add_options, print_reports
from hired_eval.reporting.rows import percent
from hired_eval.reporting.spec import ColumnSpec, TableSpec
from hired_eval.typed import Share, check_value, read

NAMES = ("budget", "group")


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="hired-eval rank", description=__doc__)
    parser.add_argument(
        "option",
        nargs="*",
        metavar="NAME=VALUE",
        help="budget=SHARE; group=reading, general, or benchmarks: docvqa,textvqa (default: all)",
    )
    add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a ranking of the runs in a folder, and print it."""
    chosen = make_parser().parse_args(arguments)
    try:
        spec = read_ranking(chosen.option)
    except UserError as error:
        sys.exit(f"error: {error}")
    print_reports(chosen, [spec])


def read_ranking(words: Sequence[str]) -> TableSpec:
    """The ranking that is asked for.

    Raises:
        UserError: a word is no option, or the budget is out of range.
    """
    refuse_spaces(words)
    asked = {}
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word in NAMES and i + 1 < len(words):
            given = words[i + 1]
            raise UserError(f"{word} {given}: an option needs an equals sign; write {word}={given}")
        if not equals:
            raise UserError(f"{word!r} is not an option; write budget={word} or group={word}")
        if name not in NAMES:
            raise UserError(unknown(f"option {name!r}", name, NAMES))
        asked[name] = value
    budget: float | None = (
        check_value("budget", Share | None, read(Share, asked["budget"])) if "budget" in asked else None
    )
    group = asked.get("group", "")
    at = "" if budget is None else f" at a budget of {percent(budget)}"
    return TableSpec(
        title=f"Methods{at}, ranked{f': {group}' * bool(group)}",
        kind="rank",
        budget=budget,
        columns=tuple(ColumnSpec(name=name) for name in group.split(",") if name),
        origin=Path("_".join(["rank", *re.findall(r"\w+", group), f"{100 * (budget or 0):g}"])),
    )


if __name__ == "__main__":
    main()
