"""Documents of another schema than the task's are refused before a question is answered."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as Picture
from PIL import Image

from hired_eval.errors import UserError
from hired_eval.lmms.documents import Documents
from hired_eval.lmms.local_data import DataSource
from hired_eval.lmms.tasks import load_task
from hired_eval.records.record import Benchmark
from tests import tiny
from tests.data import write_docvqa, write_mme, write_ocrbench
from tests.spine import run_quietly

DOCVQA = Benchmark("docvqa", "docvqa_val", "anls", "mean")
TEXTVQA = Benchmark("textvqa", "textvqa_val", "exact_match", "mean")
INFOVQA = Benchmark("infovqa", "infovqa_val", "anls", "mean")
VQAV2 = Benchmark("vqav2", "vqav2_val", "exact_match", "mean")
SCIENCEQA = Benchmark("scienceqa", "scienceqa_img", "exact_match", "mean")
MME = Benchmark("mme", "mme", "mme_perception_score", "mme")
OCRBENCH = Benchmark("ocrbench", "ocrbench", "ocrbench_accuracy", "ocrbench")


def refusal(benchmark: Benchmark, data: DataSource) -> str:
    with pytest.raises(UserError) as refused:
        load_task(benchmark, data)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    tiny.picture(40 + number, 50, seed=number).save(stream, "PNG")
    return stream.getvalue()


def frame(**columns: list[Any]) -> pd.DataFrame:
    rows = {
        "questionId": ["0", "1", "2"],
        "question": ["what is a?", "what is b?", "what is c?"],
        "image": [{"bytes": encoded(i), "path": None} for i in range(3)],
        "answers": [np.array(["a", "b"])] * 3,
    }
    return pd.DataFrame({k: v for k, v in (rows | columns).items() if v})


@pytest.mark.parametrize(
    ("columns", "index"),
    [
        ({}, False),
        ({}, True),
        ({"image": [encoded(i) for i in range(3)]}, False),
        ({"image": [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(3)]}, False),
        ({"extra": [b"no picture"] * 3}, False),
    ],
)
def test_files_that_pandas_wrote_are_read_as_the_hub_s(
    tmp_path: Path, columns: dict[str, list[Any]], index: bool
) -> None:
    table = frame(**columns)
    table.index = table.index + 7
    table.to_parquet(tmp_path / "validation-0.parquet", index=index)
    documents = Documents(load_task(DOCVQA, DataSource("hub", tmp_path)).eval_docs)
    for number in range(3):
        row = documents.read(number, {})
        assert row["image"].tobytes() == tiny.picture(40 + number, 50, seed=number).tobytes()
        assert row["answers"] == ["a", "b"]
        assert ("__index_level_0__" in row) == index


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"answers": []}, "column 'answers' is missing; columns found: questionId, question, image"),
        ({"question": []}, "column 'question' is missing"),
        ({"image": []}, "column 'image' is missing"),
        ({"image": [b"no picture"] * 3}, "column 'image' holds values of type bytes, without 'convert'"),
        ({"image": ["a.png"] * 3}, "column 'image' holds values of type str, without 'convert'"),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], said: str
) -> None:
    frame(**columns).to_parquet(tmp_path / "validation-0.parquet")
    for benchmark in (DOCVQA, INFOVQA):
        message = refusal(benchmark, DataSource("hub", tmp_path))
        assert (
            f"do not fit task {benchmark.lmms_task}, which reads lmms-lab-encoder/DocVQA, config" in message
        )
        assert said in message


def textvqa(folder: Path, **columns: list[Any]) -> Path:
    table = frame(questionId=[], question_id=[0, 1, 2], **columns)
    table.to_parquet(folder / "validation-0.parquet")
    return folder


def test_columns_that_only_scoring_reads_are_asked_for(tmp_path: Path) -> None:
    """TextVQA's scorer gives 0 where there are no answers, and takes a text for a list of letters."""
    load_task(TEXTVQA, DataSource("hub", textvqa(tmp_path)))
    for columns, said in (
        ({"answers": []}, "column 'answers' is missing"),
        ({"answers": ["a", "b", "c"]}, "column 'answers' holds single values, not lists"),
    ):
        assert said in refusal(TEXTVQA, DataSource("hub", textvqa(tmp_path, **columns)))


