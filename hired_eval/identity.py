"""What makes two runs the same: config, data, weights, versions, and the code that drops and answers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from hired_eval.benchmarks import hub_dataset
from hired_eval.dropping import TokenDropper
from hired_eval.hub import commit
from hired_eval.local_data import DataSource
from hired_eval.mini import HASHES
from hired_eval.paths import PACKAGE

NOT_PART_OF_THE_RUN = ("runs_dir", "rerun", "profile", "on_error", "encoding_cache", "encoding_cache_gib")
PACKAGES = ("hired-eval", "lmms_eval", "transformers", "torch", "datasets", "numpy", "pillow")
READ_WHOLE = 64 << 20  # bytes; of larger files, slices
SLICE, EVERY = 64 << 10, 16 << 20


def run_identity(
    config: dict[str, Any], checkpoint: str, data: DataSource, method: type[TokenDropper]
) -> dict[str, Any]:
    """What the record says about the origin of a run; all but the git commit is part of its name.

    Args:
        config: resolved.
        checkpoint: a folder, or an id on the hub.
        data: where the documents come from.
        method: class of the dropping method.
    """
    relevant = {k: v for k, v in config.items() if k not in NOT_PART_OF_THE_RUN}
    documents: str | None = None
    model, weights = config["model"], Path(checkpoint)
    if data.path is not None:
        documents = fingerprint(data.path.expanduser(), "*.parquet")
    elif data.source == "bundled":
        documents = json.loads(HASHES.read_text()).get(config["task"]["name"])
    else:
        repository = hub_dataset(config["task"]["lmms_task"])
        documents = commit(repository, "dataset") if repository else None
    if weights.is_dir():
        fetched: str | None = fingerprint(weights, "*")
    else:
        fetched = None if model["weights"] == "dummy" else commit(checkpoint, "model", model["revision"])
    return {
        "config_sha256": hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest(),
        "code_sha256": code_hash(method),
        "checkpoint": fetched,
        "data": data.source,
        "documents": documents,
        "versions": {
            **{package: importlib.metadata.version(package) for package in PACKAGES},
            "python": platform.python_version(),
        },
        "git_commit": git_commit(),
    }


@cache
def code_hash(method: type[TokenDropper]) -> str:
    """A hash of the code that drops and answers; of a plugin's method, its package as well.

    Read once a process: what is edited while a sweep runs is not what the sweep runs.
    """
    files = [file for room in ("dropping", "llava") for file in sorted((PACKAGE / room).glob("*.py"))]
    modules = dict.fromkeys(base.__module__ for base in method.__mro__ if issubclass(base, TokenDropper))
    for name in modules:
        if name.partition(".")[0] != PACKAGE.name:
            files += _files_of(name)
    code = hashlib.sha256()
    for file in files:
        code.update(file.read_bytes())
    return code.hexdigest()


def _files_of(module: str) -> list[Path]:
    """The Python files of the package that a loaded module belongs to, or the module's own file."""
    package = getattr(sys.modules[module.partition(".")[0]], "__file__", None)
    if package and Path(package).name == "__init__.py":
        return sorted(Path(package).parent.rglob("*.py"))
    own = getattr(sys.modules[module], "__file__", None)
    return [Path(own)] if own else []


def run_name(config: dict[str, Any], identity: dict[str, Any]) -> str:
    """A name that tells the run, with a hash of all that makes it the same run."""
    same = {k: v for k, v in identity.items() if k != "git_commit"}
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:10]
    method = config["method"]["_target_"].rsplit(".", 1)[-1].lower()
    budget = config["budget"] or config["method"].get("budget")
    parts = [config["task"]["name"], config["model"]["name"], method, *([f"{budget:g}"] if budget else [])]
    return re.sub(r"[^\w.-]", "_", "-".join([*parts, digest]))


def fingerprint(folder: Path, pattern: str) -> str:
    """A hash of the files under a folder, prose (.md) left out: their names, sizes and contents.

    Of files above 64 MiB, 64 KiB of every 16 MiB and the end are read: some 100 MiB of the 26 GB of a 13B
    model, and a matrix of 4096 x 4096 in 16 bits does not slip between the slices, whatever was trained.
    """
    content = hashlib.sha256()
    for file in sorted(f for f in folder.rglob(pattern) if f.is_file() and f.suffix != ".md"):
        size = file.stat().st_size
        content.update(f"{file.relative_to(folder)} {size} ".encode())
        with file.open("rb") as stream:
            if size <= READ_WHOLE:
                content.update(stream.read())
                continue
            for start in (*range(0, size - SLICE, EVERY), size - SLICE):
                stream.seek(start)
                content.update(stream.read(SLICE))
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
