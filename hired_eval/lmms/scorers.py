"""How lmms-eval scores a task, looked at before the first question is answered."""

from __future__ import annotations

import copy
import inspect
import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from sys import stderr
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from datasets import Dataset
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import Task

from hired_eval.errors import UserError, first_line
from hired_eval.lmms.documents import read_pictures, read_question
from hired_eval.lmms.guards import (
    FAULTS,
    comes_from,
    explain_scorer_errors,
    keep_unchanged,
    network_of,
)
from hired_eval.lmms.mmbench import read_static
from hired_eval.lmms.scoring import describe_value, number_of, split_value
from hired_eval.lmms.tasks import round_to_whole_units
from hired_eval.models.decoding import read_decoding
from hired_eval.records.record import Benchmark
from hired_eval.records.scores import PERCENT, SCORERS, Scorer, scorer_for

DOCUMENTS_TRIED = 60
"""A few, since a scorer may take long; enough that a mean of means is another number than the mean."""
REPLY = "A"
OF_A_CORPUS = ("pycocoevalcap",)
"""Metrics of captions, which count words over all of them: a document alone says nothing."""
Reader = Callable[[Any], float | None]
"""What reads the number in a metric's value; None where it holds none."""


def check_scorer(task: Task, benchmark: Benchmark) -> Reader:
    """Refuse a benchmark whose score would not be lmms-eval's, or could not be computed.

    A few of its documents are scored with a made-up reply, and made-up scores are aggregated; metrics other
    than the benchmark's that fail there, or ask a judge, are left out.

    Args:
        task: with its documents; its list of metrics is shortened.
        benchmark: the metric, and how the paper's score is made of it.

    Returns:
        What reads the number in the metric's value for a document.

    Raises:
        UserError: naming task, metric and reason.
    """
    name, metric, scorer = benchmark.lmms_task, benchmark.metric, scorer_for(benchmark)
    _check_first_question(task, name)
    scoring = task.config.process_results
    aggregates = task.aggregation()
    if aggregates[metric] is None:
        raise UserError(f"metric {metric} of task {name} names an aggregation that lmms-eval does not have")
    if judge := network_of(scoring) or network_of(aggregates[metric]):
        raise UserError(
            f"metric {metric} of task {name} is made by a judge behind the network ({judge}), which is not "
            "asked here; choose another metric or task"
        )
    with keep_unchanged([scoring, *aggregates.values()]), redirect_stdout(stderr):
        values = _made_up(task, benchmark)
        read = _reader(task, benchmark, values.get(metric, []))
        own = _scored(values.get(metric, []), task, scorer, read)
        theirs = _aggregate(aggregates[metric], own["value"].tolist()) if len(own) else None
        if theirs is not None and not scorer.agrees(own, theirs):
            raise UserError(
                f"metric {metric} of task {name} is not what task.scoring={scorer.name} and task.scale="
                f"{scorer.scale:g} make of its samples: of the same made-up scores lmms-eval makes "
                f"{theirs:.4g} and this would make {scorer.aggregate(own):.4g}; "
                f"{_what_agrees(values[metric], task, read, theirs)}"
            )
        for other in aggregates.keys() - {metric}:
            if network_of(aggregates[other]) or (
                # one that the tried documents do not have may be that of others
                other in values and _aggregate(aggregates[other], values[other]) is None
            ):
                del aggregates[other]
    return read


def _check_first_question(task: Task, name: str) -> None:
    """Refuse what the first question shows that this model cannot be asked.

    Raises:
        UserError: naming the task.
    """
    try:
        if task.OUTPUT_TYPE == "generate_until":
            read_decoding(task.config.generation_kwargs)
        document = task.eval_docs[0]
        if not task.multiple_input:
            read_question(task.doc_to_text(document))
        read_pictures(task.doc_to_visual(document))
    except UserError as error:
        raise UserError(f"task {name} cannot be asked: {error}") from error
    except SystemExit as error:
        raise UserError(f"task {name} cannot be asked: its task gives up: {first_line(error)}") from error
    except FAULTS:
        return  # a document that cannot be read is named when its turn comes


