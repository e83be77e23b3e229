"""The benchmarks: lmms-eval's own tasks on the hub's data, on a local copy of it, or on the bundled data."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import lmms_eval.tasks
import yaml
from datasets import Dataset, Features
from datasets.data_files import DataFilesList
from datasets.exceptions import DatasetsError
from huggingface_hub import get_token
from jinja2 import UndefinedError
from lmms_eval.api.task import Task
from lmms_eval.tasks import TaskManager, get_task_dict
from lmms_eval.utils import load_yaml_config
from PIL.Image import DecompressionBombError
from pyarrow.parquet import ParquetFile
from tenacity import RetryError

from hired_eval.errors import HubError, UserError, first_line
from hired_eval.hub import explain_unreachable, go_offline
from hired_eval.lmms.columns import MISFITS, check_documents, explain_misfit, read_picture_columns, reason_of
from hired_eval.lmms.local_data import DataSource, Wanted, find_local_files, known_data_sets, wanted
from hired_eval.lmms.mmbench import without_judge
from hired_eval.lmms.parquet_files import count_rows
from hired_eval.lmms.pictures import find_picture_files, pictures_apart, read_pictures_apart, shown_from
from hired_eval.mini import write_data_files
from hired_eval.paths import config_folder
from hired_eval.records.record import Benchmark
from hired_eval.records.scores import Scorer, scorer_for

FAILURES = (UserError, OSError, DatasetsError, RetryError, DecompressionBombError, *MISFITS)
"""What goes wrong where a task is made: the data cannot be read, or its functions stumble over it."""

TASKS = Path(lmms_eval.tasks.__file__).parent
"""The folder of lmms-eval's tasks."""
OUTPUT_TYPES = ("generate_until", "multiple_choice", "loglikelihood")
"""What this model can be asked for, in lmms-eval's words."""
NETWORK = {"aiohttp", "anthropic", "azure", "dashscope", "httpx", "litellm", "openai", "requests", "socket"}
"""Packages through which a scorer asks somebody else."""
SUBMISSION = "submission"
"""What tasks call a metric that is none, but a file for a test server."""
MEMBERS_NAMED = 8
"""Of a group or tag in an error."""


def task_manager(name: str) -> TaskManager:
    """lmms-eval's index of the folder that a task is in: that of all its tasks takes many times as long.

    Where no file names the task, or several do, it is the index of all.
    """
    folders = _task_folders().get(name, ())
    return _index(folders[0] if len(folders) == 1 else TASKS)


@cache
def _index(folder: Path) -> TaskManager:
    return TaskManager(verbosity="ERROR", include_path=str(folder), include_defaults=False)


@cache
def _task_folders() -> dict[str, list[Path]]:
    """The folder of each file that names a task, by the task's name."""
    found = defaultdict[str, list[Path]](list)
    named = re.compile(r"^[\"']?task[\"']?:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
    for file in TASKS.rglob("*.yaml"):
        for name in named.findall(file.read_text("utf-8")):
            found[name].append(file.parent)
    return found


def hub_dataset(lmms_task: str) -> str:
    """The id on the hub of a task's data set.

    Raises:
        UserError: see `task_config`.
    """
    return str(task_config(lmms_task)["dataset_path"])


def task_config(name: str) -> dict[str, Any]:
    """The config of a task of lmms-eval, functions included; what it includes is filled in.

    Raises:
        UserError: no task of this name, several, or one that cannot be asked of this model or scored.
    """
    index = task_manager(name).task_index
    if name not in index:
        tasks = [n for n, entry in index.items() if entry["type"] == "task"]
        close = difflib.get_close_matches(name, tasks, n=3)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"lmms-eval has no task {name!r} (task.lmms_task){meant}")
    entry = index[name]
    if entry["type"] in ("group", "tag"):
        members = _members(entry)
        listed = ", ".join(members[:MEMBERS_NAMED]) + (", ..." if len(members) > MEMBERS_NAMED else "")
        raise UserError(f"{name} is a {entry['type']} of lmms-eval ({listed}); name one of them")
    if entry["type"] != "task":
        raise UserError(f"{name} is a task of lmms-eval with code of its own, which is not supported")
    file = Path(entry["yaml_path"])
    return deepcopy(_read_config(name, file, file.stat().st_mtime_ns))


