"""What is done beside the runs of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from hired_eval.paths import hide_home
from hired_eval.records.record import replacing

if TYPE_CHECKING:
    from hired_eval.runs.options import RunConfig


def drop_needless_budget(config: RunConfig, say: Callable[[str], None]) -> RunConfig:
    """The config of one run of a sweep: budgets are for the methods that have one, others run once."""
    if config.budget is None or config.method.has_budget:
        return config
    name = config.method.label if config.method.parts else config.method.target.rsplit(".", 1)[-1]
    say(f"{name} has no token budget of its own: budget={config.budget} is left out")
    return replace(config, budget=None)


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
