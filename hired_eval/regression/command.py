"""`hired-eval regress`: the chosen set, compared with its reference results sample by sample."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hired_eval.errors import UserError

SAME, DIFFERENT, NOT_COMPARED, INTERRUPTED = 0, 1, 2, 130
REPORT, CHANGES, LOG = "regression.md", "regression-changes.csv", "regression.log"
EPILOG = """\
exit status: 0 the same, 1 different beyond the tolerance of the set, 2 could not compare
"""


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="hired-eval regress",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--set", default="mini", help="name of a set under configs/regression/, or a file (mini)"
    )
    parser.add_argument(
        "--reference", type=Path, help="folder of the reference results, where it is not the set's"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/reports"), help="folder of the report (results/reports)"
    )
    parser.add_argument("--methods", type=_names, help="only these runs of the set, e.g. full,hired")
    parser.add_argument("--benchmarks", type=_names, help="only these benchmarks, e.g. docvqa,pope")
    parser.add_argument("--samples", type=int, help="only the first samples of each benchmark")
    parser.add_argument(
        "--update", action="store_true", help="make the results the new reference, showing the difference"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the set, print and write what changed, and exit with the outcome."""
    chosen = make_parser().parse_args(arguments)
    status: int | None = None
    try:
        status = _regress(chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = NOT_COMPARED
    except KeyboardInterrupt:
        print("error: interrupted; nothing was compared", file=sys.stderr)
        status = INTERRUPTED
    finally:
        if status is None:  # a fault of ours; Python's own exit status would say "different"
            traceback.print_exc()
        sys.exit(NOT_COMPARED if status is None else status)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _regress(asked: argparse.Namespace) -> int:
    """Compare, or renew the reference; the exit status.

    Raises:
        UserError: the set, the reference, the model, the data or the disk.
    """
    if asked.update and (asked.methods or asked.benchmarks or asked.samples):
        raise UserError("--update renews the whole reference; leave the options that take a part of it out")

    from hired_eval.regression.chosen import read_set

    whole = read_set(asked.set)
    chosen = whole.part(asked.methods, asked.benchmarks, asked.samples)
    folder = asked.reference or Path(whole.reference)

    from hired_eval.cli.quiet import quiet_libraries
    from hired_eval.records.folder import explained_disk_errors
    from hired_eval.regression import reference
    from hired_eval.regression.answering import answer_samples, identify_here
    from hired_eval.reporting.regression import compare, versions_that_differ
    from hired_eval.reporting.regression_report import changed_runs, changed_samples, markdown, verdict
    from hired_eval.runs.loading import Models

    quiet_libraries()
    now = identify_here(chosen)
    refused: UserError | None = None
    try:
        before, before_samples = reference.read(folder)
        reference.refuse_other(now, before, folder)
    except UserError as error:
        if not asked.update:
            raise
        refused = error
    models = Models()
    with explained_disk_errors(asked.out):
        asked.out.mkdir(parents=True, exist_ok=True)
        log = (asked.out / LOG).open("w")
    with log:
        samples, scorers = answer_samples(chosen, models, _say, log)
    if refused is not None:
        reference.write(folder, now, samples)
        print(f"nothing to show a difference to: {refused}")
        print(f"reference: {folder} ({len(samples)} samples)")
        return SAME
    comparison = compare(samples, before_samples, scorers, chosen.tolerance)
    provenance = [
        f"reference: {folder}, made {before.finished} at commit {before.git_commit} on {before.machine}",
        f"here: {now.finished} at commit {now.git_commit} on {now.machine}",
        *(f"version: {line}" for line in versions_that_differ(before.versions, now.versions)),
    ]
    with explained_disk_errors(asked.out):
        (asked.out / REPORT).write_text(markdown(comparison, provenance))
        comparison.samples.to_csv(asked.out / CHANGES, index=False)
    for part in (changed_runs(comparison), changed_samples(comparison)):
        if part:
            print(f"{part}\n")
    for line in [*provenance, *comparison.problems]:
        print(line)
    print(f"regression: {verdict(comparison)}")
    print(f"report: {asked.out / REPORT}, every changed sample: {asked.out / CHANGES}")
    if asked.update:
        reference.write(folder, now, samples)
        print(f"reference: {folder} renewed ({len(samples)} samples)")
        return SAME
    return DIFFERENT if comparison.problems else SAME


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
