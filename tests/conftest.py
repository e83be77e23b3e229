"""Fixtures that several test files share."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from tests import tiny
from tests.data import write_docvqa


@pytest.fixture(scope="session", autouse=True)
def _own_data_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `datasets` makes of the tests' parquet files stays out of the user's cache."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def llava_next() -> tuple[Any, Any]:
    return tiny.llava_next()


@pytest.fixture(scope="session")
def llava() -> tuple[Any, Any]:
    return tiny.llava()


@pytest.fixture(scope="session")
def llava_onevision() -> tuple[Any, Any]:
    return tiny.llava_onevision()


@pytest.fixture(scope="session")
def internvl() -> tuple[Any, Any]:
    return tiny.internvl()


@pytest.fixture(scope="session")
def qwen2_5_vl() -> tuple[Any, Any]:
    return tiny.qwen2_5_vl()


@pytest.fixture(scope="session")
def qwen3_vl() -> tuple[Any, Any]:
    return tiny.qwen3_vl()


@pytest.fixture(scope="session")
def tiny_checkpoint(llava_next: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random LLaVA-Next and its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in llava_next:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def docvqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents of DocVQA's schema, for data.path."""
    return write_docvqa(tmp_path_factory.mktemp("data"), 12)


@pytest.fixture(scope="session")
def tiny_run(tiny_checkpoint: Path, docvqa_folder: Path) -> list[str]:
    """Options of a run of the tiny model on twelve documents, in under a second."""
    return [f"model.path={tiny_checkpoint}", f"data.path={docvqa_folder}"]
