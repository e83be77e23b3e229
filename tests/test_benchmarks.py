"""The benchmarks: stock tasks on local data, and what is said where that cannot be read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lmms_eval.utils import load_yaml_config

from hired_eval.errors import UserError
from hired_eval.lmms.local_data import DataSource
from hired_eval.lmms.tasks import load_task, round_to_whole_units, task_manager
from hired_eval.paths import config_folder
from hired_eval.records.record import Benchmark
from hired_eval.records.scores import SCORERS
from hired_eval.runs.options import read_task
from tests.data import write_docvqa

CONFIGS = {file.stem: yaml.safe_load(file.read_text()) for file in (config_folder() / "task").glob("*.yaml")}
DOCVQA = Benchmark("docvqa", "docvqa_val", "anls", "mean")


@pytest.mark.parametrize("name", CONFIGS)
def test_each_benchmark_is_a_task_of_lmms_eval_with_its_metric(name: str) -> None:
    benchmark = read_task(CONFIGS[name])
    assert benchmark.name == name
    task = load_yaml_config(
        task_manager(benchmark.lmms_task).task_index[benchmark.lmms_task]["yaml_path"], mode="full"
    )
    assert benchmark.metric in [metric["metric"] for metric in task["metric_list"]]
    assert task["output_type"] == "generate_until"


def test_local_data_is_found_in_the_layouts_of_the_hub(tmp_path: Path) -> None:
    folder = write_docvqa(tmp_path, 4)
    for path in (folder, folder / "DocVQA"):
        task = load_task(DOCVQA, DataSource("hub", path))
        assert len(task.eval_docs) == 4
        assert "submission" not in task.aggregation()
    (tmp_path / "named").mkdir()
    (folder / "DocVQA").rename(tmp_path / "named" / "DocVQA")
    assert len(load_task(DOCVQA, DataSource("hub", tmp_path / "named" / "DocVQA")).eval_docs) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no split validation of lmms-lab-encoder/DocVQA, config DocVQA; found: no parquet files\."),
        ({"test-0.parquet": b""}, r"has no split validation of .*; found: \./ with test\."),
        ({"validation-0.parquet": b""}, r"validation-0\.parquet is damaged \(.*\); copy it again"),
        (
            {"validation-0.parquet": b"PAR1 damaged PAR1"},
            r"validation-0\.parquet is damaged \(.*\); copy it again",
        ),
    ],
)
def test_data_that_cannot_be_read_is_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        load_task(DOCVQA, DataSource("hub", tmp_path))
    assert "\n" not in str(refused.value)


class Documents:
    """Stands in for a task: its documents alone."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.eval_docs_no_media = {
            "category": [category for category, _ in pairs],
            "question_id": [question for _, question in pairs],
        }


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123")), max_size=8), data=st.data())
def test_a_limit_is_the_least_that_cuts_no_pair(pairs: list[tuple[str, str]], data: Any) -> None:
    limit = data.draw(st.integers(1, 10))
    found = round_to_whole_units(Documents(pairs), limit, SCORERS["mme"])  # type: ignore[arg-type]
    uncut = [n for n in range(limit, len(pairs) + 1) if set(pairs[:n]).isdisjoint(pairs[n:])]
    assert found == (uncut[0] if uncut else limit)


@pytest.mark.parametrize(
    ("limit", "numbers", "found"),
    [
        (1, [7, 8, 9, 1_000_007, 11], 4),
        (2, [7, 8, 9, 1_000_007, 2_000_008], 5),
        (2, [7, 1_000_007, 8, 1_000_008], 2),
        (3, [7, 1_000_007, 8, 1_000_008], 4),
        (9, [7, 8], 9),
    ],
)
def test_a_limit_cuts_no_question_off_its_rotations(limit: int, numbers: list[int], found: int) -> None:
    task = SimpleNamespace(eval_docs_no_media={"index": numbers})
    assert round_to_whole_units(task, limit, SCORERS["mmbench"]) == found  # type: ignore[arg-type]
