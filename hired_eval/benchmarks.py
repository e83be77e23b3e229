"""The benchmarks: lmms-eval's own tasks on the hub's data, on a local copy of it, or on the bundled data."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from datasets.exceptions import DatasetsError
from huggingface_hub import get_token
from lmms_eval.api.task import Task
from lmms_eval.tasks import TaskManager, get_task_dict
from lmms_eval.utils import load_yaml_config
from PIL.Image import DecompressionBombError
from pyarrow import ArrowException
from pyarrow.parquet import read_metadata
from tenacity import RetryError

from hired_eval.errors import UserError, first_line
from hired_eval.hub import offline, unreachable
from hired_eval.mini import data_files

OUTPUT_TYPES = ("generate_until", "multiple_choice", "loglikelihood")
"""What this model can be asked for, in lmms-eval's words."""
NETWORK = {"aiohttp", "anthropic", "azure", "dashscope", "httpx", "litellm", "openai", "requests", "socket"}
"""Packages through which a scorer asks somebody else."""
SUBMISSION = "submission"
"""What tasks call a metric that is none, but a file for a test server."""
MEMBERS_NAMED = 8
"""Of a group or tag in an error."""


@dataclass(frozen=True)
class Benchmark:
    """One column of the paper's tables.

    Attributes:
        name: as in `configs/task/`.
        lmms_task: the task of lmms-eval.
        metric: the metric of lmms-eval that the paper reports.
        scale: factor from a sample's score to the paper's scale.
        scoring: 'mean' of the samples' scores, or 'mme': pairs of questions, summed over categories.
    """

    name: str
    lmms_task: str
    metric: str
    scale: float
    scoring: Literal["mean", "mme"]

    def __post_init__(self) -> None:
        """Refuse what a score cannot be computed with.

        Raises:
            UserError: naming the option.
        """
        if self.scoring not in ("mean", "mme"):
            raise UserError(f"task.scoring must be mean or mme, got {self.scoring!r}")
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float):
            raise UserError(f"task.scale must be a number, got {self.scale!r}")


@dataclass(frozen=True)
class DataSource:
    """Where a benchmark's documents come from.

    Attributes:
        source: 'bundled' or 'hub'.
        path: for 'hub': a folder with a local copy of the data set, in parquet.
    """

    source: Literal["bundled", "hub"]
    path: Path | None = None


@cache
def task_manager() -> TaskManager:
    """lmms-eval's index of tasks, built once: it reads hundreds of folders."""
    return TaskManager(verbosity="ERROR")


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
    index = task_manager().task_index
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
    _check_kind(name, load_yaml_config(entry["yaml_path"], mode="simple"))
    try:
        config: dict[str, Any] = load_yaml_config(entry["yaml_path"], mode="full")
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
        raise UserError(f"task {name} is about videos; this model sees pictures alone")
    if not config.get("dataset_path"):
        raise UserError(f"task {name} names no data set")
    if not (config.get("test_split") or config.get("validation_split")):
        raise UserError(f"task {name} names neither a test nor a validation split, so nothing can be asked")
    if not config.get("metric_list"):
        raise UserError(f"task {name} names no metric, so that its answers cannot be scored")
    if len(config.get("filter_list") or ()) > 1:
        filters = ", ".join(f["name"] for f in config["filter_list"])
        raise UserError(f"task {name} scores each answer several times ({filters}), which is not supported")


def load_task(benchmark: Benchmark, data: DataSource) -> Task:
    """lmms-eval's own task, on the data asked for.

    Submission files, which some tasks write beside their metric, are left out.

    Raises:
        UserError: lmms-eval has no such task or metric, or its data cannot be read; see `task_config`.
    """
    manager = task_manager()
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
    overrides: dict[str, Any] = {
        "metric_list": [m for m in config["metric_list"] if m["metric"] != SUBMISSION],
    }
    # with the data on disk there is nothing to ask the hub for
    no_hub: str | None = "not needed"
    if data.source == "bundled":
        files = {split: [str(file)] for split, file in data_files(benchmark.name).items()}
        overrides.update(_parquet(files, "delete it, and it is drawn again"))
    elif data.path is not None:
        overrides.update(_parquet(_local_files(data.path, config), "copy it again"))
    else:
        no_hub = unreachable()
        overrides["dataset_kwargs"] = {**(config.get("dataset_kwargs") or {})}
        if get_token() is None:
            # lmms-eval asks for a login even where the data set is public
            overrides["dataset_kwargs"].pop("token", None)
    try:
        with offline() if no_hub else nullcontext():
            task = get_task_dict([{"task": benchmark.lmms_task, **overrides}], manager)[benchmark.lmms_task]
    except (OSError, ValueError, DatasetsError, RetryError, DecompressionBombError) as error:
        cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
        reason = first_line(cause)
        if data.source == "bundled" or data.path is not None:
            raise UserError(f"the data of {benchmark.name} cannot be read: {reason}") from error
        raise UserError(
            f"could not fetch the data set {config['dataset_path']} of {benchmark.name} from the hub "
            f"({no_hub or reason}); point to local copies with data.path=FOLDER and model.path=FOLDER, "
            "or use the bundled ones with data=bundled and model=mini"
        ) from error
    return task


def _name(metric: Any) -> str:
    """A metric's name; lmms-eval takes a function for one too."""
    return str(getattr(metric, "__name__", metric))


def whole_pairs(task: Task, limit: int) -> int:
    """The least number of documents, from `limit` on, that cuts no pair of MME's questions.

    Args:
        task: MME, whose questions about one picture share category and question_id.
        limit: number of documents asked for.
    """
    documents = task.eval_docs_no_media
    pairs = list(zip(documents["category"], documents["question_id"], strict=True))
    while limit < len(pairs) and not set(pairs[:limit]).isdisjoint(pairs[limit:]):
        limit += 1
    return limit


def _parquet(files: dict[str, list[str]], remedy: str) -> dict[str, Any]:
    """What points a task to local files.

    Raises:
        UserError: a file is damaged; found here at once, where lmms-eval would try five times and wait.
    """
    for file in chain.from_iterable(files.values()):
        try:
            read_metadata(file)
        except (OSError, ArrowException) as error:
            raise UserError(f"{file} is damaged ({first_line(error)}); {remedy}") from error
    return {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": files}}


def _local_files(folder: Path, config: dict[str, Any]) -> dict[str, list[str]]:
    """The parquet files of a local copy, by split, in the hub's layout `[name/]split-00000-of-00001.parquet`.

    Raises:
        UserError: the folder or the split the task needs is not there.
    """
    folder = folder.expanduser().resolve()
    inner = folder / Path(str(config["dataset_path"])).name
    folder = inner if inner.is_dir() else folder
    name = config.get("dataset_name")
    if name and (folder / name).is_dir():
        folder = folder / name
    files: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        files.setdefault(file.stem.split("-")[0], []).append(str(file))
    split = config["test_split"]
    if split not in files:
        raise UserError(
            f"data.path={folder} has no file {split}*.parquet (splits found: {', '.join(files) or 'none'}); "
            f"it must hold the parquet files of {config['dataset_path']}"
        )
    return files