@cache
def _read_config(name: str, file: Path, changed: int) -> dict[str, Any]:
    """See `task_config`; a file is read again when it was changed at another time (nanoseconds)."""
    _check_kind(name, load_yaml_config(str(file), mode="simple"))
    try:
        config: dict[str, Any] = load_yaml_config(str(file), mode="full")
    except ModuleNotFoundError as error:
        raise UserError(
            f"lmms-eval's task {name} needs the package {error.name}, not installed here"
        ) from error
    except Exception as error:  # importing a task runs whatever its authors wrote
        judge = type(error).__module__.partition(".")[0]
        if judge in NETWORK:
            raise UserError(
                f"task {name} has a judge behind the network ({judge}), which is not asked here; choose "
                "another task"
            ) from error
        raise UserError(
            f"lmms-eval's task {name} cannot be loaded: {type(error).__name__}: {first_line(error)}"
        ) from error
    return config


def _members(entry: dict[str, Any]) -> list[str]:
    """Names of what a group or tag of lmms-eval holds."""
    if entry["type"] == "tag":
        return list(entry["task"])
    listed = load_yaml_config(entry["yaml_path"], mode="simple")["task"]
    return [m if isinstance(m, str) else str(m.get("task", m.get("group"))) for m in listed]


def _check_kind(name: str, config: dict[str, Any]) -> None:
    """Refuse what cannot be asked of this model, or scored, before any data is fetched.

    Raises:
        UserError: naming task and reason.
    """
    kind = config.get("output_type") or "generate_until"
    data = config.get("dataset_kwargs") or {}
    if kind not in OUTPUT_TYPES:
        raise UserError(
            f"task {name} has output type {kind}, which is not supported ({', '.join(OUTPUT_TYPES)} are)"
        )
    if data.get("video") or "From_YouTube" in data:
        raise UserError(f"task {name} is about videos; this model sees only pictures")
    if not config.get("dataset_path"):
        raise UserError(f"task {name} names no data set")
    if not (config.get("test_split") or config.get("validation_split")):
        raise UserError(f"task {name} names neither a test nor a validation split, so nothing can be asked")
    if not config.get("metric_list"):
        raise UserError(f"task {name} names no metric, so that its answers cannot be scored")
    if len(config.get("filter_list") or ()) > 1:
        filters = ", ".join(f["name"] for f in config["filter_list"])
        raise UserError(f"task {name} scores each answer several times ({filters}), which is not supported")


def list_files_read(lmms_task: str, folder: Path) -> list[Path]:
    """The files of a local copy that hold the documents of a task, in order, and pictures that are apart.

    Raises:
        UserError: see `task_config` and `find_local_files`.
    """
    config = task_config(lmms_task)
    files = find_local_files(folder, wanted(config))
    apart = pictures_apart(config)
    return [*files, *(find_picture_files(folder, wanted(config), apart) if apart else [])]


