"""What makes two runs the same: what was asked for as it is resolved, and the content that it is asked of."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, fields, replace
from enum import Enum
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from hired_eval import dropping
from hired_eval.code import content_hash, find_code_reached, public
from hired_eval.dropping import TokenDropper
from hired_eval.dropping.composed import Composed, takes_budget
from hired_eval.hub import commit
from hired_eval.lmms.local_data import DataSource
from hired_eval.lmms.tasks import hub_dataset, list_files_read
from hired_eval.method_configs import BUDGETS, JOIN
from hired_eval.mini import HASHES
from hired_eval.paths import PACKAGE, write_tilde
from hired_eval.records.folder import FORMAT
from hired_eval.records.record import Identity, Method
from hired_eval.runs.options import OF_METHOD, ModelOptions, RunConfig

NOT_PART_OF_THE_RUN = (
    "runs_dir",
    "rerun",
    "profile",
    "on_error",
    "share_prefix",
    "decoding",
    "reading",
    "device",
)
"""Where and how a run is done. Every other option counts, also one that is added later."""
RESOLVED = (
    "method",
    *OF_METHOD,
    "model",
    "task",
    "data",
    "limit",
    "precision",
    "decide",
    "order",
    "order_seed",
    "protocol",
)
"""Options that count by what they come to."""
RANDOM = "random"
"""What the setting `order` of a part drawn at random begins with; its seed follows."""
TIMED = ("batch_size", "efficiency")
"""Options that count where time is measured: repeats too, since who asks for more wants a surer median."""
NOT_PART_OF_THE_MODEL = (
    "hub_id",
    "path",
    "revision",
    "device_map",
    "alpha",
    "prompt",
    "feature_layer",
    "weights",
)
"""Of the model config: where the checkpoint lies and is put, what only fills in others, what is resolved."""
LIBRARIES = (
    "lmms_eval", "transformers", "tokenizers", "torch", "torchvision", "numpy", "pillow", "datasets"
)  # fmt: skip
"""They read documents and pictures, make tokens of them, compute answers, and score them."""
READ_WHOLE = 64 << 20
"""Bytes; of larger files, the hash is remembered while the process lasts."""


def identify_run(
    config: RunConfig,
    checkpoint: str,
    data: DataSource,
    dropper: TokenDropper,
    *,
    limit: int | None,
    order_seed: int | None = None,
    machine: str | None = None,
    feature_layer: int | None = None,
) -> Identity:
    """What the record says about the origin of a run; what of it makes a run the same is in `name_run`.

    Args:
        config: what is asked for.
        checkpoint: a folder, or an id on the hub.
        data: where the documents come from.
        dropper: the method with the options that run.
        limit: of the documents, None where it cuts off none.
        order_seed: of the random order of a part; None for the first documents.
        machine: where speed is measured, what it is measured on.
        feature_layer: that feeds the projector, counted from 0; None where it is not known before loading.

    Raises:
        UserError: the data of a local copy is not there.
    """
    timed = machine is not None
    model, weights, benchmark = config.model, Path(checkpoint), config.task
    documents: str | None = None
    if data.path is not None:
        documents = _combined(
            [content_hash(file) for file in list_files_read(benchmark.lmms_task, data.path)]
        )
    elif data.source == "bundled":
        documents = json.loads(HASHES.read_text()).get(benchmark.name)
    else:
        repository = hub_dataset(benchmark.lmms_task)
        documents = commit(repository, "dataset") if repository else None
    if weights.is_dir():
        fetched: str | None = fingerprint(weights, "*")
    else:
        fetched = None if model.weights == "dummy" else commit(checkpoint, "model", model.revision)
    left_out = (*NOT_PART_OF_THE_RUN, *RESOLVED, *(() if timed else TIMED))
    settings = {
        **{k: v for k, v in asdict(config).items() if k not in left_out},
        "method_version": version_of(dropper),
        "protocol": config.protocol.name,
        "model": {k: v for k, v in asdict(model).items() if k not in NOT_PART_OF_THE_MODEL}
        | {
            "weights": "dummy" if model.weights == "dummy" else "trained",
            "feature_layer": model.feature_layer if feature_layer is None else feature_layer,
            # where its content is not known
            **({"source": f"{checkpoint}@{model.revision}"} if fetched is None else {}),
        },
    }
    if timed:
        settings |= {"machine": machine, "device_map": model.device_map}
    else:
        settings |= {
            "prompt": model.prompt,
            "task": asdict(benchmark),
            "data": data.label,
            "limit": limit,
        }
        if order_seed is not None:
            settings["order"] = f"{RANDOM} {order_seed}"
    method = effective_method(dropper)
    options = _with_contents(dropper, method.options)
    settings = normal(settings | {"method": {"_target_": method.target, **options}})
    places = [str(weights.resolve()) if weights.is_dir() else None, str(data.path and data.path.resolve())]
    return Identity(
        config_sha256=_sha256([settings, places]),
        settings=settings,
        code=code_of(dropper, config.measure),
        checkpoint=fetched,
        data=data.source,
        documents=documents,
        versions=versions(model),
        git_commit=git_commit(),
    )


def name_run(identity: Identity) -> str:
    """A name that tells the run, with a hash of all that makes it the same run.

    A part drawn at random is the same run however large it is: it may grow.
    """
    settings, full_versions = identity.settings, identity.versions
    timed = "machine" in settings
    same = {
        "format": FORMAT,
        "settings": {k: v for k, v in settings.items() if k != "limit" or "order" not in settings},
        **{name: getattr(identity, name) for name in ("code", "checkpoint")},
        # speed is measured on made-up pictures
        "documents": None if timed else identity.documents,
        # of a measurement of speed the build for a device matters too; of Python, the patch level never does
        "versions": {
            name: version if timed else public(version)
            for name, version in full_versions.items()
            if name not in ("python", "hired-eval")
        },
        "python": ".".join(full_versions["python"].split(".")[:2]),
    }
    subject = settings["measure"] if timed else settings["task"]["name"]
    method = "+".join(t.rsplit(".", 1)[-1] for t in settings["method"]["_target_"].split(JOIN)).lower()
    budgets = [settings["method"][name] for name in BUDGETS if settings["method"].get(name)]
    share = [f"{budget:g}" if isinstance(budget, int | float) else str(budget) for budget in budgets]
    parts = [subject, settings["model"]["name"], method, *share, _sha256(same)[:10]]
    return re.sub(r"[^\w.+-]", "_", "-".join(map(str, parts)))


def name_otherwise(identity: Identity, order_seed: int) -> str:
    """The name of the whole run where this is a part drawn at random, else that of such a part."""
    settings = {**identity.settings}
    if settings.pop("order", None) is None:
        settings["order"] = f"{RANDOM} {order_seed}"
    return name_run(replace(identity, settings=settings | {"limit": None}))


def effective_method(dropper: TokenDropper) -> Method:
    """The class of a method and every option with the value that runs, for JSON.

    A composition has the classes of all its methods, and their names in front of their options; its budget is
    that of the last one inside the language model that has one.
    """
    if not isinstance(dropper, Composed):
        options = {f.name: plain(getattr(dropper, f.name)) for f in fields(dropper) if f.init}
        return Method(target_of(type(dropper)), options)
    parts = [effective_method(stage) for stage in dropper.stages]
    options = _joined(dropper, [part.options for part in parts])
    with_budget = takes_budget({type(stage).__name__: type(stage) for stage in dropper.stages})
    for name in BUDGETS if with_budget else ():
        if options.get(f"{with_budget}.{name}") is not None:
            options[name] = options.pop(f"{with_budget}.{name}")
    return Method(JOIN.join(part.target for part in parts), options)


def default_options(dropper: TokenDropper) -> dict[str, Any]:
    """The default of every option of a method that has one, for JSON; names as of `effective_method`."""
    if isinstance(dropper, Composed):
        return _joined(dropper, [default_options(stage) for stage in dropper.stages])
    defaults = {}
    for f in fields(dropper):
        if f.init and f.default is not MISSING:
            defaults[f.name] = plain(f.default)
        elif f.init and f.default_factory is not MISSING:
            defaults[f.name] = plain(f.default_factory())
    return defaults


def version_of(dropper: TokenDropper) -> int:
    """The version of a method; of a composition the sum, so that it changes with each of them."""
    stages = dropper.stages if isinstance(dropper, Composed) else (dropper,)
    return sum(type(stage).VERSION for stage in stages)


def _joined(dropper: Composed, options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The options of several methods, each with the name of its class in front."""
    return {
        f"{type(stage).__name__}.{name}": value
        for stage, own in zip(dropper.stages, options, strict=True)
        for name, value in own.items()
    }


