"""Faults of what a run stands on: disk, records, checkpoint, cache, hub: one clear line, nothing damaged."""

import ctypes
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from hired_eval.records.folder import RunFolder, read_record
from tests.faults.hub import Hub, local_hub
from tests.spine import command_line
from tests.test_records import full_disk

ErrorLine = Callable[..., str]
Start = Callable[..., int]


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """lmms-eval collects garbage after every run: seconds, with all that the tests before have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def start(tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs the command line on the tests' model and data; what is named here goes before those."""

    def started(*options: str) -> int:
        named = {option.split("=")[0] for option in options}
        base = [*tiny_run, f"runs_dir={tmp_path / 'runs'}", "batch_size=2"]
        return command_line(monkeypatch, *[o for o in base if o.split("=")[0] not in named], *options)

    return started


@pytest.fixture
def error_line(start: Start, capsys: pytest.CaptureFixture[str]) -> ErrorLine:
    """The one line in which a start ends that must fail."""

    def line(*options: str) -> str:
        capsys.readouterr()
        assert start(*options) == 1
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        errors = [text for text in printed.splitlines() if text.startswith("error: ")]
        assert errors == printed.splitlines()[-1:]
        return errors[0]

    return line


def only_run(runs: Path) -> Path:
    (folder,) = (path for path in runs.iterdir() if path.name != ".locks")
    return folder


def samples(runs: Path) -> pd.DataFrame:
    return pd.read_parquet(only_run(runs) / "samples.parquet")


@pytest.fixture
def undisturbed(start: Start, tmp_path: Path) -> pd.DataFrame:
    """The samples of a run that nothing disturbed."""
    assert start(f"runs_dir={tmp_path / 'undisturbed'}") == 0
    return samples(tmp_path / "undisturbed")


@pytest.mark.parametrize("room", [0, 500, 4000])
def test_a_full_disk_keeps_what_was_answered(
    start: Start, error_line: ErrorLine, undisturbed: pd.DataFrame, tmp_path: Path, room: int
) -> None:
    with full_disk(room):
        line = error_line()
    assert line.startswith(f"error: cannot write {tmp_path / 'runs'}/docvqa-")
    assert "free space or choose another folder (runs_dir=FOLDER, or --out), then start again" in line
    left = [path for path in (tmp_path / "runs").glob("docvqa-*/*") if not path.name.startswith("replies")]
    for file in left:
        assert file.name in ("record.json", "samples.parquet"), "no half file is left"
    for folder in (tmp_path / "runs").glob("docvqa-*"):
        record = read_record(folder)
        assert record is None or record.status == "failed"
    assert start() == 0
    pd.testing.assert_frame_equal(samples(tmp_path / "runs"), undisturbed)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inherited", ctypes.c_uint32),
    )


@contextmanager
def permissions_hold_for_root() -> Iterator[None]:
    """Without CAP_DAC_OVERRIDE, which lets root write where nobody may."""
    if os.geteuid() != 0:
        yield
        return
    libc, version, override = ctypes.CDLL(None), 0x20080522, 1 << 1
    header, now = _CapabilityHeader(version, 0), (_Capabilities * 2)()
    assert libc.capget(ctypes.byref(header), ctypes.byref(now)) == 0
    had = now[0].effective
    now[0].effective &= ~override
    assert libc.capset(ctypes.byref(header), ctypes.byref(now)) == 0
    try:
        yield
    finally:
        now[0].effective = had
        assert libc.capset(ctypes.byref(header), ctypes.byref(now)) == 0


def test_a_read_only_folder_of_results_is_left_as_it_is(
    start: Start, error_line: ErrorLine, tmp_path: Path
) -> None:
    assert start("limit=2") == 0
    runs = tmp_path / "runs"
    before = {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()}
    folders = [runs, *(path for path in runs.iterdir() if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with permissions_hold_for_root():
            line = error_line()
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert line.startswith(f"error: cannot write {runs}/docvqa-")
    assert "Permission denied" in line
    assert {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("damage", ["cut", "changed"])
@pytest.mark.parametrize("name", ["record.json", "samples.parquet"])
def test_a_damaged_record_is_named_and_made_again_when_asked(
    start: Start, error_line: ErrorLine, tmp_path: Path, name: str, damage: str
) -> None:
    assert start("limit=2") == 0
    file = only_run(tmp_path / "runs") / name
    content = file.read_bytes()
    file.write_bytes(content[:-9] if damage == "cut" else b"\x00" + content[1:])
    damaged = file.read_bytes()
    line = error_line("limit=2")
    assert str(file) in line
    assert "delete its folder or set rerun=true to run it again" in line
    assert file.read_bytes() == damaged, "the evidence stays"
    assert start("limit=2", "rerun=true") == 0
    assert RunFolder(tmp_path / "runs", file.parent.name).record() is not None


@pytest.mark.parametrize("damage", ["cut", "header", "config"])
def test_a_damaged_checkpoint_is_one_line(
    error_line: ErrorLine, tiny_checkpoint: Path, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    file = folder / ("config.json" if damage == "config" else "model.safetensors")
    content = file.read_bytes()
    file.write_bytes(b"\xff" * 16 + content[16:] if damage == "header" else content[: len(content) // 2])
    line = error_line(f"model.path={folder}")
    assert line.startswith(f"error: {folder} is not a checkpoint that can be loaded: ")
    damaged = "config.json cannot be read (" if damage == "config" else "its weights are damaged ("
    assert damaged in line
    assert line.endswith("copy it again" if damage == "config" else "copy them again")


@pytest.mark.parametrize("gone_at", ["model.safetensors", "processor_config.json"])
def test_a_hub_that_goes_away_while_a_checkpoint_is_fetched(
    start: Start,
    error_line: ErrorLine,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gone_at: str,
) -> None:
    options = ["model.path=null", "model.hub_id=nobody/tiny", "limit=2"]
    hub = Hub(tiny_checkpoint, gone_at)
    with local_hub(monkeypatch, hub, tmp_path / "hub"):
        line = error_line(*options)
        assert hub.gone
        assert line.startswith("error: could not fetch nobody/tiny from the hub (")
        assert line.endswith(
            "model.path=FOLDER (in lmms-eval pretrained=FOLDER) and data.path=FOLDER, or use the bundled "
            "ones with model=mini and data=bundled"
        )
        hub.gone, hub.gone_at = False, None
        assert start(*options) == 0, "the next start fetches what was missing"
    record = read_record(only_run(tmp_path / "runs"))
    assert record is not None
    assert record.status == "complete"


def test_a_hub_that_goes_away_while_data_are_fetched(
    error_line: ErrorLine, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path, gone_at=None, gone=True)
    with local_hub(monkeypatch, hub, tmp_path / "hub"):
        line = error_line("data.path=null", "data=hub")
    assert hub.asked
    assert line.startswith(
        "error: could not fetch the data set lmms-lab-encoder/DocVQA of docvqa from the hub ("
    )
    assert line.endswith("or use the bundled ones with data=bundled and model=mini")