def load_task(benchmark: Benchmark, data: DataSource) -> Task:
    """lmms-eval's own task, on the data asked for.

    Submission files, which some tasks write beside their metric, are left out.

    Raises:
        UserError: lmms-eval has no such task or metric, or its data cannot be read; see `task_config`.
    """
    config = task_config(benchmark.lmms_task)
    metrics = [_name(m["metric"]) for m in config["metric_list"]]
    if benchmark.metric not in metrics:
        raise UserError(
            f"task {benchmark.lmms_task} has no metric {benchmark.metric!r}; it has {', '.join(metrics)}"
        )
    if benchmark.metric == SUBMISSION:
        others = ", ".join(name for name in metrics if name != SUBMISSION) or "it has no other"
        raise UserError(
            f"metric {SUBMISSION} of task {benchmark.lmms_task} is a file for a test server, not a score; "
            f"choose another metric ({others})"
        )
    config["test_split"] = config.get("test_split") or config["validation_split"]
    kept = [m for m in config["metric_list"] if m["metric"] != SUBMISSION]
    if scorer_for(benchmark).together == "rotations":
        kept = [
            {**m, "aggregation": without_judge(m.get("aggregation"))}
            if m["metric"] == benchmark.metric
            else m
            for m in kept
        ]
    overrides: dict[str, Any] = {"metric_list": kept}
    asked, apart = wanted(config), pictures_apart(config)
    if benchmark.only or apart:
        of_task = None if apart else config.get("process_docs")
        overrides["process_docs"] = partial(_choose, only=benchmark.only, then=of_task)
    if data.source == "hub" and data.path is None:
        return _from_the_hub(benchmark, overrides, config, asked)
    if data.path is not None:
        files = {asked.split: find_local_files(data.path, asked), **_other_splits(data.path, config, asked)}
        if apart:
            of_pictures = find_picture_files(data.path, asked, apart)
            overrides["doc_to_visual"] = shown_from(read_pictures_apart(apart, of_pictures))
    else:
        files = _bundled_files(benchmark, asked)
    # where pandas has written the files, pictures are read as such first
    readings = [features] if (features := read_picture_columns(files[asked.split][0])) else []
    for number, reading in enumerate([*readings, None]):
        try:
            task = _task(benchmark, {**overrides, **_parquet(files, reading)})
            check_documents(task, asked, _schema(benchmark.lmms_task))
        except FAILURES as error:
            if number < len(readings):
                continue
            cause, generated = _cause(error)
            if isinstance(cause, UserError):
                raise cause from error
            if isinstance(cause, MISFITS) and not generated:
                columns = ParquetFile(files[asked.split][0]).schema_arrow.names
                raise explain_misfit(benchmark.lmms_task, asked, reason_of(cause), columns) from error
            reason = " ".join(str(cause).split()) if generated else first_line(cause)
            raise UserError(f"the data of {benchmark.name} cannot be read: {reason}") from error
        # what goes into lmms-eval's results
        task.config.dataset_kwargs = {"data_files": {k: list(map(str, v)) for k, v in files.items()}}
        break
    return task


def _from_the_hub(
    benchmark: Benchmark, overrides: dict[str, Any], config: dict[str, Any], asked: Wanted
) -> Task:
    """A task on the hub's data, or on what the library's cache has of it.

    Raises:
        UserError: it cannot be fetched, or is not what the task reads.
    """
    no_hub = explain_unreachable()
    kwargs = {**(config.get("dataset_kwargs") or {})}
    if get_token() is None:
        # lmms-eval asks for a login even where the data set is public
        kwargs.pop("token", None)
    try:
        with go_offline() if no_hub else nullcontext():
            if apart := pictures_apart(config):
                overrides["doc_to_visual"] = shown_from(read_pictures_apart(apart, None))
            task = _task(benchmark, {**overrides, "dataset_kwargs": kwargs})
    except FAILURES as error:
        cause, _ = _cause(error)
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, KeyError | UndefinedError):
            raise explain_misfit(benchmark.lmms_task, asked, reason_of(cause), ()) from error
        raise HubError(
            f"could not fetch the data set {asked.repository} of {benchmark.name} from the hub "
            f"({no_hub or first_line(cause)}); point to local copies with data.path=FOLDER and "
            "model.path=FOLDER, or use the bundled ones with data=bundled and model=mini",
            no_hub is None,
        ) from error
    got = getattr(task.eval_docs, "config_name", None)
    if asked.config is None and got in known_data_sets().get(asked.name.casefold(), ()):
        # without the hub `datasets` takes the config that was used last
        raise UserError(
            f"the cache of the datasets library has only config {got} of {asked.repository}, and "
            f"{benchmark.lmms_task} reads the default one; fetch it, or set data.path=FOLDER"
        )
    check_documents(task, asked, _schema(benchmark.lmms_task))
    return task


def _task(benchmark: Benchmark, overrides: dict[str, Any]) -> Task:
    """lmms-eval's task, changed."""
    made = get_task_dict([{"task": benchmark.lmms_task, **overrides}], task_manager(benchmark.lmms_task))
    return made[benchmark.lmms_task]