def target_of(method: type) -> str:
    """The one name of a class: this package's own by the name that it is exported under, others in full."""
    if getattr(dropping, method.__name__, None) is method:
        return f"{dropping.__name__}.{method.__name__}"
    return f"{method.__module__}.{method.__qualname__}"


def plain(value: Any) -> Any:
    """A value as JSON has it; of an object its class and what it holds."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, Path):
        return write_tilde(str(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(v) for v in value), key=str)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    held = getattr(value, "__dict__", None)
    if held is not None:
        return {"_target_": target_of(type(value))} | {k: plain(v) for k, v in held.items()}
    return repr(value)


def normal(value: Any) -> Any:
    """A value of JSON in one spelling: 1.0 is 1."""
    if isinstance(value, dict):
        return {k: normal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [normal(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_contents(dropper: TokenDropper, options: dict[str, Any]) -> dict[str, Any]:
    """The options, what they name replaced by its content.

    Of this package's methods that is a text tower; of somebody else's, any file or folder.
    """
    if isinstance(dropper, Composed):
        parts = [_with_contents(stage, effective_method(stage).options) for stage in dropper.stages]
        return options | {k: v for k, v in _joined(dropper, parts).items() if k in options}
    if type(dropper).__module__.partition(".")[0] == PACKAGE.name:
        tower = dropper.vision.question_tower
        if tower is None or "text_tower" not in options:
            return options
        fetched = tower if Path(tower).is_dir() else commit(tower, "model") or tower
        return options | {"text_tower": _content_of(fetched)}
    try:
        kinds = get_type_hints(type(dropper))
    except NameError:  # an annotation that only a type checker can read
        kinds = {}
    return {
        name: value if get_origin(kinds.get(name)) is Literal else _content_of(value)
        for name, value in options.items()
    }


def _content_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _content_of(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_content_of(v) for v in value]
    if not isinstance(value, str) or not value.strip("./") or not value.isprintable():
        return value
    place = Path(value).expanduser() if value.startswith("~/") else Path(value)
    try:
        if place.is_file():
            return f"file {content_hash(place)}"
        return f"folder {fingerprint(place, '*')}" if place.is_dir() else value
    except OSError:  # too long for a name
        return value


def code_of(dropper: TokenDropper, measure: str) -> dict[str, str]:
    """The code that decides what a measurement with a method finds, see `code_reached`.

    Args:
        dropper: the method; objects among its options are code too.
        measure: as in the config.
    """
    stages = dropper.stages if isinstance(dropper, Composed) else (dropper,)
    values = [getattr(stage, f.name) for stage in stages for f in fields(stage)]
    parts = {str(value.__module__) for value in values if hasattr(value, "__module__")}
    return _code_of(tuple(map(type, stages)), tuple(sorted(parts)), measure)


@cache
def _code_of(methods: tuple[type, ...], parts: tuple[str, ...], measure: str) -> dict[str, str]:
    """Once a process: what is edited while a sweep runs is not what the sweep runs."""
    engine = {"accuracy": "accuracy", "efficiency": "efficiency", "efficiency_stock": "efficiency"}
    modules = [*dict.fromkeys(base.__module__ for method in methods for base in method.__mro__), *parts]
    found = find_code_reached([f"{PACKAGE.name}.runs.{engine.get(measure, 'probes')}", *modules])
    return {name: digest[:16] for name, digest in found.items()}


def versions(model: ModelOptions) -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that matter for a model."""
    needed = [*LIBRARIES]
    needed += ["bitsandbytes"] if model.quantization != "none" else []
    needed += ["flash_attn"] if model.attention == "flash_attention_2" else []
    found = {"hired-eval": importlib.metadata.version("hired-eval")}
    for package in needed:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _combined(digests: list[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def fingerprint(folder: Path, pattern: str) -> str:
    """A hash of the files under a folder: their names and contents.

    Left out are prose (.md) and hidden files, which are of the tools that fetched the others. Files above
    64 MiB are read side by side, 26 GB in some seconds from memory, and once a process.
    """
    files = [f for f in folder.rglob(pattern) if f.is_file() and f.suffix != ".md"]
    files = sorted(f for f in files if not any(p.startswith(".") for p in f.relative_to(folder).parts))
    large = [f for f in files if f.stat().st_size > READ_WHOLE]
    with ThreadPoolExecutor(4) as pool:
        digests = dict(zip(large, pool.map(content_hash, large), strict=True))
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.relative_to(folder)} {file.stat().st_size} ".encode())
        content.update(digests[file].encode() if file in digests else file.read_bytes())
    return content.hexdigest()


def git_commit() -> str | None:
    """Commit of the checkout that the package runs from, '+changes' where it was edited; None elsewhere."""
    git = ["git", "-C", str(PACKAGE)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+changes" if changed.stdout.strip() else "")
