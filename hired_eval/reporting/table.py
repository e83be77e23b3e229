"""The table of a single run, as the command line prints it."""

from __future__ import annotations

from collections.abc import Sequence

from hired_eval.records.context import blocks_of, context_of
from hired_eval.records.record import Count, Record, Score
from hired_eval.records.statistics import FEWEST
from hired_eval.records.store import score_scale
from hired_eval.reporting.render import aligned
from hired_eval.reporting.rows import FULL, label_of, seed_of

SAME = ("model", "weights", "data", "samples", "benchmark")
OF_ONE_ORIGIN = ("checkpoint", "documents")


def beside(record: Record, records: Sequence[Record]) -> Record | None:
    """The newest full execution that differs from a run in the method alone; None where there is none."""
    if FULL.of([record]):
        return None
    same = [
        r
        for r in FULL.of(records)
        if r.status == "complete"
        and r.measure == "accuracy"
        and all(getattr(r, name) == getattr(record, name) for name in SAME)
        and all(getattr(r.identity, name) == getattr(record.identity, name) for name in OF_ONE_ORIGIN)
        and context_of(r) == context_of(record)
    ]
    return max(same, key=lambda r: (seed_of(r) == seed_of(record), r.finished), default=None)


def run_table(records: Sequence[Record]) -> str:
    """One row a run: score with its interval, samples, visual tokens, speed; where they differ, settings."""
    head = ["benchmark", "method", "metric", "score", "95 % interval", "samples", "pictures"]
    head += ["tokens kept", "allowed", "full", "samples/s"]
    rows = []
    for r in records:
        score = r.score
        partial = f" of {r.documents} (partial)" if r.partial else ""
        share = " %" if score_scale(r) != r.benchmark.scale else ""
        rows.append(
            [
                r.benchmark.name,
                label_of(r),
                r.benchmark.metric,
                "withheld" if score is None else f"{score.value:.1f}{share}",
                "" if score is None else _interval(score),
                f"{r.samples}{partial}",
                "" if score is None else str(score.clusters),
                *map(_mean_and_max, (r.tokens.kept, r.tokens.allowed, r.tokens.full)),
                f"{r.timings.questions_per_second:.1f}",
            ]
        )
    blocks = {id(r): block.label for block in blocks_of(records) for r in block.records}
    if len(set(blocks.values())) > 1:
        head = ["model", *head]
        rows = [[blocks[id(r)], *row] for r, row in zip(records, rows, strict=True)]
    return aligned([head, *rows])


def _interval(score: Score) -> str:
    """The interval of a record's score."""
    if score.clusters < FEWEST:
        return "n too small"
    if score.shown_low is None or score.shown_high is None:
        return "none"
    return f"{score.shown_low:.1f} to {score.shown_high:.1f}"


def _mean_and_max(count: Count | None) -> str:
    return "-" if count is None else f"{count.mean:.1f} (max {count.max})"