def _cause(error: BaseException) -> tuple[BaseException, bool]:
    """What happened, unwrapped of tenacity and `datasets`, and whether it did inside `datasets`."""
    if isinstance(error, RetryError):
        error = error.last_attempt.exception() or error
    if isinstance(error, DatasetsError):
        return error.__cause__ or error, True
    return error, False


@cache
def own_tasks() -> dict[str, str]:
    """Names of the package's benchmarks -> their tasks of lmms-eval."""
    files = (config_folder() / "task").glob("*.yaml")
    return {file.stem: yaml.safe_load(file.read_text())["lmms_task"] for file in files}


def _schema(lmms_task: str) -> Features | None:
    """The columns of a task's real documents, which the bundled ones share; None where they are not known."""
    from hired_eval.mini.benchmarks import FEATURES

    return next((FEATURES.get(name) for name, task in own_tasks().items() if task == lmms_task), None)


def _bundled_files(benchmark: Benchmark, asked: Wanted) -> dict[str, list[Path]]:
    """The bundled documents of a benchmark.

    Raises:
        UserError: there are none for it, or the task reads another data set than these stand for.
    """
    files = {split: [Path(file)] for split, file in write_data_files(benchmark.name).items()}
    own = own_tasks()[benchmark.name]
    theirs = wanted(task_config(own))
    if theirs != asked:
        raise UserError(
            f"the bundled documents of {benchmark.name} replace split {theirs.split} of {theirs}, and task "
            f"{benchmark.lmms_task} reads split {asked.split} of {asked}; set task.lmms_task={own}, or "
            "data.path=FOLDER"
        )
    count_rows(files[asked.split], "delete it, and it is drawn again")
    return files


def _other_splits(path: Path, config: dict[str, Any], asked: Wanted) -> dict[str, list[Path]]:
    """Files of the splits that a task with examples in its prompt may take these from, as far as they are
    there."""
    files = {}
    if config.get("fewshot_config") or config.get("num_fewshot"):
        for split in {config.get(f"{kind}_split") for kind in ("training", "validation", "fewshot")}:
            if split and split != asked.split:
                with suppress(UserError):
                    files[split] = find_local_files(path, replace(asked, split=split))
    return files


def _choose(documents: Dataset, only: str | None, then: Callable[[Dataset], Dataset] | None) -> Dataset:
    """The documents that a benchmark asks, as the task changes them.

    Args:
        documents: of the data set.
        only: see `Benchmark.only`.
        then: the task's own function.

    Raises:
        UserError: none is left.
    """
    if only:
        column, _, value = only.partition("=")
        chosen = [i for i, found in enumerate(documents[column]) if str(found) == value]
        if not chosen:
            raise UserError(f"no document has task.only={only}; correct it, or leave it out")
        documents = documents.select(chosen)
    return then(documents) if then else documents


def _name(metric: Any) -> str:
    """A metric's name; lmms-eval takes a function for one too."""
    return str(getattr(metric, "__name__", metric))


def round_to_whole_units(task: Task, limit: int, scorer: Scorer) -> int:
    """The least number of documents, from `limit` on, that cuts none of the units that a score is made of.

    Args:
        task: with its documents.
        limit: number of documents asked for.
        scorer: tells which documents are one unit.
    """
    if not scorer.together:
        return limit
    documents = task.eval_docs_no_media
    columns = zip(*(documents[column] for column in scorer.unit_columns), strict=True)
    units = [scorer.unit_of(values) for values in columns]
    last = {unit: i for i, unit in enumerate(units)}
    while limit < len(units) and (end := 1 + max(last[unit] for unit in units[:limit])) > limit:
        limit = end
    return limit


def _parquet(files: dict[str, list[Path]], features: Features | None) -> dict[str, Any]:
    """What points a task to local files, as they are called: `datasets` takes strings for patterns.

    Args:
        files: by split.
        features: of the columns, where the files do not say.
    """
    lists = {
        split: DataFilesList(
            [str(file) for file in paths],
            # as with the library's own lists, a changed file is prepared again
            [(str(file.stat().st_mtime_ns), str(file.stat().st_size)) for file in paths],
        )
        for split, paths in files.items()
    }
    kwargs = {"data_files": lists, **({"features": features} if features else {})}
    return {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": kwargs}
