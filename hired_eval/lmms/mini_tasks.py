"""`hired-eval lmms-tasks FOLDER`: the mini benchmarks as tasks of lmms-eval's own command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from hired_eval.lmms.tasks import own_tasks, task_manager
from hired_eval.mini import write_data_files
from hired_eval.mini.benchmarks import SPLITS
from hired_eval.records.folder import explained_disk_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tasks, and print what to type next.

    Raises:
        UserError: the folder cannot be written.
    """
    parser = argparse.ArgumentParser(prog="hired-eval lmms-tasks", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the tasks' files go, for lmms-eval's --include_path")
    folder = parser.parse_args(arguments).folder
    names = write_tasks(folder)
    print(f"written: {folder} ({', '.join(names)}); now, for example:")
    print(
        "lmms-eval --model hired_vlm --model_args pretrained=mini,method=hired,budget=0.2 "
        f"--include_path {folder} --tasks {names[0]} --limit 20"
    )


def write_tasks(folder: Path) -> list[str]:
    """A file for each mini benchmark: lmms-eval's own task on the bundled documents.

    Args:
        folder: made where it is not there.

    Returns:
        The names of the tasks.

    Raises:
        UserError: the folder cannot be written.
    """
    names = []
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for benchmark in SPLITS:
            lmms_task = own_tasks()[benchmark]
            config = {
                "include": task_manager(lmms_task).task_index[lmms_task]["yaml_path"],
                "task": f"mini_{benchmark}",
                "dataset_path": "parquet",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": write_data_files(benchmark)},
            }
            (folder / f"mini_{benchmark}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            names.append(f"mini_{benchmark}")
    return names
