"""Several processes on one run give what one process gives."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from hired_eval.records.folder import RunFolder
from hired_eval.records.replies import ImageTokens, Reply, ReplyFile
from tests.spine import run_quietly


def test_two_processes_give_what_one_gives(
    tiny_checkpoint: Path, docvqa_folder: Path, tmp_path: Path
) -> None:
    # an odd number of documents, so that one process has fewer and lmms-eval pads its requests
    options = [f"model.path={tiny_checkpoint}", f"data.path={docvqa_folder}", "limit=7", "batch_size=2"]
    options += ["order=dataset", "method=hired", "budget=0.5", "device=cpu"]
    one = run_quietly(*options, f"runs_dir={tmp_path / 'one'}")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # accelerate launch runs torch's launcher where there are GPUs; on a CPU it starts one process alone
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launch += [f"--master_port={port}", "--module"]
    command = [*launch, "hired_eval", *options, f"runs_dir={tmp_path / 'two'}"]
    settings = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=settings)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("record: ") == 1
    (folder,) = [path.parent for path in (tmp_path / "two").glob("*/record.json")]
    two = json.loads((folder / "record.json").read_text())
    assert [path.name for path in sorted(folder.iterdir())] == ["record.json", "samples.parquet"]
    assert two["timings"]["processes"] == 2
    assert two["timings"]["questions_timed"] == 7
    assert two["run"] == one.record.run
    for fact in ("score", "tokens", "samples", "failed_samples", "partial", "status"):
        assert two[fact] == asdict(one.record)[fact], fact
    assert two["lmms_eval_metrics"] == pytest.approx(one.record.lmms_eval_metrics)
    samples = pd.read_parquet(folder / "samples.parquet")
    assert list(samples["doc_id"]) == list(range(7))
    pd.testing.assert_frame_equal(samples, pd.read_parquet(one.folder / "samples.parquet"))


def test_replies_of_all_processes_are_known_to_the_next_attempt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "run")
    for rank in (0, 1):
        reply = Reply(text=f"by {rank}", counts=(ImageTokens(1, 2, 3),))
        ReplyFile(folder, rank).add({("task", rank, 0): reply})
    with (folder.path / "replies-1.jsonl").open("a") as cut:
        cut.write('[["task", 2')
    for rank in (0, 1, 2):
        known = ReplyFile(folder, rank).known
        assert {key: reply.text for key, reply in known.items()} == {
            ("task", 0, 0, 0): "by 0",
            ("task", 1, 0, 0): "by 1",
        }
    assert (folder.path / "replies-1.jsonl").read_text().endswith("\n")
    folder.clear()
    assert list(folder.path.iterdir()) == []
