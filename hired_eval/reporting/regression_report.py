"""The report of a regression: Markdown that a CI keeps, lines for the screen, and every change as CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pandas as pd

from hired_eval.reporting.regression import COMPARED, Comparison, RunChange
from hired_eval.reporting.render import aligned
from hired_eval.reporting.tables import interval_text

SHOWN = 20
"""Changed samples on the screen and in Markdown; the CSV has all."""
LONGEST = 60


def verdict(comparison: Comparison) -> str:
    """The outcome in one line."""
    counts = (
        f"{len(comparison.runs)} runs, {comparison.compared} samples: "
        f"{sum(run.tokens for run in comparison.runs)} with other token counts, "
        f"{comparison.answers} with another answer"
    )
    return f"{'different' if comparison.problems else 'same'} ({counts})"


def changed_runs(comparison: Comparison) -> str:
    """A table of the runs with a change; '' where there is none."""
    head = ["benchmark", "method", "samples", "token counts", "answers", "score before", "after"]
    rows = [_row(run) for run in comparison.runs if run.tokens or run.answers]
    return aligned([[*head, "difference", "p"], *rows]) if rows else ""


def _row(run: RunChange) -> list[str]:
    d = run.difference
    interval = interval_text(d.shown_low, d.shown_high, 1, d.clusters, "+") if d else ""
    difference = f"{d.value:+.1f}{interval}" if d else "none"
    counts = [str(run.samples), str(run.tokens), str(run.answers)]
    scores = ["-" if math.isnan(score) else f"{score:.1f}" for score in (run.before, run.after)]
    return [run.benchmark, run.method, *counts, *scores, difference, f"{d.p:.2g}" if d else "-"]


def changed_samples(comparison: Comparison) -> str:
    """The first changed samples, token counts before answers; '' where there is none."""
    samples = comparison.samples.sort_values("tokens_changed", ascending=False, kind="stable")
    rows = [
        [str(s["benchmark"]), str(s["method"]), str(s["doc_id"]), what, before, after]
        for _, s in samples.head(SHOWN).iterrows()
        for what, before, after in _changes(s)
    ]
    if not rows:
        return ""
    head = ["benchmark", "method", "document", "what", "before", "after"]
    more = len(samples) - SHOWN
    return aligned([head, *rows]) + (f"\n\n... and {more} more samples" if more > 0 else "")


def _changes(sample: pd.Series) -> list[tuple[str, str, str]]:
    """What changed in a sample, as (what, before, after)."""
    pairs = [(name, sample[f"{name}_before"], sample[f"{name}_after"]) for name in COMPARED]
    return [
        (name, quote_value(before), quote_value(after))
        for name, before, after in pairs
        if not (pd.isna(before) and pd.isna(after)) and before is not pd.NA and before != after
    ]


def quote_value(value: object) -> str:
    """A value on one line, text in quotes, as code that Markdown does not read."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=True)
        text = text if len(text) <= LONGEST else text[: LONGEST - 4] + '..."'
        return f"`{text.replace('`', chr(39))}`"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def markdown(comparison: Comparison, provenance: Sequence[str]) -> str:
    """The whole report."""
    problems = comparison.problems
    parts = [f"# Regression: {verdict(comparison)}", "", *[f"- {line}" for line in provenance], ""]
    if problems:
        parts += ["## Beyond the tolerance", "", *[f"- {line}" for line in problems], ""]
    runs, samples = changed_runs(comparison), changed_samples(comparison)
    parts += ["## Runs with a change", "", runs or "None.", ""]
    if samples:
        parts += ["## Changed samples", "", samples, ""]
    return "\n".join(parts)