def _made_up(task: Task, benchmark: Benchmark) -> dict[str, list[Any]]:
    """What each metric says of some documents with a made-up reply.

    Raises:
        UserError: the task cannot score them.
    """
    documents = task.eval_docs_no_media
    chosen: Sequence[int] = range(len(documents))
    scorer = scorer_for(benchmark)
    if scorer.together and {*scorer.unit_columns} <= set(documents.column_names):
        chosen = chosen[: round_to_whole_units(task, DOCUMENTS_TRIED, scorer)]
    elif len(chosen) > DOCUMENTS_TRIED:
        chosen = sorted(random.Random(0).sample(chosen, DOCUMENTS_TRIED))
    try:
        return _made_up_values(task, documents.select(chosen))
    except FAULTS:
        pass  # some scorers need the pictures
    try:
        return _made_up_values(task, task.eval_docs.select(chosen))
    except FAULTS as error:
        raise UserError(
            f"lmms-eval cannot score task {benchmark.lmms_task}: {type(error).__name__}: "
            f"{first_line(error)}; are these its documents?"
        ) from error


def _made_up_values(task: Task, documents: Dataset) -> dict[str, list[Any]]:
    """What each metric says of documents with a made-up reply."""
    return _values(task, documents, [_replied(task, document, i) for i, document in enumerate(documents)])


def score_reply(task: Task, number: int, reply: str, metric: str, read: Reader) -> float | None:
    """What a metric says of one reply; None where it says nothing.

    Args:
        task: with its documents, of those whose replies are text.
        number: of the document.
        reply: the model's.
        metric: of the benchmark.
        read: of `check_scorer`.

    Raises:
        UserError: the task's scorer fails on the document.
    """
    documents, requests = (
        task.eval_docs.select([number]),
        [[_answered(task, number, "generate_until", 0, reply)]],
    )
    functions = [task.config.process_results, *task.aggregation().values()]
    with keep_unchanged(functions), explain_scorer_errors(task, metric, ""), redirect_stdout(stderr):
        values = _values(task, documents, requests).get(metric, [None])
    return None if values[0] is None else read(values[0])


def _values(task: Task, documents: Dataset, requests: Sequence[list[Instance]]) -> dict[str, list[Any]]:
    """What each metric says of the replies to the requests of each document."""
    (ensemble,) = task._filters
    ensemble.apply([request for each in requests for request in each], documents)
    score = inspect.unwrap(type(task).process_results)  # lmms-eval tries five times, and waits
    values: dict[str, list[Any]] = {}
    for document, each in zip(documents, requests, strict=True):
        results = [request.filtered_resps[ensemble.name] for request in each]
        for metric, value in score(task, document, results).items():
            values.setdefault(metric, []).append(value)
    return values


def _replied(task: Task, document: dict[str, Any], number: int) -> list[Instance]:
    """The requests of a document, with made-up replies."""
    if task.OUTPUT_TYPE == "generate_until":
        # some right and some wrong, so that a mean over categories is another number than one over documents
        reply = REPLY if number % 3 else str(task.doc_to_target(document))
        return [_answered(task, number, "generate_until", 0, reply)]
    choices = task.doc_to_choice(document) if task.OUTPUT_TYPE == "multiple_choice" else [""]
    return [_answered(task, number, "loglikelihood", i, (1.0 + i, False)) for i in range(len(choices))]


def _answered(task: Task, number: int, kind: str, index: int, reply: Any) -> Instance:
    """A request of a document with its reply, as often as the task repeats it."""
    facts = {"task": task.config.task, "doc_id": number, "repeats": task.config.repeats}
    return Instance(kind, (), index, facts, resps=[reply] * task.config.repeats)


