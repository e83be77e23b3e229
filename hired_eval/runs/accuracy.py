"""One run: a resolved config in, a record out."""

from __future__ import annotations

import platform
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from lmms_eval.evaluator import simple_evaluate

from hired_eval.dropping import TokenDropper
from hired_eval.errors import RefusedError, UserError
from hired_eval.lmms.guards import explained_scorer, unchanged
from hired_eval.lmms.local_data import BUNDLED, DataSource, data_source
from hired_eval.lmms.model import HiredLlava
from hired_eval.lmms.scorers import check_scorer
from hired_eval.lmms.scoring import check_agreement, sample_table, scorer_for, scores
from hired_eval.lmms.tasks import load_task, task_manager, whole_units
from hired_eval.mini import checkpoint_path
from hired_eval.models.answering import DroppingLlava
from hired_eval.models.checkpoint import device_type, feature_layer_of
from hired_eval.processes import Processes
from hired_eval.records.record import Benchmark, Count, Record, RunFolder, Timings, Tokens
from hired_eval.records.replies import ReplyFile
from hired_eval.runs.identity import default_options, effective_method, run_identity, run_name
from hired_eval.runs.loading import Models
from hired_eval.runs.options import build_dropper, checked_config, method_label, without_home

ATTENTION_SEEN = "eager"
"""The attention backend that gives the weights of the language model's attention out, the only one."""
PICTURES_LOOKED_AT = 4
"""By a measurement inside the model, where no limit is set."""


@dataclass(frozen=True)
class Outcome:
    """A run's record, where it lies, and whether it was there already."""

    record: Record
    folder: Path
    reused: bool


@dataclass(frozen=True)
class Plan:
    """A run before anything is loaded.

    Attributes:
        benchmark: the task and metric.
        data: where its documents come from.
        dropper: the dropping method.
        source: the checkpoint's folder, or its id on the hub.
        folder: where the record goes.
        limit: how many documents are answered, or pictures looked at; None: all.
        record: what it says whatever comes out.
    """

    benchmark: Benchmark
    data: DataSource
    dropper: TokenDropper
    source: str
    folder: RunFolder
    limit: int | None
    record: Record

    @property
    def content(self) -> str | None:
        """Fingerprint of the checkpoint, None where it is not known."""
        return self.record.identity.checkpoint


def planned(config: dict[str, Any]) -> Plan:
    """What a config asks for.

    Raises:
        UserError: an option that makes no sense.
    """
    config = checked_config(config)
    benchmark = Benchmark(**config["task"])
    data = data_source(config["data"], config["model"])
    dropper = build_dropper(config)
    source = checkpoint_source(config["model"])
    timed = config["measure"].startswith("efficiency")
    limit = None if timed else documents_asked(config, benchmark, data)
    model = config["model"]
    if config["measure"] == "generation_attention":
        model = {**model, "attention": ATTENTION_SEEN}
    identity = run_identity(
        {**config, "model": model},
        source,
        benchmark,
        data,
        dropper,
        limit=limit,
        machine=f"{describe_machine()}, {processor()}, {device_type(config['device'])}" if timed else None,
        feature_layer=feature_layer_of(source, model["feature_layer"]),
    )
    folder = RunFolder(Path(config["runs_dir"]).expanduser(), run_name(identity))
    record = Record(
        run=folder.path.name,
        measure=config["measure"],
        benchmark=benchmark,
        method=effective_method(dropper),
        method_label=method_label(config["method"]),
        method_defaults=default_options(type(dropper)),
        method_version=type(dropper).VERSION,
        model=config["model"]["name"],
        weights=config["model"]["weights"],
        data=data.source if data.path is None else "local copy",
        seed=config["seed"],
        identity=identity,
        config=without_home(config),
        status="failed",
        finished="",
    )
    return Plan(benchmark, data, dropper, source, folder, limit, record)


def documents_asked(config: dict[str, Any], benchmark: Benchmark, data: DataSource) -> int | None:
    """The limit as it comes to: whole pairs, and None where it cuts off no document.

    Of a measurement inside the model it is the number of pictures.
    """
    limit: int | None = config["limit"]
    if config["measure"] != "accuracy":
        return limit or PICTURES_LOOKED_AT
    if limit is None:
        return None
    try:
        task = load_task(benchmark, data)
    except UserError:
        return limit  # the run itself says what is wrong, and leaves a record of it
    limit = whole_units(task, limit, scorer_for(benchmark).unit_columns)
    return limit if limit < len(task.eval_docs_no_media) else None


