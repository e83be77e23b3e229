"""Records on disk: whole or not there, one process at a time, damage named."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hired_eval.errors import UserError
from hired_eval.records.folder import FORMAT, RunFolder, read_record, replacing
from hired_eval.records.record import Score, Timings
from hired_eval.records.store import Store
from tests.reporting.synthetic import METHODS, SPEED, identity, unfinished
from tests.spine import held_elsewhere

SAMPLES = pd.DataFrame({"doc_id": range(2000), "prediction": [f"answer {i}" for i in range(2000)]})
COMPLETE = replace(
    unfinished(METHODS["full"], "docvqa", "mini", "a-run", identity()),
    status="complete",
    finished="2026-01-01",
    score=Score(1.0, 0.5, 1.5, 20, 10, 0.5, 1.5),
    efficiency=SPEED,
    timings=Timings(machine="synthetic", out_of_memory=[{"batch_size": 8, "retried_with": 4}]),
)


@contextmanager
def full_disk(at: int) -> Iterator[None]:
    """No file can grow beyond `at` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    assert folder.record() is None
    folder.write(COMPLETE, SAMPLES)
    record = folder.record()
    assert record == COMPLETE
    pd.testing.assert_frame_equal(pd.read_parquet(folder.path / "samples.parquet"), SAMPLES)
    assert sorted(file.name for file in folder.path.iterdir()) == ["record.json", "samples.parquet"]


def test_a_failed_run_is_no_record_to_reuse(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.write(replace(COMPLETE, status="failed"), SAMPLES)
    assert folder.record() is None
    record = read_record(folder.path)
    assert record is not None
    assert record.status == "failed"


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_leaves_the_earlier_record(tmp_path: Path, room: int) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.write(COMPLETE, SAMPLES)
    before = {file.name: file.read_bytes() for file in folder.path.iterdir()}
    with (
        full_disk(room),
        pytest.raises(UserError, match=r"cannot write .*free space or choose another folder"),
    ):
        folder.write(COMPLETE, SAMPLES)
    assert {file.name: file.read_bytes() for file in folder.path.iterdir()} == before


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def replace_half_way() -> None:
        with replacing(file) as temporary:
            temporary.write_text("ne")
            assert file.read_text() == "old"
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        replace_half_way()
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"status": "complete"}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.write(COMPLETE, SAMPLES)
    (folder.path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match=r"record\.json is .*delete its folder or set rerun=true"):
        folder.record()


@pytest.mark.parametrize(("change", "said"), [
    ({"benchmark": None}, "its benchmark is None"), ({"score": 1.0}, r"its score is 1\.0"),
    ({"samples": True}, "its samples is True"), ({"timings": {"machine": 3}}, r"its timings\.machine is 3"),
    ({"tokens": {"kept": {"mean": 2.5}}}, r"it lacks tokens\.kept\.max"),
    ({"method": {"budget": 0.2}}, r"its method\.target is None"), ("config", "it lacks config"),
    ("status", "it lacks status"),
])  # fmt: skip
def test_a_record_without_a_part_is_named_with_it(tmp_path: Path, change: Any, said: str) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.write(COMPLETE, SAMPLES)
    file = folder.path / "record.json"
    content = json.loads(file.read_text())
    if isinstance(change, str):
        del content[change]
    else:
        content |= change
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"record\.json is not a record of format 2: {said}; delete its"):
        folder.record()


def test_what_a_record_says_beside_is_left_out_and_a_label_is_made_of_the_class(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.write(replace(COMPLETE, method_label="All of them"), SAMPLES)
    file = folder.path / "record.json"
    content = json.loads(file.read_text())
    assert content.keys() == {"format", *asdict(COMPLETE)}
    assert content["method"] == {"_target_": COMPLETE.method.target, **COMPLETE.method.options}
    record = folder.record()
    assert record is not None
    assert record.method_label == "All of them"
    del content["method_label"]
    file.write_text(json.dumps(content | {"of_a_later_version": 1}))
    assert folder.record() == COMPLETE


def written_by_an_earlier_version(runs: Path, name: str) -> Path:
    folder = RunFolder(runs, name)
    folder.write(replace(COMPLETE, run=name), SAMPLES)
    file = folder.path / "record.json"
    file.write_text(file.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT - 1}'))
    (folder.path / "replies.jsonl").write_text("answers of an earlier version\n")
    return folder.path


def test_a_run_that_meets_a_record_of_an_earlier_version_starts_anew(tmp_path: Path) -> None:
    place = written_by_an_earlier_version(tmp_path, "a-run")
    folder = RunFolder(tmp_path, "a-run")
    assert folder.record() is None
    assert not folder.replies()
    assert list(place.iterdir()) == []
    folder.write(COMPLETE, SAMPLES)
    assert folder.record() is not None


@pytest.mark.parametrize(("count", "said"), [(1, "1 record of an "), (3, "3 records of an ")])
def test_all_records_of_an_earlier_version_are_one_line(tmp_path: Path, count: int, said: str) -> None:
    for i in range(count):
        written_by_an_earlier_version(tmp_path, f"old-{i}")
    RunFolder(tmp_path, "new").write(replace(COMPLETE, run="new"), SAMPLES)
    store = Store(tmp_path)
    assert [r.run for r in store.records] == ["new"]
    (line,) = store.damaged
    assert line.startswith(said)
    assert "run again to renew" in line


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_samples_are_named(tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.write(COMPLETE, SAMPLES)
    file = folder.path / "samples.parquet"
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[50] ^= 1
        file.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(UserError, match=r"samples\.parquet is damaged; delete its folder or set rerun=true"):
        folder.record()
    folder.clear()
    assert folder.record() is None


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    with held_elsewhere(tmp_path, "a-run"):
        with pytest.raises(UserError, match="another process is working on this run"), folder.locked():
            pytest.fail("held twice")
        with RunFolder(tmp_path, "another").locked():
            pass
    with folder.locked():
        pass


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.write(COMPLETE, SAMPLES)
    (folder.path / ".record.json.4711").write_text("{")
    (folder.path / ".samples.parquet.4711").write_text("PAR1")
    with folder.locked():
        assert sorted(file.name for file in folder.path.iterdir()) == ["record.json", "samples.parquet"]


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    with pytest.raises(ValueError, match="JSON"):
        folder.write(replace(COMPLETE, tokens_kept=float("nan")), SAMPLES)
    assert folder.record() is None
