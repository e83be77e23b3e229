"""A sweep as jobs of Ray and of submitit: the same records, and the same table, as one run after another."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from hired_eval.paths import config_folder
from hired_eval.records.folder import read_record
from hired_eval.records.store import Store
from hired_eval.reporting.render import comma_separated
from tests import tiny
from tests.data import truncated_png, write_docvqa
from tests.reporting.packaged import table3

LAUNCHERS = {
    "submitit_local": [],
    "ray": [
        "+hydra.launcher.ray.init.num_cpus=2",
        "hydra.launcher.ray.remote.num_cpus=1",
        "hydra.launcher.ray.remote.num_gpus=0",
    ],
}


def swept(checkpoint: Path, folders: list[Path], runs: Path, *overrides: str) -> int:
    data = ",".join(map(str, folders))
    command = [sys.executable, "-m", "hired_eval", "-m", f"model.path={checkpoint}", f"data.path={data}"]
    command += ["method=full,hired", f"runs_dir={runs}", *overrides]
    return subprocess.run(command, check=False, capture_output=True).returncode


def outcomes(runs: Path) -> dict[str, Any]:
    """Of each run: its status, score and error, and its samples."""
    found = {}
    for folder in runs.glob("docvqa-*"):
        record = read_record(folder)
        assert record is not None
        samples = folder / "samples.parquet"
        rows = pd.read_parquet(samples).to_csv() if record.status == "complete" else None
        found[folder.name] = (record.status, record.score, record.error, rows)
    return found


def test_a_ray_that_runs_already_can_be_joined() -> None:
    """It refuses any size of its memory, and where the key is absent the plugin fills one in."""
    launcher = yaml.safe_load((config_folder() / "hydra" / "launcher" / "ray.yaml").read_text())
    assert launcher["ray"]["init"] == {"address": "local", "object_store_memory": None}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_make_the_same_table_and_a_failed_one_stops_no_other(
    launcher: str, tiny_checkpoint: Path, docvqa_folder: Path, tmp_path: Path
) -> None:
    plugin = launcher.split("_")[0]
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed (pip install 'hired-eval[cluster]')")
    damaged = write_docvqa(tmp_path / "damaged", 4, [tiny.picture(60, 60), truncated_png()])
    folders = [damaged, docvqa_folder]
    assert swept(tiny_checkpoint, folders, tmp_path / "serial") == 1
    options = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher]]
    assert swept(tiny_checkpoint, folders, tmp_path / "jobs", *options) == 1
    found = outcomes(tmp_path / "jobs")
    assert sorted(status for status, *_ in found.values()) == ["complete", "complete", "failed", "failed"]
    assert all("cannot be read" in error for status, _, error, _ in found.values() if status == "failed")
    assert found == outcomes(tmp_path / "serial")
    one, other = (comma_separated(table3(Store(tmp_path / name))) for name in ("serial", "jobs"))
    assert one == other
