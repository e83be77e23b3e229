"""The command line: a Hydra app. Config in, run record out, table on screen."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from hired_eval.cli import help as help_text
from hired_eval.cli.arguments import expand_flags, folders_as_flags
from hired_eval.cli.composing import compose_jobs
from hired_eval.errors import UserError


def main() -> None:
    """Run the command line and exit: 0 where all went well, 1 where the user has something to correct."""
    # OpenMP's threads spin for a busy core, which made the bundled model three times slower next to two other
    # processes; read when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # where one works is where one's own methods are, for hired-eval as for python -m hired_eval
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
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
        import_module(help_text.COMMANDS[arguments[0]]).main(folders_as_flags(arguments))
        return []
    if arguments == ["--version"]:
        print(f"hired_eval {version('hired_eval')}")
        return []
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(help_text.text(help_text.own_folder(arguments), arguments))
        return []
    show_only = not {"--cfg", "-c"}.isdisjoint(arguments)
    if show_only:
        compose_jobs(arguments, ["--resolve"] * ("--resolve" not in arguments))
        return []
    help_text.check_names(arguments)  # at once: what follows takes seconds to import
    from hired_eval.cli.quiet import quiet_libraries
    from hired_eval.cli.running import run_job, run_sweep
    from hired_eval.processes import Processes

    quiet_libraries()
    jobs = compose_jobs(arguments)
    try:
        return run_sweep(jobs) if len(jobs) > 1 else run_job(jobs[0]) if jobs else []
    finally:
        Processes.part()


if __name__ == "__main__":
    main()
