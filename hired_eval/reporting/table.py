"""The table of a single run, as the command line prints it."""

from __future__ import annotations

from collections.abc import Sequence

from hired_eval.reporting.render import aligned
from hired_eval.reporting.rows import label_of, options_of, target_of
from hired_eval.reporting.store import Record


def beside(record: Record, records: Sequence[Record]) -> Record | None:
    """The newest full execution of the same model on the same documents; None where there is none."""
    if target_of(record) == "Full":
        return None
    same = [
        r
        for r in records
        if target_of(r) == "Full"
        and not options_of(r)
        and r["status"] == "complete"
        and r.get("measure", "accuracy") == "accuracy"
        and all(r[k] == record[k] for k in ("model", "weights", "data", "samples"))
        and r["benchmark"]["name"] == record["benchmark"]["name"]
    ]
    return max(same, key=lambda r: str(r["finished"]), default=None)


def run_table(records: Sequence[Record]) -> str:
    """One row a run: score with its interval, samples, visual tokens, speed."""
    head = ["benchmark", "method", "metric", "score", "95 % interval", "samples", "tokens kept", "allowed"]
    rows = [[*head, "full", "samples/s"]]
    for r in records:
        score = r["score"]
        partial = f" of {r['documents']} (partial)" if r["partial"] else ""
        share = " %" if r.get("score_scale", r["benchmark"]["scale"]) != r["benchmark"]["scale"] else ""
        rows.append(
            [
                r["benchmark"]["name"],
                label_of(r),
                r["benchmark"]["metric"],
                "withheld" if score is None else f"{score['value']:.1f}{share}",
                "" if score is None else f"{score['low']:.1f} to {score['high']:.1f}",
                f"{r['samples']}{partial}",
                *(_mean_and_max(r["tokens"][name]) for name in ("kept", "allowed", "full")),
                f"{r['timings']['questions_per_second']:.1f}",
            ]
        )
    return aligned(rows)


def _mean_and_max(statistics: dict[str, float] | None) -> str:
    return "-" if statistics is None else f"{statistics['mean']:.1f} (max {statistics['max']})"
