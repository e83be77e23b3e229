"""The command line: a Hydra app. Config in, run record out, table on screen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hired_eval import help as help_text
from hired_eval.errors import UserError
from hired_eval.paths import config_folder


def main() -> None:
    """Run the command line and exit: 0 where all went well, 1 where the user has something to mend."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(help_text.text())
        return
    try:
        help_text.check_names(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    try:
        problems = _hydra_app(show_only="--cfg" in arguments or "-c" in arguments)
    except KeyboardInterrupt:
        print("error: interrupted; start it again to go on where it stopped", file=sys.stderr)
        sys.exit(130)
    if problems:
        sys.exit(1)


def _hydra_app(show_only: bool) -> list[str]:
    """Compose the config and run it, once or as a sweep; what went wrong comes back."""
    import hydra
    from omegaconf import DictConfig, OmegaConf

    problems: list[str] = []

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    def app(config: DictConfig) -> None:
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        problem = _run(resolved)
        if problem:
            problems.append(problem)
            print(f"error: {problem}", file=sys.stderr)

    if not show_only:
        _quiet_libraries()
    app()
    return problems


def _run(config: dict[str, Any]) -> str | None:
    """One run and its table; what went wrong, if anything."""
    from hired_eval.reporting.table import beside, read_records, run_table
    from hired_eval.runs import run

    try:
        outcome = run(config, say=lambda line: print(line, file=sys.stderr))
        full = beside(outcome.record, read_records(Path(config["runs_dir"])))
    except UserError as error:
        return str(error)
    if outcome.reused:
        print("this run is complete already (rerun=true repeats it):", file=sys.stderr)
    print(run_table([outcome.record, *([full] if full else [])]))
    print(f"record: {outcome.folder}")
    failed = outcome.record["failed_samples"]
    if failed:
        return f"{failed} samples failed; see the column error of {outcome.folder / 'samples.parquet'}"
    return None


def _quiet_libraries() -> None:
    """Progress and results on the screen, not the libraries' chatter; warnings stay."""
    import datasets

    # lmms-eval adds a sink of its own on import, so it has to be imported before the sinks are replaced
    import lmms_eval.models  # noqa: F401
    import transformers
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level}: {message}")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    main()
