"""`hired-eval compare A B`: two finished runs on the same documents, and the answers that flipped."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hired_eval.errors import UserError, unknown
from hired_eval.records.flips import KINDS
from hired_eval.records.folder import RECORD, explained_disk_errors, replacing
from hired_eval.records.record import Record
from hired_eval.records.store import Store
from hired_eval.reporting.comparison import Comparison, compare, printed
from hired_eval.reporting.gallery import Entry, Shown, show_kept, verdict_of
from hired_eval.reporting.html import page
from hired_eval.reporting.html_parts import comparison, gallery


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="hired-eval compare", description=__doc__)
    run = "a run: its name, its folder, or in quotes the overrides that made it, 'method=full task=docvqa'"
    parser.add_argument("before", metavar="A", help=run)
    parser.add_argument("after", metavar="B", help="another run; the difference is B - A")
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="folder of run records")
    parser.add_argument("--config-dir", type=Path, help="folder of your own configs, for overrides")
    parser.add_argument(
        "--pictures", type=int, default=6, help="flipped documents shown with kept tokens; 0 loads no model"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/reports/compare.html"), help="the page's file"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison, and write the page."""
    parser = make_parser()
    chosen, more = parser.parse_known_args(arguments)
    unquoted = any(re.match(r"[\w.]+=", word) for word in more)
    if more and not unquoted:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        if unquoted:
            raise UserError(
                "compare takes two runs, each in quotes, e.g. hired-eval compare 'method=hired budget=0.2 "
                "task=docvqa' 'method=full task=docvqa'"
            )
        _compare(chosen)
    except UserError as error:
        sys.exit(f"error: {error}")


def _compare(chosen: argparse.Namespace) -> None:
    """Find both runs, compare, print, write.

    Raises:
        UserError: a run that is not there, runs that do not compare, or the file to write.
    """
    found = [find_run(word, chosen.runs_dir, chosen.config_dir) for word in (chosen.before, chosen.after)]
    made = compare(found[0], found[1])
    print(printed(made))
    parts = [comparison(made)]
    if chosen.pictures > 0 and len(made.flips.documents):
        try:
            parts.append(gallery(_drawn(made, chosen.pictures), "Flipped answers, with kept tokens"))
        except UserError as error:
            print(f"no pictures: {error}", file=sys.stderr)
    with explained_disk_errors(chosen.out):
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(chosen.out) as temporary:
            temporary.write_text(page(made.title, parts), encoding="utf-8")
    print(f"written: {chosen.out}")


def find_run(word: str, runs_dir: Path, own: Path | None = None) -> tuple[Store, Record]:
    """The finished run that a word means, with its store.

    Args:
        word: name of a run, its folder, or overrides.
        runs_dir: folder of run records.
        own: folder of the user's own configs.

    Raises:
        UserError: there is none.
    """
    folder = Path(word).expanduser()
    if (folder / RECORD).is_file():
        runs_dir, word = folder.absolute().parent, folder.absolute().name
    store = Store(runs_dir)
    if "=" not in word:
        named = {record.run: record for record in store.records}
        if word not in named:
            raise UserError(unknown(f"run {word!r} in {runs_dir}", word, named))
        return store, named[word]
    asked = _asked(shlex.split(word), own)
    same = [r for r in store.records if r.status == "complete" and r.identity.config_sha256 == asked]
    if not same:
        raise UserError(
            f"no finished run of {word!r} in {runs_dir}; make it with python -m hired_eval {word}, or name "
            "another folder with --runs-dir"
        )
    return store, max(same, key=lambda record: record.finished)


def _asked(overrides: list[str], own: Path | None) -> str:
    """What tells the question that a run with these overrides asks, whatever the code is by now.

    Raises:
        UserError: a name or a value that no run can have.
    """
    from hired_eval.cli.composing import compose_config
    from hired_eval.cli.quiet import quiet_libraries
    from hired_eval.runs.options import read_config
    from hired_eval.runs.plan import plan_run

    resolved = compose_config(overrides, own)
    quiet_libraries()
    return plan_run(read_config(resolved)).record.identity.config_sha256


def _drawn(made: Comparison, pictures: int) -> list[Entry]:
    """The first flipped documents of each kind, with what each run kept.

    Raises:
        UserError: see `hired_eval.runs.redrawn.redraw`.
    """
    from hired_eval.cli.quiet import quiet_libraries
    from hired_eval.runs.loading import Models
    from hired_eval.runs.redrawn import redraw

    quiet_libraries()
    flipped = made.flips.documents
    by_kind = pd.concat([flipped[flipped["kind"] == kind] for kind in KINDS]).head(pictures)
    models, numbers = Models(), [int(number) for number in by_kind["doc_id"]]
    shown: dict[int, list[Shown]] = {number: [] for number in numbers}
    for side, suffix in ((made.before, "before"), (made.after, "after")):
        drawn = redraw(side.record, numbers, models, lambda line: print(line, file=sys.stderr))
        of_document = by_kind.set_index("doc_id")
        for number, one in drawn.items():
            answer = str(of_document[f"prediction_{suffix}"][number])
            kept = show_kept(side.label, one.kept, one.full, answer, one.picture, one.arrays, 0)
            verdict = verdict_of(float(of_document[f"score_{suffix}"][number]))
            shown[number].append(replace(kept, verdict=verdict))
    name = made.before.record.benchmark.name
    return [
        Entry(str(one["kind"]), name, str(one["question"]), str(one["target"]), shown[int(one["doc_id"])])
        for one in by_kind.to_dict("records")
        if shown[int(one["doc_id"])]
    ]
