"""A run before anything is loaded: what a config asks for, and where its record goes."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lmms_eval.api.task import Task

from hired_eval.dropping import TokenDropper
from hired_eval.errors import UserError
from hired_eval.lmms.answerer import Effort
from hired_eval.lmms.drawing import Order, draw_order
from hired_eval.lmms.local_data import BUNDLED, DataSource, find_data_source
from hired_eval.lmms.tasks import load_task, round_to_whole_units
from hired_eval.mini import checkpoint_path
from hired_eval.models.checkpoint import Checkpoint, device_type, feature_layer_of
from hired_eval.records.folder import RunFolder
from hired_eval.records.record import Record, Timings
from hired_eval.records.scores import scorer_for
from hired_eval.runs.identity import (
    default_options,
    effective_method,
    identify_run,
    name_otherwise,
    name_run,
    version_of,
)
from hired_eval.runs.loading import Models
from hired_eval.runs.options import ModelOptions, RunConfig, build_dropper, dump_config

PICTURES_LOOKED_AT = 4
"""By a measurement inside the model, where no limit is set."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Counted:
    """A benchmark with its documents, and the random order of them where a part may be drawn."""

    task: Task
    order: Order | None


@dataclass(frozen=True)
class Plan:
    """A run before anything is loaded but what its limit needs.

    Attributes:
        config: what is asked for.
        data: where its documents come from.
        dropper: the dropping method.
        source: the checkpoint's folder, or its id on the hub.
        folder: where the record goes.
        limit: how many documents are answered, or pictures looked at; None: all.
        chosen: those that are answered, where they are drawn at random: see `Order.part`.
        other: the folder of the whole run where this is a part drawn at random, else that of such a part.
        record: what it says whatever comes out.
        counted: the task, where its documents had to be counted.
        effort: what answering takes, also where another run of a sweep does it on the way.
    """

    config: RunConfig
    data: DataSource
    dropper: TokenDropper
    source: str
    folder: RunFolder
    limit: int | None
    chosen: dict[int, tuple[int, str]] | None
    other: RunFolder | None
    record: Record
    counted: Counted | None
    effort: Effort = field(default_factory=Effort)

    def load_task(self) -> Task:
        """The benchmark with its documents, once a run.

        Raises:
            UserError: see `hired_eval.lmms.tasks.load_task`.
        """
        return load_task(self.config.task, self.data) if self.counted is None else self.counted.task

    def find_earlier(self) -> Record | None:
        """A complete record of what is asked for: of a part drawn at random also one of a larger part, or of
        all.

        Raises:
            UserError: see `RunFolder.record`.
        """
        found = self.folder.record()
        if self.chosen is None:
            return found
        if found is not None and found.samples >= len(self.chosen):
            return found
        return None if self.other is None or self.config.rerun else self.other.record()

    def load_checkpoint(self, models: Models, say: Say) -> Checkpoint:
        """The model.

        Raises:
            UserError: see `Models.get`.
        """
        config, content = self.config, self.record.identity.checkpoint
        say(f"model {config.model.name}: loading")
        fixed_grid = config.protocol.fixed_grid
        return models.get(
            self.source, config.model, config.device, config.seed, content, fixed_grid=fixed_grid
        )


@dataclass(frozen=True)
class Outcome:
    """A run's record, where it lies, and whether it was there already."""

    record: Record
    folder: Path
    reused: bool


def plan_run(config: RunConfig, counted: Counted | None = None) -> Plan:
    """What a config asks for.

    Args:
        config: as `configs/config.yaml` describes it.
        counted: of an earlier plan for the same documents.

    Raises:
        UserError: an option that makes no sense.
    """
    asked = dump_config(config)
    if config.measure == "generation_attention":
        # the only backend that gives the weights of the language model's attention out
        config = replace(config, model=replace(config.model, attention="eager"))
    model = config.model
    data = find_data_source(config.data.source, config.data.path, model.path, config.data.name)
    dropper = build_dropper(config.method, config.of_method)
    if dropper.inside and config.measure == "generation_attention":
        raise UserError(
            f"measure={config.measure} does not look at tokens that leave inside the language model, as "
            f"those of {config.method.label} do; measure=accuracy, gallery and efficiency do"
        )
    source = find_checkpoint(model)
    limit, counted = count_documents(config, data, counted)
    drawn = counted.order if counted and limit is not None else None
    identity = identify_run(
        config,
        source,
        data,
        dropper,
        limit=limit,
        order_seed=config.order_seed if drawn else None,
        machine=describe_place(config.device) if config.timed else None,
        feature_layer=feature_layer_of(source, model.feature_layer),
    )
    folder = RunFolder(config.runs_dir, name_run(identity))
    other = None
    if config.measure == "accuracy" and (drawn or limit is None):
        other = RunFolder(config.runs_dir, name_otherwise(identity, config.order_seed))
    record = Record(
        run=folder.path.name,
        measure=config.measure,
        benchmark=config.task,
        method=effective_method(dropper),
        method_label=config.method.label,
        method_defaults=default_options(dropper),
        method_version=version_of(dropper),
        model=model.name,
        weights=model.weights,
        data=data.label,
        seed=config.seed,
        identity=identity,
        config=asked,
        status="failed",
        finished="",
        drawing=drawn.drawing if drawn else None,
    )
    chosen = drawn.part(limit) if drawn and limit is not None else None
    return Plan(config, data, dropper, source, folder, limit, chosen, other, record, counted)


def count_documents(
    config: RunConfig, data: DataSource, counted: Counted | None = None
) -> tuple[int | None, Counted | None]:
    """The limit as it comes to: whole pairs or units that were drawn, and None where it cuts off nothing; and
    the task, if loaded.

    Of a measurement inside the model it is the number of pictures, and where time is measured there is none.
    """
    if config.measure != "accuracy":
        return None if config.timed else config.limit or PICTURES_LOOKED_AT, None
    limit = config.limit
    if limit is None:
        return None, None
    if counted is None:
        try:
            task = load_task(config.task, data)
        except UserError:
            return limit, None  # the run itself says what is wrong, and leaves a record of it
        drawn = config.order == "random"
        counted = Counted(
            task, draw_order(task, scorer_for(config.task), config.order_seed) if drawn else None
        )
    task = counted.task
    if counted.order is not None:
        limit = len(counted.order.part(limit))
    else:
        limit = round_to_whole_units(task, limit, scorer_for(config.task))
    return limit if limit < len(task.eval_docs_no_media) else None, counted


def find_checkpoint(model: ModelOptions) -> str:
    """Where a model config's checkpoint is: a folder, or an id on the hub.

    Raises:
        UserError: the folder is not there, or none is named.
    """
    path = model.path
    if path and str(path).startswith(BUNDLED):
        return str(checkpoint_path(str(path).removeprefix(BUNDLED)))
    if path:
        if not path.is_dir():
            raise UserError(f"model.path={path} is not a folder")
        return str(path)
    if not model.hub_id:
        raise UserError(f"model {model.name} names no checkpoint; set model.path=FOLDER or model.hub_id=ID")
    return model.hub_id


def note_place(checkpoint: Checkpoint) -> Timings:
    """Where a measurement is made."""
    return Timings(machine=describe_machine(), device=str(checkpoint.model.device))


def describe_machine() -> str:
    """Processor and accelerator in one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads{gpu}"


def describe_place(device: str) -> str:
    """What speed is measured on: machine, the processor's model where the system tells it, kind of device."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{describe_machine()}, {models[0] if models else platform.processor()}, {device_type(device)}"