def _reader(task: Task, benchmark: Benchmark, values: list[Any]) -> Reader:
    """What reads the number in a metric's value: the number itself, or lmms-eval's aggregate of it alone.

    Raises:
        UserError: some of the values hold no number, or lack what the scoring needs.
    """
    name, metric, key = benchmark.lmms_task, benchmark.metric, task.config.score_key
    scorer = scorer_for(benchmark)
    values = [value for value in values if value is not None]
    aggregate = task.aggregation()[metric]
    read: Reader = read_static if scorer.together == "rotations" else partial(number_of, score_key=key)
    if scorer.together == "rotations" and any(read(value) is None for value in values):
        raise UserError(
            f"task.scoring={scorer.name} needs what MMBench says of a document, and metric {metric} of task "
            f"{name} gives {describe_value(values[0])}; set task.scoring=mean"
        )
    if any(read(value) is None for value in values) and not comes_from(aggregate, OF_A_CORPUS):
        read = partial(_alone, aggregate)
    for value in values:
        if read(value) is None:
            raise UserError(
                f"metric {metric} of task {name} gives no number for a document but {describe_value(value)}, "
                "so that its score is not a mean over documents; choose another metric or task"
            )
        parts = split_value(value, read, scorer)
        if scorer.together == "pairs" and (parts["pair"] is None or parts["category"] is None):
            raise UserError(
                f"task.scoring={scorer.name} needs pairs of questions in categories, and metric {metric} of "
                f"task {name} gives {describe_value(value)}; set task.scoring=mean"
            )
        if scorer.categories and parts["category"] is None:
            raise UserError(
                f"task.scoring={scorer.name} needs the category of each document, and metric {metric} of "
                f"task {name} gives {describe_value(value)}, none called {scorer.category}; write "
                "category: NAME in the task's config, or set task.scoring=mean"
            )
    highest = max((abs(read(value) or 0) for value in values), default=0)
    if scorer.scale > 1 and highest * scorer.scale > max(PERCENT, scorer.scale):
        raise UserError(
            f"metric {metric} of task {name} gives {highest:g} for a document, which task.scale="
            f"{scorer.scale:g} would make {highest * scorer.scale:g}; set task.scale=1"
        )
    return read


def _alone(aggregate: Any, value: Any) -> float | None:
    """lmms-eval's aggregate of a single document; None where it makes none."""
    with keep_unchanged([aggregate]):
        return _aggregate(aggregate, [value])


def _scored(values: list[Any], task: Task, scorer: Scorer, read: Reader) -> pd.DataFrame:
    """(n,) values of a metric and what is read of them; a made-up score where a value holds its number."""
    key = task.config.score_key
    drawn = random.Random(0)
    rows: list[dict[str, Any]] = []
    for value in filter(lambda value: value is not None, values):
        score = float(drawn.random() < 0.5)
        if number_of(value, key) is None:
            made_up = value
        else:
            made_up = {**value, key: score} if isinstance(value, dict) else score
        parts = split_value(made_up, read, scorer)
        rows.append({"value": made_up, "doc_id": len(rows), "image": None, **parts})
    return pd.DataFrame(rows)


def _what_agrees(values: list[Any], task: Task, read: Reader, theirs: float) -> str:
    """What to do where a metric is scored in another way: name the scoring that makes lmms-eval's number."""
    parts = [part for value in values if isinstance(value, dict) for part in value.items()]
    keys = {key for key, text in parts if isinstance(text, str)}
    for kind in SCORERS.values():
        for category in sorted(keys) if "category" in kind.open else [kind.category]:
            scorer = replace(kind, category=category)
            own = _scored(values, task, scorer, read)
            known = own["category"].notna().all() or not scorer.categories
            if known and (own["pair"].notna().all() or not scorer.together) and scorer.agrees(own, theirs):
                named = f" and category: {category}" if "category" in kind.open else ""
                return f"write scoring: {kind.name}{named} in the task's config"
    return "choose another metric or task"


def _aggregate(aggregate: Any, values: list[Any]) -> float | None:
    """lmms-eval's number for values of a metric; None where it makes none of them."""
    with TemporaryDirectory() as scratch, redirect_stdout(StringIO()):
        options = {"args": Namespace(output_path=scratch)}
        try:
            named = "args" in inspect.signature(aggregate).parameters
            return number_of(aggregate(copy.deepcopy(values), **(options if named else {})), "")
        except FAULTS:
            return None
