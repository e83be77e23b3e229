"""What is done once a sweep has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from hired_eval.records import replacing


class WithoutHome(Callback):
    """Writes the home folder as ~ in the config that Hydra leaves of a sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Rewrite `multirun.yaml` in the sweep's folder, where Hydra has left one."""
        file = Path(config.hydra.sweep.dir) / "multirun.yaml"
        if file.is_file():
            text = file.read_text().replace(str(Path.home()), "~")
            with replacing(file) as temporary:
                temporary.write_text(text)
