"""The command line: a Hydra app. Config in, run record out, table on screen."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

from hired_eval.cli import help as help_text
from hired_eval.cli.arguments import expand_flags, translate_for_hydra
from hired_eval.errors import UserError
from hired_eval.method_configs import register_compositions
from hired_eval.paths import config_folder


class RunFailedError(Exception):
    """A run on a worker of a cluster failed."""


def main() -> None:
    """Run the command line and exit: 0 where all went well, 1 where the user has something to correct."""
    # OpenMP's threads spin for a busy core, which made the bundled model three times slower next to two other
    # processes; read when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        problems = _command(expand_flags(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("error: interrupted; start it again to go on where it stopped", file=sys.stderr)
        sys.exit(130)
    if problems:
        sys.exit(1)


def _command(arguments: list[str]) -> list[str]:
    """Do what the first word says, or compose a config and run it; what went wrong comes back."""
    if arguments and arguments[0] in help_text.COMMANDS:
        import_module(help_text.COMMANDS[arguments[0]]).main(arguments[1:])
        return []
    if arguments == ["--version"]:
        print(f"hired_eval {version('hired_eval')}")
        return []
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(help_text.text(help_text.own_folder(arguments), arguments))
        return []
    help_text.check_names(arguments)
    sys.argv[1:] = translate_for_hydra(arguments)
    show_only = not {"--cfg", "-c"}.isdisjoint(arguments)
    if show_only and "--resolve" not in arguments:
        sys.argv.append("--resolve")
    one_method = any(re.fullmatch(r"method=[\w+-]+", a) for a in arguments)
    register_compositions(arguments)
    return _hydra_app(show_only, one_method)


def _hydra_app(show_only: bool, one_method: bool) -> list[str]:
    """Compose the config and run it, once or as a sweep; what went wrong comes back.

    Args:
        show_only: Hydra shows the config, and nothing is run.
        one_method: a sweep has one method, which must have a budget where the sweep has budgets.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    if not show_only:
        from hired_eval.cli.quiet import quiet_libraries
        from hired_eval.cli.running import Job, run_job, run_sweep
        from hired_eval.processes import Processes

        quiet_libraries()
    jobs: list[Job] = []
    started_in = os.getpid()

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    def app(config: DictConfig) -> None:
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        job = Job(resolved, tuple(HydraConfig.get().overrides.task), one_method or not sweep)
        if os.getpid() == started_in:
            # run when all are composed, so that the first line can say how many there are
            jobs.append(job)
        elif problems := run_job(job):
            # a worker of a cluster: its list of problems stays with it, its exceptions do not
            raise RunFailedError(problems[0])

    app()
    if show_only:
        return []
    try:
        return run_sweep(jobs) if len(jobs) > 1 else run_job(jobs[0]) if jobs else []
    finally:
        Processes.part()


if __name__ == "__main__":
    main()
