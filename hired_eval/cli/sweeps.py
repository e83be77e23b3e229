"""What Hydra leaves of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from hired_eval.paths import hide_home
from hired_eval.records.folder import replacing


class WithoutHome(Callback):
    """Writes the home folder as ~ in the config that Hydra leaves of a sweep."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first run, so that a sweep that is killed leaves no home folder either."""
        _hide_home(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Where no run was started."""
        _hide_home(config)


def _hide_home(config: DictConfig) -> None:
    """Rewrite `multirun.yaml` in the sweep's folder, where Hydra has left one with the home folder in it."""
    file = Path(config.hydra.sweep.dir) / "multirun.yaml"
    if not file.is_file():
        return
    left = OmegaConf.to_container(OmegaConf.load(file))
    hidden = _hidden(left)
    if hidden != left:
        with replacing(file) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(hidden)))


def _hidden(part: Any, name: str = "") -> Any:
    """A part of that config with ~ for the home folder where a path begins with it, not in prompts."""
    if isinstance(part, dict):
        return {key: _hidden(value, key) for key, value in part.items()}
    if isinstance(part, list):
        return [_hidden(value, name) for value in part]
    if not isinstance(part, str) or name == "prompt" or part.startswith("model.prompt="):
        return part
    return hide_home(part)
