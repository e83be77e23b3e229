"""One run: a resolved config in, a record out."""

from __future__ import annotations

import platform
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lmms_eval.evaluator import simple_evaluate

from hired_eval.benchmarks import Benchmark, DataSource, load_task, task_manager, whole_pairs
from hired_eval.dropping import TokenDropper
from hired_eval.errors import RefusedError, UserError, first_line
from hired_eval.guards import explained_scorer, unchanged
from hired_eval.identity import run_identity, run_name
from hired_eval.llava.answering import DroppingLlava
from hired_eval.lmms import HiredLlava
from hired_eval.loading import Models
from hired_eval.mini import checkpoint_path
from hired_eval.processes import Processes
from hired_eval.records import RunFolder
from hired_eval.replies import ReplyFile
from hired_eval.scorers import check_scorer
from hired_eval.scoring import check_agreement, sample_table, scores

BUNDLED = "bundled:"
WHOLE_NUMBERS = {"batch_size": 1, "limit": 1, "seed": 0}
"""Options that are whole numbers, and the least each may be."""


@dataclass(frozen=True)
class Outcome:
    """A run's record, where it lies, and whether it was there already."""

    record: dict[str, Any]
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
        facts: what the record says whatever comes out.
    """

    benchmark: Benchmark
    data: DataSource
    dropper: TokenDropper
    source: str
    folder: RunFolder
    facts: dict[str, Any]


def planned(config: dict[str, Any]) -> Plan:
    """What a config asks for.

    Raises:
        UserError: an option that makes no sense.
    """
    check_options(config)
    benchmark = Benchmark(**config["task"])
    data = data_source(config["data"], config["model"])
    dropper = build_dropper(config)
    source = checkpoint_source(config["model"])
    identity = run_identity(config, source, data, type(dropper))
    folder = RunFolder(Path(config["runs_dir"]), run_name(config, identity))
    facts = {
        "run": folder.path.name,
        "measure": config["measure"],
        "benchmark": asdict(benchmark),
        "method": config["method"],
        "model": config["model"]["name"],
        "weights": config["model"]["weights"],
        "data": data.source if data.path is None else "local copy",
        "seed": config["seed"],
        "identity": identity,
        "config": without_home(config),
    }
    return Plan(benchmark, data, dropper, source, folder, facts)


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
        checkpoint = models.get(plan.source, config["model"], config["device"], config["seed"])
        llava = DroppingLlava(
            checkpoint,
            plan.dropper,
            config["model"]["prompt"],
            share_prefix=config["share_prefix"],
            encodings=models.encodings(config["encoding_cache"], config["encoding_cache_gib"]),
        )
        limit = config["limit"]
        if limit is not None and benchmark.scoring == "mme":
            limit = whole_pairs(task, limit)
            if limit != config["limit"]:
                say(f"limit={config['limit']} would cut a pair of questions: answering {limit}")
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
                limit=limit,
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
            return Outcome(processes.from_main({}), folder.path, reused=False)
        samples = sample_table(results["samples"][benchmark.lmms_task], benchmark, replies, read, folder.path)
        check_agreement(samples, benchmark, results, task, folder.path)
        answered = len(replies.keys() - answered_before)
        record = {
            **plan.facts,
            "status": "failed" if samples["error"].notna().any() else "complete",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **scores(samples, benchmark, results, len(task.eval_docs), config["seed"]),
            "tokens": token_statistics(samples),
            "timings": {
                "seconds": seconds,
                "questions_timed": answered,
                "questions_per_second": answered / seconds,
                "batch_size": config["batch_size"],
                "out_of_memory": [asdict(time) for time in model.out_of_memory],
                "encodings": asdict(llava.cache.use) if llava.cache else None,
                "processes": processes.count,
                "device": str(checkpoint.model.device),
                "machine": machine(),
            },
        }
        folder.write(record, samples)
        processes.from_main(record)
    return Outcome(record, folder.path, reused=False)


def data_source(data: dict[str, Any], model: dict[str, Any]) -> DataSource:
    """Where the documents come from; 'auto' is bundled data for a bundled model, and the hub otherwise.

    Raises:
        UserError: a source that does not exist, or a path that is no folder.
    """
    source = data["source"]
    path = Path(data["path"]) if data["path"] else None
    if source not in ("auto", "bundled", "hub"):
        raise UserError(f"data.source must be auto, bundled or hub, got {source!r}")
    if path is not None:
        if source == "bundled":
            raise UserError(f"data=bundled and data.path={path} exclude each other; leave one out")
        if not path.expanduser().is_dir():
            raise UserError(f"data.path={path} is not a folder")
        return DataSource("hub", path)
    if source == "auto":
        source = "bundled" if str(model["path"]).startswith(BUNDLED) else "hub"
    return DataSource(source)


def build_dropper(config: dict[str, Any]) -> TokenDropper:
    """The dropping method of a config, with the top-level budget where it is set.

    Raises:
        UserError: an option that the method does not have, or a value out of range.
    """
    method = dict(config["method"])
    if config["budget"] is not None:
        if "budget" not in method:
            name = method["_target_"].rsplit(".", 1)[-1]
            raise UserError(f"{name} has no token budget of its own; leave budget={config['budget']} out")
        method["budget"] = config["budget"]
    try:
        dropper: TokenDropper = instantiate(method)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ImportError):
            raise UserError(
                f"{method['_target_']} cannot be found ({first_line(error.__cause__.__cause__)}); mend the "
                "name, start python -m hired_eval in the folder of your module, or install it"
            ) from error
        if isinstance(error.__cause__, TypeError):
            target = get_class(method["_target_"])
            options = [f.name for f in fields(target) if f.init] if is_dataclass(target) else []
            for option in method.keys() - {"_target_", *options}:
                raise UserError(
                    f"{target.__name__} has no option {option!r}; its options: {', '.join(options)}"
                ) from error
        raise UserError(" ".join(str(error).split())) from error
    return dropper


def check_options(config: dict[str, Any]) -> None:
    """Refuse values that make no sense before anything is loaded.

    Raises:
        UserError: naming the option.
    """
    for name, least in WHOLE_NUMBERS.items():
        value = config[name]
        if value is None and name == "limit":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if config["on_error"] not in ("stop", "record"):
        raise UserError(f"on_error must be 'stop' or 'record', got {config['on_error']!r}")


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


def token_statistics(samples: pd.DataFrame) -> dict[str, Any]:
    """Mean and maximum over documents with an image of kept, allowed and full visual tokens."""
    with_image = samples[samples["images"] > 0]
    statistics: dict[str, Any] = {}
    for name in ("kept", "allowed", "full"):
        column = with_image[name].dropna()
        statistics[name] = {"mean": float(column.mean()), "max": int(column.max())} if len(column) else None
    return statistics


def machine() -> str:
    """Processor and accelerator in one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads{gpu}"


def without_home(value: Any) -> Any:
    """The same config with the user's home folder written as ~."""
    if isinstance(value, dict):
        return {k: without_home(v) for k, v in value.items()}
    return value.replace(str(Path.home()), "~") if isinstance(value, str) else value