def run(config: dict[str, Any], say: Callable[[str], None], models: Models | None = None) -> Outcome:
    """Evaluate one method on one benchmark, or give the record of the same run where it is complete.

    Args:
        config: resolved config, as `configs/config.yaml` describes.
        say: told in one line what is being done.
        models: shared by the runs of a sweep, so that they load their model once.

    Raises:
        UserError: the config, the checkpoint, the data, a sample, or the disk; see the message.
    """
    models = models or Models()
    config = checked_config(config)
    if config["model"]["weights"] == "dummy":
        raise UserError("dummy weights answer nothing that could be scored; they are for measure=efficiency")
    plan = planned(config)
    benchmark, data, folder = plan.benchmark, plan.data, plan.folder
    processes = Processes()
    with folder.locked() if processes.main else nullcontext():
        if processes.main and config["rerun"]:
            folder.clear()
        earlier = processes.from_main(folder.record() if processes.main else None)
        if earlier is not None:
            return Outcome(earlier, folder.path, reused=True)
        say(f"benchmark {benchmark.name} ({data.path or data.source}): loading")
        task = load_task(benchmark, data)
        try:
            read = check_scorer(task, benchmark)
        except UserError as error:
            raise RefusedError(str(error)) from error
        say(f"model {config['model']['name']}: loading")
        checkpoint = models.get(plan.source, config["model"], config["device"], config["seed"], plan.content)
        llava = DroppingLlava(
            checkpoint,
            plan.dropper,
            config["model"]["prompt"],
            share_prefix=config["share_prefix"],
            encodings=models.encodings(config["encoding_cache"], config["encoding_cache_gib"]),
        )
        if plan.limit is not None and plan.limit != config["limit"]:
            say(f"limit={config['limit']} would cut a pair of questions: answering {plan.limit}")
        log = ReplyFile(folder, processes.rank)
        if log.known:
            say(f"going on with {len(log.known)} questions answered before")
        model = HiredLlava.around(
            llava, batch_size=config["batch_size"], on_error=config["on_error"], log=log, seed=config["seed"]
        )
        answered_before = {key for key in log.known if log.get(key) is not None}
        start = time.perf_counter()
        # some scorers print, write a file for a leader board, and keep totals for all runs of a process
        with (
            TemporaryDirectory() as scratch,
            redirect_stdout(sys.stderr),
            unchanged([task.config.process_results, *task.aggregation().values()]),
            explained_scorer(task, benchmark.metric, f"; the replies are kept in {folder.path}"),
        ):
            results = simple_evaluate(
                model=model,
                tasks=[task],
                task_manager=task_manager(),
                limit=plan.limit,
                bootstrap_iters=0,
                process_docs_parallel=1,
                random_seed=config["seed"],
                numpy_random_seed=config["seed"],
                torch_random_seed=config["seed"],
                verbosity="ERROR",
                # a picture that cannot be read is a failed sample by now: scoring must not stumble over it
                cli_args=Namespace(output_path=scratch, process_with_media=config["on_error"] == "stop"),
            )
        seconds = time.perf_counter() - start
        replies = {key: reply for part in processes.gathered(model.replies) for key, reply in part.items()}
        if not processes.main:
            return Outcome(processes.from_main(plan.record), folder.path, reused=False)
        samples = sample_table(results["samples"][benchmark.lmms_task], benchmark, replies, read, folder.path)
        check_agreement(samples, benchmark, results, task, folder.path)
        answered = len(replies.keys() - answered_before)
        record = replace(
            plan.record,
            status="failed" if samples["error"].notna().any() else "complete",
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            **scores(samples, benchmark, results, len(task.eval_docs), config["seed"]),
            tokens=token_statistics(samples),
            timings=Timings(
                seconds=seconds,
                questions_timed=answered,
                questions_per_second=answered / seconds,
                batch_size=config["batch_size"],
                out_of_memory=[asdict(time) for time in model.out_of_memory],
                encodings=asdict(llava.cache.use) if llava.cache else None,
                processes=processes.count,
                device=str(checkpoint.model.device),
                machine=describe_machine(),
            ),
        )
        folder.write(record, samples)
        processes.from_main(record)
    return Outcome(record, folder.path, reused=False)


def checkpoint_source(model: dict[str, Any]) -> str:
    """Where a model config's checkpoint is: a folder, or an id on the hub.

    Raises:
        UserError: the folder is not there, or none is named.
    """
    path = model["path"]
    if path and str(path).startswith(BUNDLED):
        return str(checkpoint_path(path.removeprefix(BUNDLED)))
    if path:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"model.path={path} is not a folder")
        return str(folder)
    if not model["hub_id"]:
        raise UserError(
            f"model {model['name']} names no checkpoint; set model.path=FOLDER or model.hub_id=ID"
        )
    return str(model["hub_id"])


def token_statistics(samples: pd.DataFrame) -> Tokens:
    """Mean and maximum over documents with an image of kept, allowed and full visual tokens."""
    with_image = samples[samples["images"] > 0]
    counts = {}
    for name in ("kept", "allowed", "full"):
        column = with_image[name].dropna()
        counts[name] = Count(float(column.mean()), int(column.max())) if len(column) else None
    return Tokens(**counts)


def describe_machine() -> str:
    """Processor and accelerator in one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads{gpu}"


def processor() -> str:
    """The processor's model, where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
