"""The command line: a Hydra app. Config in, run record out, table on screen."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from hired_eval.cli import help as help_text
from hired_eval.cli.arguments import expand_flags, is_sweep, translate_for_hydra
from hired_eval.errors import UserError
from hired_eval.paths import config_folder

if TYPE_CHECKING:
    from hired_eval.records.goal import read_goal
    from hired_eval.records.record import Record
    from hired_eval.records.store import Store
    from hired_eval.runs.loading import Models


class RunFailedError(Exception):
    """A run on a worker of a cluster failed."""


def main() -> None:
    """Run the command line and exit: 0 where all went well, 1 where the user has something to correct."""
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
    if arguments[:1] == ["report"]:
        from hired_eval.reporting.__main__ import main as report

        report(arguments[1:])
        return []
    if arguments[:1] == ["show"]:
        from hired_eval.cli.show import main as show

        show(arguments[1:])
        return []
    if arguments[:1] == ["plan"]:
        from hired_eval.cli.plan import main as plan

        plan(arguments[1:])
        return []
    if arguments[:1] == ["regress"]:
        from hired_eval.regression.command import main as regress

        regress(arguments[1:])
        return []
    if "--help" in arguments or "-h" in arguments:
        print(help_text.text(help_text.own_folder(arguments)))
        return []
    help_text.check_names(arguments)
    if is_sweep(arguments) and any(re.match(r"\+*(precision|decide)=", a) for a in arguments):
        from hired_eval.cli.plan import TFLOPS, forecasts
        from hired_eval.runs.forecast import summarize

        _say(summarize(forecasts(arguments), TFLOPS))
    sys.argv[1:] = translate_for_hydra(arguments)
    show_only = not {"--cfg", "-c"}.isdisjoint(arguments)
    if show_only and "--resolve" not in arguments:
        sys.argv.append("--resolve")
    one_method = any(re.fullmatch(r"method=[\w-]+", a) for a in arguments)
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

    from hired_eval.runs.loading import Models

    problems: list[str] = []
    shown: list[tuple[Store, Record]] = []
    models = Models()
    started_in = os.getpid()

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    def app(config: DictConfig) -> None:
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        problem = _run(resolved, models, shown, several_methods=sweep and not one_method)
        if problem:
            if problem not in problems:
                print(f"error: {problem}", file=sys.stderr)
            problems.append(problem)
            if os.getpid() != started_in:
                # a worker of a cluster: its list of problems stays with it, its exceptions do not
                raise RunFailedError(problem)

    if show_only:
        app()
        return problems
    from hired_eval.cli.quiet import quiet_libraries
    from hired_eval.processes import Processes
    from hired_eval.reporting.table import run_table

    quiet_libraries()
    try:
        app()
    finally:
        Processes.part()
    if len(shown) > 1:
        print(f"\nAll {len(shown)} runs:\n{run_table(shown)}")
    if len(problems) > 1:
        print(f"error: {len(problems)} runs failed", file=sys.stderr)
    return problems


def _run(
    resolved: dict[str, Any], models: Models, shown: list[tuple[Store, Record]], several_methods: bool
) -> str | None:
    """One run and its table; what went wrong, if anything.

    Args:
        resolved: the config.
        models: shared by the runs of a sweep.
        shown: takes the run's record with its store, where it is one of accuracy.
        several_methods: in a sweep over methods, those without a budget run once.
    """
    from hired_eval.cli.sweeps import drop_needless_budget
    from hired_eval.processes import Processes
    from hired_eval.records.store import Store
    from hired_eval.reporting.table import full_run_like, run_table, settled_line
    from hired_eval.runs.measuring import measure
    from hired_eval.runs.options import read_config

    try:
        say = _say if Processes().main else _hush
        config = read_config(resolved)
        if several_methods:
            config = drop_needless_budget(config, say)
        outcome = measure(config, say, models)
    except UserError as error:
        if Processes().count > 1:
            # the others wait for this process, and end with it, before a next run of a sweep begins
            sys.exit(f"error: {error}")
        return str(error)
    if not Processes().main:
        return None
    if outcome.reused:
        print("this run is complete already (rerun=true repeats it):", file=sys.stderr)
    if config.measure != "accuracy":
        print(f"record: {outcome.folder}")
        return None
    store = Store(outcome.folder.parent)
    for line in store.damaged:
        say(f"left out: {line}")
    full = full_run_like(outcome.record, store.records)
    shown.append((store, outcome.record))
    try:
        print(run_table([(store, record) for record in (outcome.record, full) if record]))
        if settled := settled_line(store, outcome.record, full, read_goal(resolved)):
            print(settled)
    except UserError as error:  # samples of the other run that cannot be read
        return str(error)
    print(f"record: {outcome.folder}")
    failed = outcome.record.failed_samples
    if failed:
        return f"{failed} samples failed; see the column error of {outcome.folder / 'samples.parquet'}"
    return None


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _hush(line: str) -> None:
    """What the main process says already."""


if __name__ == "__main__":
    main()
