"""What a checkpoint, a cache or a record could bring in or give away."""

import json
import shutil
from pathlib import Path

import pytest

from hired_eval.models.checkpoint import load_checkpoint
from tests.spine import command_line, run_quietly

ENDINGS_WITHOUT_CODE = {".json", ".jsonl", ".parquet", ".safetensors", ".lock", ".yaml", ".npz", ".png"}
PICKLE_PROTOCOL = b"\x80"
REMOTE_CODE = "from pathlib import Path\nPath({marker!r}).touch()\nclass Code: ...\n"


@pytest.fixture
def with_code(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that names code of its own for its config, model and processor."""
    folder = tmp_path / "with_code"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "code.py").write_text(REMOTE_CODE.format(marker=str(tmp_path / "was here")))
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        file = folder / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        classes = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
        content["auto_map"] = dict.fromkeys(classes, "code.Code")
        file.write_text(json.dumps(content))
    return folder


def test_code_in_a_checkpoint_is_not_run(with_code: Path) -> None:
    checkpoint = load_checkpoint(str(with_code), dtype="float32", device="cpu")
    assert type(checkpoint.model).__module__.startswith("transformers.")
    assert not (with_code.parent / "was here").exists()


def test_runs_hold_no_pickle(tiny_run: list[str], tmp_path: Path) -> None:
    for options in (["method=hired"], ["method=prumerge", "batch_size=3"]):
        run_quietly(*tiny_run, f"runs_dir={tmp_path}/runs", *options, "limit=4")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {".json", ".parquet"} <= {file.suffix for file in files} <= ENDINGS_WITHOUT_CODE
    assert not [file for file in files if file.read_bytes().startswith(PICKLE_PROTOCOL)]


def test_a_sweep_leaves_no_home_folder_and_no_token(
    tiny_checkpoint: Path,
    docvqa_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    options = [f"model.path={tiny_checkpoint}", f"data.path={docvqa_folder}", "runs_dir=runs", "limit=2"]
    assert command_line(monkeypatch, "-m", "method=full,random", *options) == 0
    left = {file: file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file()}
    assert any(file.name == "multirun.yaml" for file in left)
    for text in (*left.values(), *capfd.readouterr()):
        assert str(tmp_path) not in text
        assert "hf_secret" not in text
