"""`python -m bench gpu`: every part is measured on the CPU too, and what ends early is written."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu
from bench.gpu_report import (
    CHEAP,
    DEAR,
    DECODING,
    IMAGE,
    METHODS,
    RATES,
    SELECTION,
    SHARED,
    TABLE4,
    Report,
    targets,
)  # fmt: skip
from bench.pages import ask, draw_pages
from bench.pipeline import Utilisation
from hired_eval.errors import UserError

TINY = replace(
    gpu.SMALL, width=120, height=160, pages=(2, 2, 2), shared=1, stock=1, batch_size=2, batches=(1,), steps=1
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What a small run writes, as JSON and as Markdown."""
    out = tmp_path_factory.mktemp("gpu")
    gpu.measure(TINY, Report(out, gpu.describe(TINY)), seconds=600)
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_every_part_is_measured(written: tuple[dict[str, Any], str]) -> None:
    found, page = written
    assert found["failed"] == {}
    tables = found["tables"]
    assert [row["method"] for row in tables[RATES]] == ["llava_hf, batch 1", *METHODS]
    for row in tables[RATES][1:]:
        assert row["whole pipeline"] / row["GPU side alone"] * 100 == pytest.approx(
            row["share of it percent"]
        )
        assert row["whole pipeline"] / tables[RATES][0]["whole pipeline"] == row["times llava hf"]
        assert row["GPU utilisation percent"] is None, "there is no GPU"
    allowed = [row["arithmetic allows"] for row in tables[RATES][1:]]
    assert allowed == sorted(allowed), "fewer tokens, less arithmetic"
    assert [row["questions"] for row in tables[SHARED]] == [4, 4]
    assert {row["method"] for row in tables[SELECTION]} >= {*CHEAP, *DEAR}
    assert [row["method"] for row in tables[TABLE4]] == ["stock", *METHODS]
    assert all(row["milliseconds"] > 0 for row in tables[IMAGE])
    assert [row["same answers"] for row in tables[DECODING]] == [2, 2]
    assert all(f"## {title}" in page for title in tables)
    assert "not measured" in page


def test_targets_are_compared_with_what_was_measured(written: tuple[dict[str, Any], str]) -> None:
    rows = {row["target"]: row for row in written[0]["targets"]}
    assert len(rows) == 15
    assert all(row["reached"] in ("yes", "no") for row in rows.values())
    full = {"method": "Full", "share of it percent": 90.0, "times llava hf": 2.9}
    rows = {row["target"]: row["reached"] for row in targets({RATES: [full]})}
    assert rows["Full: whole pipeline, percent of the GPU side alone"] == "yes"
    assert rows["Full: times llava_hf"] == "no"
    assert rows["HiRED 20 %: times llava_hf"] is None
    slow = [{"batch": b, "method": m, "vision side": s} for b, m, s in ((1, "Full", 9), (16, "Full", 2))]
    stock = [{"batch": b, "method": "stock", "vision side": 2} for b in (1, 16)]
    rows = {row["target"]: row["reached"] for row in targets({TABLE4: [*slow, *stock]})}
    assert rows["vision side at batch 16, Full over stock"] == "yes", "the largest batch counts"


@pytest.mark.parametrize("error", [UserError("no such thing"), torch.OutOfMemoryError("memory ran out\nso")])
def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path: Path, error: Exception) -> None:
    report = Report(tmp_path, {"card": "none", "date": "today"})
    with report.part("first"):
        raise error
    with report.part("second"):
        report.add(IMAGE, part="digest", milliseconds=1.5)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["failed"]) == ["first"]
    assert found["tables"] == {IMAGE: [{"part": "digest", "milliseconds": 1.5}]}
    assert (
        f"- first: {type(error).__name__}: {str(error).splitlines()[0]}\n"
        in (tmp_path / "gpu.md").read_text()
    )


def test_parts_for_which_there_is_no_time_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "Measurement", lambda setting, report: _Measured(report))
    report = Report(tmp_path, {"card": "none", "date": "today"})
    gpu.measure(replace(TINY, device="cuda"), report, seconds=gpu.SECONDS_TO_COMPILE / 2)
    assert list(report.failed) == ["decoding"]
    assert report.failed["decoding"].startswith("left out for lack of time")


def test_what_was_measured_before_ctrl_c_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "Measurement", lambda setting, report: _Measured(report, stopped="shared"))
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--small", "--out", str(tmp_path)])
    assert ended.value.code == 130
    assert f"what was measured so far is in {tmp_path}" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "gpu.json").read_text())["tables"]) == [RATES]


def test_without_a_gpu_the_large_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="python -m bench gpu --small runs the same on the CPU"):
        gpu.main([])


def test_pages_differ_and_questions_on_a_page_share_its_file() -> None:
    pages = draw_pages(18, 60, 80, threads=2)
    assert len(set(pages)) == 18, "pages of one design too"
    work = ask(pages[:2], 4, new_tokens=3)
    shown = [r.args[2](work.documents["pages"]["test"][r.args[3]])[0] for r in work.requests]
    assert [picture.size for picture in shown] == [(60, 80)] * 8
    assert [shown[0].tobytes() == picture.tobytes() for picture in shown] == [True] * 4 + [False] * 4


def test_utilisation_is_the_mean_of_what_nvidia_smi_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    said = tmp_path / "said"
    tool.write_text(f"#!/bin/sh\nprintf '20\\n[N/A]\\n40\\n'\n: > {said}\nexec /bin/sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("GPU", (), {"uuid": "1"}))
    with Utilisation(torch.device("cuda")) as used:
        while not said.exists():
            time.sleep(0.01)
    assert used.percent == 30
    with Utilisation(torch.device("cpu")) as nothing:
        pass
    assert nothing.percent is None


class _Measured:
    """Parts that measure nothing, of which one may be stopped."""

    def __init__(self, report: Report, stopped: str = "") -> None:
        self.report, self.stopped = report, stopped

    def method(self, label: str) -> None:
        self.report.add(RATES, method=label, whole_pipeline=1.0)

    def __getattr__(self, name: str) -> Any:
        def part() -> None:
            if name == self.stopped:
                raise KeyboardInterrupt

        # one function a part, as methods compare equal
        return self.__dict__.setdefault(name, part)
