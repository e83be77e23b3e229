"""Accuracy: a benchmark answered with lmms-eval, every reply kept on disk as it comes."""

from __future__ import annotations

import math
import sys
import time
from argparse import Namespace
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory

import pandas as pd
from lmms_eval.evaluator import simple_evaluate

from hired_eval.errors import RefusedError, UserError
from hired_eval.lmms.drawing import narrowed
from hired_eval.lmms.guards import explain_scorer_errors, keep_unchanged
from hired_eval.lmms.model import HiredVLM
from hired_eval.lmms.scorers import check_scorer
from hired_eval.lmms.scoring import check_agreement, make_sample_table, scores
from hired_eval.lmms.tasks import task_manager
from hired_eval.processes import Processes
from hired_eval.records.goal import read_goal
from hired_eval.records.record import Count, Record, Tokens
from hired_eval.records.replies import RequestKey
from hired_eval.records.store import part_of
from hired_eval.runs.loading import Models
from hired_eval.runs.plan import Plan, Say, note_place
from hired_eval.runs.together import companions_of, make_answerer


def measure_accuracy(plan: Plan, say: Say, models: Models) -> tuple[Record, pd.DataFrame] | None:
    """Answer a benchmark and score the answers; going on from what an earlier attempt answered.

    Returns:
        The record and a row a document; None in all processes of several but the main one.

    Raises:
        UserError: the checkpoint, the data, a sample, or the disk; see the message.
    """
    config, folder, benchmark = plan.config, plan.folder, plan.config.task
    if config.model.weights == "dummy":
        raise UserError("dummy weights answer nothing that could be scored; they are for measure=efficiency")
    processes = Processes()
    say(f"benchmark {benchmark.name} ({plan.data.path or plan.data.source}): loading")
    task = plan.load_task()
    try:
        read = check_scorer(task, benchmark)
    except UserError as error:
        raise RefusedError(str(error)) from error
    checkpoint = plan.load_checkpoint(models, say)
    numbers = sorted(plan.chosen) if plan.chosen else None
    grows = read_goal(asdict(config)) is not None
    if plan.limit is not None and plan.limit != config.limit and not grows:
        cut = "the questions about a picture" if numbers else "questions that count together"
        say(f"limit={config.limit} would cut {cut}: answering {plan.limit}")
    if numbers:
        say(f"answering {len(numbers)} of {len(task.eval_docs)} documents, random ones (order=random)")
    own = make_answerer(plan, checkpoint)
    if own.log and own.log.known:
        say(f"going on with {len(own.log.known)} questions answered before")
    documents = len(task.eval_docs)
    start, spent = time.perf_counter(), plan.effort.seconds
    # some scorers print, write a file for a leader board, and keep totals for all runs of a process
    with (
        companions_of(plan, models, checkpoint) as companions,
        narrowed(task, numbers),
        TemporaryDirectory() as scratch,
        redirect_stdout(sys.stderr),
        keep_unchanged([task.config.process_results, *task.aggregation().values()]),
        explain_scorer_errors(task, benchmark.metric, f"; the replies are kept in {folder.path}"),
    ):
        results = simple_evaluate(
            model=HiredVLM.around(own, companions, numbers=numbers, workers=config.reading.workers),
            tasks=[task],
            task_manager=task_manager(benchmark.lmms_task),
            limit=None if numbers else plan.limit,
            bootstrap_iters=0,
            process_docs_parallel=1,
            random_seed=config.seed,
            numpy_random_seed=config.seed,
            torch_random_seed=config.seed,
            verbosity="ERROR",
            # a picture that cannot be read is a failed sample by now: scoring must not stumble over it
            cli_args=Namespace(output_path=scratch, process_with_media=config.on_error == "stop"),
        )
    # what others were answered in is theirs
    seconds = time.perf_counter() - start + spent - sum(other.effort.seconds for other in companions)
    replies = {key: reply for part in processes.gather(own.replies) for key, reply in part.items()}
    answered = len(set[RequestKey]().union(*processes.gather(own.effort.answered)))
    if not processes.main:
        return None
    logged = results["samples"][benchmark.lmms_task]
    if numbers:
        logged = [{**sample, "doc_id": numbers[sample["doc_id"]]} for sample in logged]
    samples = make_sample_table(logged, benchmark, replies, read, folder.path)
    if plan.chosen:
        places = [plan.chosen[document] for document in samples["doc_id"]]
        samples["unit"], samples["stratum"] = zip(*places, strict=True)
    check_agreement(samples, benchmark, results, task, folder.path)
    record = replace(
        plan.record,
        status="failed" if samples["error"].notna().any() else "complete",
        **scores(samples, benchmark, results, documents, config.seed, part_of(plan.record)),
        tokens=count_tokens(samples),
        timings=replace(
            note_place(checkpoint),
            seconds=seconds,
            questions_timed=answered,
            questions_per_second=answered / seconds,
            batch_size=own.effort.largest_batch if config.batch_size == "auto" else config.batch_size,
            out_of_memory=[asdict(time) for time in own.effort.out_of_memory],
            together=own.effort.together,
            processes=processes.count,
        ),
    )
    return record, samples


def count_tokens(samples: pd.DataFrame) -> Tokens:
    """Mean and maximum over documents with an image of kept, allowed and full visual tokens."""
    with_image = samples[samples["images"] > 0]
    counts = {}
    for name in ("kept", "allowed", "full"):
        column = with_image[name].dropna()
        counts[name] = Count(float(column.mean()), math.ceil(column.max())) if len(column) else None
    return Tokens(**counts)
