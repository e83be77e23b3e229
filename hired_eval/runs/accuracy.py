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
from hired_eval.models.answering import DroppingVLM
from hired_eval.processes import Processes
from hired_eval.records.goal import read_goal
from hired_eval.records.record import Count, Record, Tokens
from hired_eval.records.replies import ReplyFile
from hired_eval.records.store import part_of
from hired_eval.runs.loading import Models
from hired_eval.runs.plan import Plan, Say, note_place


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
    llava = DroppingVLM(
        checkpoint,
        plan.dropper,
        config.model.prompt,
        share_prefix=config.share_prefix,
        encodings=models.encodings(config.encoding_cache, config.encoding_cache_gib),
        pictures_per_pass=config.reading.pictures_per_pass,
    )
    numbers = sorted(plan.chosen) if plan.chosen else None
    grows = read_goal(asdict(config)) is not None
    if plan.limit is not None and plan.limit != config.limit and not grows:
        cut = "the questions about a picture" if numbers else "questions that count together"
        say(f"limit={config.limit} would cut {cut}: answering {plan.limit}")
    if numbers:
        say(f"answering {len(numbers)} of {len(task.eval_docs)} documents, random ones (order=random)")
    log = ReplyFile(folder, processes.rank, None if config.rerun else plan.other)
    if log.known:
        say(f"going on with {len(log.known)} questions answered before")
    model = HiredVLM.around(
        llava,
        batch_size=config.batch_size,
        on_error=config.on_error,
        log=log,
        seed=config.seed,
        numbers=numbers,
        workers=config.reading.workers,
    )
    documents = len(task.eval_docs)
    answered_before = {key for key in log.known if log.get(key) is not None}
    start = time.perf_counter()
    # some scorers print, write a file for a leader board, and keep totals for all runs of a process
    with (
        narrowed(task, numbers),
        TemporaryDirectory() as scratch,
        redirect_stdout(sys.stderr),
        keep_unchanged([task.config.process_results, *task.aggregation().values()]),
        explain_scorer_errors(task, benchmark.metric, f"; the replies are kept in {folder.path}"),
    ):
        results = simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=task_manager(),
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
    seconds = time.perf_counter() - start
    replies = {key: reply for part in processes.gather(model.replies) for key, reply in part.items()}
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
    answered = len(replies.keys() - answered_before)
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
            batch_size=model.largest_batch if config.batch_size == "auto" else config.batch_size,
            out_of_memory=[asdict(time) for time in model.out_of_memory],
            encodings=asdict(llava.cache.use) if llava.cache else None,
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
