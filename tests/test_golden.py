"""The bundled model still answers as the committed reference says."""

from pathlib import Path

import pytest

from hired_eval.regression.command import SAME
from tests.spine import command_line


@pytest.mark.parametrize("benchmark", ["docvqa", "pope", "scienceqa"])
def test_the_bundled_model_answers_as_before(
    benchmark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = ["--methods", "full,hired,prumerge_plus", "--benchmarks", benchmark, "--samples", "16"]
    status = command_line(monkeypatch, "regress", "--out", str(tmp_path), *part)
    out, err = capsys.readouterr()
    assert status == SAME, f"{out}\n{err}"
    assert "3 runs, 48 samples: 0 with other token counts" in out
