"""The config that overrides make, for the commands that start no run of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hired_eval.cli.arguments import translate_for_hydra
from hired_eval.cli.help import check_names
from hired_eval.errors import UserError
from hired_eval.method_configs import register_compositions
from hired_eval.paths import config_folder


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
