"""Synthetic runs that several test files report on."""

from pathlib import Path

import pytest

from hired_eval.reporting.store import Store
from tests.reporting import synthetic


@pytest.fixture(scope="session")
def table3_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All rows of Table 3 on all benchmarks, and one run beside them that failed."""
    runs = tmp_path_factory.mktemp("table3")
    synthetic.write_table3(runs, documents=40)
    synthetic.write_failure(runs, "random", "docvqa", "disk full & <b>gone</b>")
    return Store(runs)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
