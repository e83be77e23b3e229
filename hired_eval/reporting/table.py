"""The table of a single run, as the command line prints it."""

from __future__ import annotations

from collections.abc import Sequence

from hired_eval.records.context import blocks_of, context_of
from hired_eval.records.goal import Goal
from hired_eval.records.record import Count, Record
from hired_eval.records.statistics import FEWEST, Estimate
from hired_eval.records.store import Store, scorer_of_run, why_apart
from hired_eval.reporting.render import aligned
from hired_eval.reporting.rows import FULL, label_of, seed_of

SAME = ("model", "weights", "data", "benchmark")
OF_ONE_ORIGIN = ("checkpoint", "documents")


def full_run_like(record: Record, records: Sequence[Record]) -> Record | None:
    """The newest full execution that differs from a run in the method alone; None where there is none."""
    if FULL.of([record]):
        return None
    same = [
        r
        for r in FULL.of(records)
        if r.status == "complete"
        and r.measure == "accuracy"
        and all(getattr(r, name) == getattr(record, name) for name in SAME)
        and (r.samples == record.samples or record.drawing)
        and not why_apart(r, record)
        and all(getattr(r.identity, name) == getattr(record.identity, name) for name in OF_ONE_ORIGIN)
        and context_of(r) == context_of(record)
    ]
    return max(same, key=lambda r: (seed_of(r) == seed_of(record), r.finished), default=None)


def run_table(runs: Sequence[tuple[Store, Record]]) -> str:
    """One row a run: score with its interval, samples, visual tokens; where they differ, settings.

    Args:
        runs: records, each with the store that has its samples.

    Raises:
        UserError: samples cannot be read.
    """
    records = [record for _, record in runs]
    head = ["benchmark", "method", "metric", "score", "95 % interval", "samples", "pictures"]
    head += ["tokens kept", "allowed", "full"]
    rows = []
    for store, r in runs:
        found = store.score([r])
        score = found if found.n and not r.failed_samples else None
        partial = f" of {r.documents} (partial)" if r.partial else ""
        rows.append(
            [
                ", ".join(filter(None, [r.benchmark.name, r.config.get("data", {}).get("name")])),
                label_of(r),
                r.benchmark.metric,
                show_score(store, r),
                "" if score is None else _interval(score),
                f"{r.samples}{partial}",
                "" if score is None else str(score.clusters),
                *map(_mean_and_max, (r.tokens.kept, r.tokens.allowed, r.tokens.full)),
            ]
        )
    blocks = {id(r): block.label for block in blocks_of(records) for r in block.records}
    if len(set(blocks.values())) > 1:
        head = ["model", *head]
        rows = [[blocks[id(r)], *row] for r, row in zip(records, rows, strict=True)]
    return aligned([head, *rows])


def show_score(store: Store, record: Record) -> str:
    """The score of a run as it is shown; withheld where samples failed.

    Args:
        store: has the run's samples.
        record: of the run.

    Raises:
        UserError: samples cannot be read.
    """
    score = store.score([record])
    if not score.n or record.failed_samples:
        return "withheld"
    return f"{score.value:.1f}{' %' * scorer_of_run(record).share}"


def settled_line(store: Store, record: Record, full: Record | None, goal: Goal | None) -> str | None:
    """What a run was asked to find out and whether it is settled; None where it was asked nothing.

    Raises:
        UserError: samples cannot be read.
    """
    if goal is None or full is None or record.score is None:
        return None
    found = store.difference([(record, full)])
    if found is None:
        return None
    answered = f"after {record.samples} of {record.documents} documents"
    if not record.partial:
        said = goal.decided(found.value, found.value) or "the difference on the whole benchmark"
        return f"{label_of(record)}: {said}, {answered}: {found.value:+.2f}"
    said = goal.reached(found.low, found.high) or "not settled"
    return f"{label_of(record)}: {said}, {answered}: {found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _interval(score: Estimate) -> str:
    low, high = score.shown_low, score.shown_high
    if low is None or high is None:
        return "n too small" if score.clusters < FEWEST else "none"
    return f"{low:.1f} to {high:.1f}"


def _mean_and_max(count: Count | None) -> str:
    return "-" if count is None else f"{count.mean:.1f} (max {count.max})"
