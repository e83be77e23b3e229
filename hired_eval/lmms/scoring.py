"""From lmms-eval's results to the samples and the score of a record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Real
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from lmms_eval.api.task import Task

from hired_eval.errors import UserError
from hired_eval.records.record import Benchmark, Score
from hired_eval.records.replies import Reply, RequestKey
from hired_eval.records.scores import Part, Scorer, score, scorer_for


def number_of(value: Any, score_key: str) -> float | None:
    """The number in a metric's value; None where it holds none.

    Args:
        value: a number, or a dict with one, as lmms-eval's own statistics read it.
        score_key: the number's name in a dict; `score_key` of the task's config.
    """
    number = value.get(score_key) if isinstance(value, dict) else value
    if not isinstance(number, Real | np.bool_) or not math.isfinite(number):
        return None
    return float(number)


def describe_value(value: Any) -> str:
    """A value's kind, in words."""
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value))}"
    return f"{value!r}" if isinstance(value, Real) else f"a {type(value).__name__}"


def split_value(value: Any, read: Callable[[Any], float | None], scorer: Scorer) -> dict[str, Any]:
    """Score, pair and category in a metric's value; None for what it lacks."""
    parts = value if isinstance(value, dict) else {}
    category = scorer.category or "category"
    return {
        "score": None if value is None else read(value),
        "pair": scorer.pair_of(parts),
        "category": str(parts[category]) if category in parts else None,
    }


def make_sample_table(
    logged: list[dict[str, Any]],
    benchmark: Benchmark,
    replies: Mapping[RequestKey, Reply],
    read: Callable[[Any], float | None],
    folder: Path,
) -> pd.DataFrame:
    """One row a document: question, prediction, target, score, token counts.

    kept, allowed and full are summed over a document's images; allowed is null for a method without a budget.
    Where tokens leave inside the language model, by_layer has the number that each layer sees, and kept and
    allowed are their mean.

    Args:
        logged: lmms-eval's samples.
        benchmark: names the metric.
        replies: of the model.
        read: the number in the metric's value.
        folder: of the run, where the replies are.

    Raises:
        UserError: the metric's value for a document holds no number.
    """
    by_document: dict[int, list[Reply]] = {}
    for (_, doc_id, _, _), reply in sorted(replies.items(), key=lambda item: item[0][2:]):
        by_document.setdefault(doc_id, []).append(reply)
    rows = []
    # several processes give the documents by turns
    for sample in sorted(logged, key=lambda sample: sample["doc_id"]):
        document = by_document[sample["doc_id"]]
        first = document[0]
        errors = [r.error for r in document if r.error]
        value = sample.get(benchmark.metric)
        parts = split_value(value, read, scorer_for(benchmark))
        if value is not None and parts["score"] is None and not errors:
            raise UserError(
                f"metric {benchmark.metric} of task {benchmark.lmms_task} gives {describe_value(value)} for "
                f"document {sample['doc_id']}, not a number; choose another metric (the replies are kept in "
                f"{folder})"
            )
        limits = [c.allowed for c in first.counts if c.allowed is not None]
        allowed = first.allowed if first.by_layer else sum(limits) if limits else None
        rows.append(
            {
                "doc_id": sample["doc_id"],
                "question": str(sample["arguments"][0]),
                "prediction": _text(sample["filtered_resps"][0])
                if first.loss is None
                else str(sample["filtered_resps"]),
                "target": json.dumps(sample["target"], ensure_ascii=False, default=str),
                "score": None if errors else parts["score"],
                "kept": fmean(first.by_layer) if first.by_layer else sum(c.kept for c in first.counts),
                "allowed": allowed,
                "full": sum(c.full for c in first.counts),
                "by_layer": json.dumps(list(first.by_layer)) if first.by_layer else None,
                "images": len(first.counts),
                "image": " ".join(first.images) or None,
                "pair": parts["pair"],
                "category": parts["category"],
                "error": "; ".join(errors) or None,
            }
        )
    whole = all(float(row["allowed"]).is_integer() for row in rows if row["allowed"] is not None)
    columns = {
        "score": "float64",
        "by_layer": "string",
        "allowed": "Int64" if whole else "Float64",
        "image": "string",
        "pair": "string",
    }
    return pd.DataFrame(rows).astype({**columns, "category": "string", "error": "string"})


def _text(response: Any) -> str:
    """What a filter made of a document's replies, as text: several of them as JSON."""
    return response if isinstance(response, str) else json.dumps(response, ensure_ascii=False, default=str)


def scores(
    samples: pd.DataFrame,
    benchmark: Benchmark,
    results: dict[str, Any],
    documents: int,
    seed: int,
    part: Part | None = None,
) -> dict[str, Any]:
    """The score on the paper's scale with its interval; withheld where a sample failed.

    Args:
        samples: of the run.
        benchmark: how the score is made of them.
        results: of lmms-eval.
        documents: of the whole benchmark.
        seed: of the bootstrap.
        part: of samples drawn at random.
    """
    failed = int(samples["error"].notna().sum())
    partial = len(samples) < documents
    metrics = {
        name: value if math.isfinite(value) else None
        for name, value in results["results"][benchmark.lmms_task].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    summary: dict[str, Any] = {
        "samples": len(samples),
        "documents": documents,
        "partial": partial,
        "failed_samples": failed,
        "lmms_eval_metrics": metrics,
        "score": None,
    }
    if not failed:
        scorer = scorer_for(benchmark)
        measured = score([samples], scorer.of_part() if partial else scorer, seed, part)
        if measured.n:
            summary["score"] = Score(**{f.name: getattr(measured, f.name) for f in fields(Score)})
    return summary


def check_agreement(
    samples: pd.DataFrame, benchmark: Benchmark, results: dict[str, Any], task: Task, folder: Path
) -> None:
    """The score computed from samples must be lmms-eval's own, where no sample failed.

    Args:
        samples: of the run.
        benchmark: how the score is made of them.
        results: of lmms-eval.
        task: names the filter that the metric stands behind.
        folder: of the run, where the replies are.

    Raises:
        UserError: it is another number.
    """
    if samples["error"].notna().any() or not samples["score"].notna().any():
        return
    theirs = results["results"][benchmark.lmms_task].get(f"{benchmark.metric},{task._filters[0].name}")
    scorer = scorer_for(benchmark)
    if not isinstance(theirs, Real) or not scorer.agrees(samples, float(theirs)):
        said = f"{theirs:.6g}" if isinstance(theirs, Real) else repr(theirs)
        raise UserError(
            f"lmms-eval makes {said} of metric {benchmark.metric} of task {benchmark.lmms_task}, and "
            f"task.scoring={benchmark.scoring} makes {scorer.aggregate(samples):.6g} of the same samples "
            f"(task.scale={scorer.scale:g}); no score is given, and the replies are kept in {folder}"
        )
