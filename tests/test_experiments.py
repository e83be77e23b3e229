"""The experiments' configs: they compose in both profiles, and run what the tables look for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from hired_eval.cli.help import check_names, text
from hired_eval.errors import UserError
from hired_eval.paths import config_folder
from hired_eval.reporting.configs import PACKAGED
from hired_eval.reporting.write import names_of
from hired_eval.runs.identity import default_options, effective_method
from hired_eval.runs.measuring import MEASURES
from hired_eval.runs.options import build_dropper, read_config
from tests.reporting.synthetic import METHODS, identity, unfinished
from tests.spine import command_line, config, run_config

EXPERIMENTS = sorted(f.stem for f in (config_folder() / "experiment").glob("*.yaml"))


def hydra_config(*overrides: str) -> Any:
    with initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def test_every_report_has_an_experiment() -> None:
    assert set(EXPERIMENTS) == {*names_of(PACKAGED), "gallery"}


@pytest.mark.parametrize("profile", ["mini", "paper"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_with_every_value_it_sweeps(name: str, profile: str) -> None:
    swept = hydra_config(f"+experiment={name}", f"profile={profile}")
    assert swept.hydra.mode.name == "MULTIRUN"
    assert swept.measure in MEASURES
    assert swept.data.source == ("hub" if profile == "paper" else "auto")
    for option, values in swept.hydra.sweeper.params.items():
        for value in str(values).split(","):
            resolved = config(f"+experiment={name}", f"profile={profile}", f"{option}={value}")
            chosen = read_config(resolved)
            assert build_dropper(chosen.method, chosen.of_method) is not None
            if option == "model":
                assert resolved["model"]["name"] == value


@pytest.mark.parametrize("profile", ["mini", "paper"])
@pytest.mark.parametrize("name", ["table3", "table4", "table5", "table6", "figure5"])
def test_an_experiment_runs_every_row_of_its_table_and_nothing_else(name: str, profile: str) -> None:
    spec = PACKAGED.spec(name)
    params = hydra_config(f"+experiment={name}", f"profile={profile}").hydra.sweeper.params
    rows = [PACKAGED.row(row) for row in spec.rows]
    found = set()
    for variant in params["+variant"].split(","):
        chosen = run_config(f"+experiment={name}", f"profile={profile}", f"+variant={variant}")
        dropper = build_dropper(chosen.method, chosen.of_method)
        record = replace(
            unfinished(METHODS["full"], "docvqa", "mini", "a-run", identity()),
            method=effective_method(dropper),
            method_defaults=default_options(dropper),
        )
        labels = [row.label for row in rows if row.of([record])]
        assert len(labels) == (3 if variant == "hired_20" and name == "table5" else 1), variant
        found.update(labels)
    assert found == {row.label for row in rows}
    benchmarks = [column.name for column in spec.columns if spec.kind != "efficiency"]
    assert params.get("task", "").split(",") == (benchmarks or [""])


def test_table3_sweeps_its_models_in_both_profiles() -> None:
    for profile, models in (("mini", "mini"), ("paper", "llava_next_7b,llava_next_13b")):
        assert hydra_config("+experiment=table3", f"profile={profile}").hydra.sweeper.params.model == models


@pytest.mark.parametrize("launcher", ["ray", "submitit_slurm", "submitit_local"])
def test_launchers_compose(launcher: str) -> None:
    """Whether their plugins take these options is for a machine that has them."""
    composed = hydra_config("+experiment=table3", f"hydra/launcher={launcher}").hydra.launcher
    assert composed._target_.startswith("hydra_plugins.")


def test_names_of_experiments_and_variants_are_checked() -> None:
    check_names(["+experiment=table3"])
    check_names(["-m", "+experiment=table5", "task=docvqa,pope", "hydra/launcher=ray"])
    check_names(["+experiment=figure6", "method.alpha=0.1", "budget=0.2,0.4"])
    with pytest.raises(UserError, match="there is no experiment 'tabel3'; did you mean table3"):
        check_names(["+experiment=tabel3"])
    with pytest.raises(UserError, match="there is no variant 'hired_2'; did you mean hired_20"):
        check_names(["+variant=hired_2"])
    with pytest.raises(UserError, match=r"experiment=table3 is added to a config.*write \+experiment=table3"):
        check_names(["experiment=table3"])
    listed = text()
    assert all(name in listed for name in (*EXPERIMENTS, "hired_20_evenly"))


def test_an_experiment_runs_as_a_sweep_and_its_report_follows(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    sweep = ["+experiment=table3", "task=docvqa", "+variant=full,hired_20", *tiny_run, f"runs_dir={runs}"]
    assert command_line(monkeypatch, *sweep) == 0
    assert len(list(runs.glob("*/record.json"))) == 2
    assert command_line(monkeypatch, *sweep) == 0
    assert capfd.readouterr().err.splitlines()[-1].startswith("every run was complete already")
    assert command_line(monkeypatch, "report", "table3", "--runs-dir", str(runs), "--out", str(tmp_path)) == 0
    printed = capfd.readouterr().out
    assert "| HiRED 20 %" in printed
    assert "| HiRED 40 %" in printed, "a row of the table that was not run"
    assert (tmp_path / "table3.tex").is_file()
