"""What overrides make: the runs of a command line, or the one config of a command that starts no run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hired_eval.cli.arguments import translate_for_hydra
from hired_eval.cli.help import check_names
from hired_eval.errors import UserError
from hired_eval.method_configs import register_compositions
from hired_eval.paths import config_folder

if TYPE_CHECKING:
    from hired_eval.cli.running import Job


class RunFailedError(Exception):
    """A run on a worker of a cluster failed."""


def compose_jobs(overrides: Sequence[str], more: Sequence[str] = ()) -> list[Job]:
    """The runs of a command line; a worker of a cluster does its own at once.

    Args:
        overrides: as typed.
        more: what Hydra is told besides.

    Raises:
        UserError: an override names nothing that is there, or cannot be read.
    """
    import hydra  # half a second, not for --help
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    words = list(overrides)
    check_names(words)
    register_compositions(words)
    one_method = any(re.fullmatch(r"method=[\w+-]+", word) for word in words)
    jobs: list[Job] = []
    composed_in = os.getpid()

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    def app(config: DictConfig) -> None:
        from hired_eval.cli.running import Job, run_job  # not where Hydra only shows the config

        resolved: Any = OmegaConf.to_container(config, resolve=True)
        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        job = Job(resolved, tuple(HydraConfig.get().overrides.task), one_method or not sweep)
        if os.getpid() == composed_in:
            # run when all are composed, so that the first line can say how many there are
            jobs.append(job)
        elif problems := run_job(job):
            # its list of problems stays with the worker, its exceptions do not
            raise RunFailedError(problems[0])

    before = sys.argv[:]
    sys.argv[1:] = [*translate_for_hydra(words), *more]
    try:
        app()
    finally:
        sys.argv[:] = before
    return jobs


def compose_config(overrides: Sequence[str], own: Path | None = None) -> dict[str, Any]:
    """The resolved config that `python -m hired_eval` makes of the same words.

    Args:
        overrides: as typed.
        own: folder of the user's own configs.

    Raises:
        UserError: an override names nothing that is there, or cannot be read.
    """
    from hydra import compose, initialize_config_dir  # half a second, not for --help
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    words = [*([f"--config-dir={own}"] if own else []), *overrides]
    check_names(["--resolve", *words])  # behind a flag, no word is taken for a command
    register_compositions(words)
    more = [f"hydra.searchpath=[file://{own.absolute()}]"] if own else []
    try:
        with initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
            composed = compose("config", [*translate_for_hydra(list(overrides)), *more])
        config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from error
    return config
