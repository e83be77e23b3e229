"""Synthetic runs that several test files report on."""

from pathlib import Path

import pytest

from hired_eval.records.store import Store
from hired_eval.reporting.write import write
from tests.reporting import synthetic


@pytest.fixture(scope="session")
def table3_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All rows of Table 3 on all benchmarks, and one run beside them that failed."""
    runs = tmp_path_factory.mktemp("table3")
    synthetic.write_table3(runs, documents=40)
    synthetic.write_failure(runs, "random", "docvqa", "disk full & <b>gone</b>")
    return Store(runs)


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All reports of a folder of runs with hostile text in it."""
    runs, out = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("out")
    for task in ("docvqa", "textvqa"):
        for (method, budget), (accuracy, share) in synthetic.ACCURACIES.items():
            synthetic.write_run(runs, method, task, accuracy=accuracy, share=share, budget=budget)
    synthetic.write_figure6(runs)
    synthetic.write_attention(runs)
    synthetic.write_gallery(runs, question=synthetic.HOSTILE, prediction=synthetic.HOSTILE)
    synthetic.write_failure(runs, "random", "docvqa", synthetic.HOSTILE)
    assert list(write(Store(runs), ["all"], out))
    return out


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
