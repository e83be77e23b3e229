"""What the tests of the whole chain share: a config as the command line makes it, and that command line."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from hired_eval.__main__ import main
from hired_eval.method_configs import register_compositions
from hired_eval.paths import config_folder
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import Outcome, measure
from hired_eval.runs.options import RunConfig, read_config


def config(*overrides: str) -> dict[str, Any]:
    """The resolved config that `python -m hired_eval OVERRIDES` runs."""
    register_compositions(overrides)
    with initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
        resolved: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return resolved


def run_config(*overrides: str) -> RunConfig:
    return read_config(config(*overrides))


def run_quietly(*overrides: str, models: Models | None = None) -> Outcome:
    return measure(run_config(*overrides), lambda line: None, models or Models())


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of `python -m hired_eval ARGUMENTS`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["hired-eval", *arguments])
    # what is appended for one test is gone for the next
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(runs: Path, name: str) -> Iterator[None]:
    """Another process holds a run: within one process, lmms-eval makes locks reentrant."""
    (runs / ".locks").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HOLDER, str(runs / ".locks" / f"{name}.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.communicate()