@pytest.mark.parametrize("benchmark", [TEXTVQA, VQAV2])
def test_another_data_set_s_documents_are_refused(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = write_docvqa(tmp_path, 4) / "DocVQA"
    folder = folder.rename(tmp_path / "questions")
    message = refusal(benchmark, DataSource("hub", folder))
    assert "column 'question_id' is missing" in message


def test_documents_that_the_scorers_take_are_taken(tmp_path: Path) -> None:
    load_task(MME, DataSource("hub", write_mme(tmp_path / "mme", 4)))
    load_task(OCRBENCH, DataSource("hub", write_ocrbench(tmp_path / "ocrbench", right=3, wrong=1)))


def test_one_document_without_its_picture_is_a_sample_that_fails(tmp_path: Path) -> None:
    pictures = [tiny.picture(30, 40, seed=1), None, tiny.picture(30, 40, seed=2)]
    folder = write_docvqa(tmp_path, 6, pictures)
    assert len(load_task(DOCVQA, DataSource("hub", folder)).eval_docs) == 6


def test_the_model_is_not_loaded_for_documents_that_do_not_fit(tmp_path: Path) -> None:
    frame(answers=[]).to_parquet(tmp_path / "validation-0.parquet")
    for measure in ("accuracy", "gallery", "cls_attention"):
        with pytest.raises(UserError, match="column 'answers' is missing"):
            run_quietly(f"measure={measure}", f"data.path={tmp_path}", f"runs_dir={tmp_path / 'runs'}")


def test_bundled_documents_are_those_of_their_task_alone() -> None:
    other = Benchmark("docvqa", "infovqa_val", "anls", "mean")
    assert "replace split validation of lmms-lab-encoder/DocVQA, config DocVQA, and task" in refusal(
        other, DataSource("bundled")
    )
    other = Benchmark("pope", "pope_adv", "pope_accuracy", "mean")
    assert "reads split adversarial of lmms-lab-encoder/POPE, config Full" in refusal(
        other, DataSource("bundled")
    )


def test_a_file_behind_a_link_that_has_changed_is_read_again(tmp_path: Path) -> None:
    store = write_docvqa(tmp_path / "store", 4) / "DocVQA"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "validation-0.parquet").symlink_to(next(store.glob("*.parquet")))
    for documents in (4, 6):
        write_docvqa(tmp_path / "store", documents)
        assert len(load_task(DOCVQA, DataSource("hub", tmp_path / "mine")).eval_docs) == documents


def test_another_config_of_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hub `datasets` takes the one config that it has where a task names none."""
    cached = SimpleNamespace(eval_docs=SimpleNamespace(config_name="Full"))
    monkeypatch.setattr("hired_eval.lmms.tasks.explain_unreachable", lambda: "HF_HUB_OFFLINE is set")
    monkeypatch.setattr("hired_eval.lmms.tasks._task", lambda *arguments: cached)
    pope = Benchmark("pope", "pope", "pope_accuracy", "mean")
    assert "has only config Full of lmms-lab-encoder/POPE" in refusal(pope, DataSource("hub"))


def test_parts_of_another_type_are_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    frame().to_parquet(tmp_path / "validation-0.parquet")
    frame(answers=["a"] * 3).to_parquet(tmp_path / "validation-1.parquet")
    assert "the data of docvqa cannot be read: Couldn't cast array of type" in refusal(
        DOCVQA, DataSource("hub", tmp_path)
    )


def test_the_features_that_a_file_states_stay(tmp_path: Path) -> None:
    """Bytes that `datasets` itself has written as bytes are no pictures."""
    features = Features({"questionId": Value("string"), "question": Value("string"), "image": Picture()})
    features |= {"answers": List(Value("string")), "thumbnail": Value("binary")}
    rows = [
        {"questionId": "0", "question": "q?", "image": Image.new("RGB", (9, 9)), "answers": ["a"]}
        | {"thumbnail": encoded(0)}
    ]
    Dataset.from_list(rows, features=Features(features)).to_parquet(tmp_path / "validation-0.parquet")
    assert load_task(DOCVQA, DataSource("hub", tmp_path)).eval_docs[0]["thumbnail"] == encoded(0)
