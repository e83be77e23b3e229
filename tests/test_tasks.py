"""Tasks of lmms-eval beyond the eight: each is scored as lmms-eval scores it, or refused in one line."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingLlava
from hired_eval.records.store import Store
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import Outcome, measure
from hired_eval.runs.options import read_config
from tests import tiny
from tests.spine import config, run_quietly

LETTERS = "ABCD"


def picture(i: int) -> Any:
    return tiny.picture(40 + 3 * i, 50, seed=i)


def choices(i: int) -> dict[str, Any]:
    """A question with four options; the answers to the first two thirds are A."""
    return {
        "index": i,
        "question": f"which is it? {i}",
        "answer": LETTERS[0 if i < 4 else 1],
        "image": picture(i),
    }


def mmstar(i: int) -> dict[str, Any]:
    return choices(i) | {"category": "math", "l2_category": "geometry" if i else "numbers"}


def mmmu(i: int) -> dict[str, Any]:
    subject = "Art" if i else "Music"
    return {
        "id": f"validation_{subject}_{i}",
        "question": "What is in <image 1>?",
        "options": "['one', 'two']",
        "answer": LETTERS[i % 2],
        "question_type": "multiple-choice",
        "image_1": picture(i),
    }


def mmbench(i: int) -> dict[str, Any]:
    texts = {"A": "one", "B": "two", "C": "three", "D": "four", "hint": "nan", "source": "x", "split": "dev"}
    return choices(i) | texts | {"category": "a" if i else "b", "L2-category": "c"}


def seedbench(i: int) -> dict[str, Any]:
    asked = {f"choice_{letter}": letter for letter in "abcd"}
    pictures = [picture(i), picture(i + 9)][: 1 + i % 2]
    return choices(i) | asked | {"data_type": "image", "question_id": str(i), "image": pictures}


def hallusion(i: int) -> dict[str, Any]:
    return choices(i) | {"category": "VD", "gt_answer": "1", "gt_answer_details": "yes"}


def mathvista(i: int) -> dict[str, Any]:
    return {
        **{"pid": str(i), "question": "how many?", "choices": ["1", "2"], "answer": "1", "query": "q"},
        **{"question_type": "multi_choice", "answer_type": "text", "precision": "1.0", "unit": ""},
        "decoded_image": picture(i),
    }


def ai2d(i: int) -> dict[str, Any]:
    return choices(i) | {"options": ["one", "two", "three"], "answer": str(i % 3)}


def vqa(i: int) -> dict[str, Any]:
    return {"question": "what is it?", "question_id": str(i), "answers": ["A" if i % 2 else "B"] * 4} | {
        **{"answer": "A", "questionId": str(i), "category": "x"},
        "image": picture(i),
    }


def multidocvqa(i: int) -> dict[str, Any]:
    pages = {f"image_{page}": picture(page) if page <= 1 + i % 2 else None for page in range(1, 21)}
    return {"questionId": str(i), "question": "what?", "answers": f"['{LETTERS[i % 2]}']"} | pages


def blink(i: int) -> dict[str, Any]:
    texts = {"prompt": "which?", "question": "which?", "answer": f"({LETTERS[i % 2]})", "idx": str(i)}
    pictures = {"image_1": picture(i), "image_2": picture(i + 9) if i % 2 else None}
    return texts | pictures | {"choices": ["one", "two"], "sub_task": "Counting"}


def muirbench(i: int) -> dict[str, Any]:
    texts = {"idx": str(i), "task": "a" if i else "b", "image_relation": "x", "image_type": "y"}
    pictures = [picture(i), picture(i + 9)]
    return choices(i) | texts | {"options": ["one", "two"], "image_list": pictures}


def caption(i: int) -> dict[str, Any]:
    return {"img_id": str(i), "caption": [f"a picture {i}"], "answer": ["x"], "image": picture(i)}


def refcoco(i: int) -> dict[str, Any]:
    asked = {"question_id": str(i), "question": "where?", "answer": ["the red one", "it"], "file_name": "x"}
    return asked | {"bbox": [1.0, 2.0, 20.0, 30.0], "image": picture(i)}


@dataclass(frozen=True)
class Case:
    """A task of lmms-eval.

    Attributes:
        data: last part of its data set's id.
        split: that is asked.
        document: the i-th, in its schema.
        metric: that is scored.
        refused: what the error says; '' where the task is scored.
        name: its config in the data set.
        scale: factor to the printed score.
        scoring: how documents make it, with the options of the task's config that go with it.
    """

    data: str
    split: str
    document: Callable[[int], dict[str, Any]]
    metric: str = "exact_match"
    refused: str = ""
    name: str = ""
    scale: int = 100
    scoring: tuple[str, ...] = ("scoring=mean",)


JUDGE = "a judge behind the network"
BY_CATEGORY = ("scoring=category_mean", "+category=l2_category")
CASES = {
    "mmstar": Case("MMStar", "val", mmstar, "average", scoring=BY_CATEGORY),
    "mmmu_val": Case("MMMU", "validation", mmmu, "mmmu_acc"),
    "mmbench_en_dev": Case("MMBench", "dev", mmbench, "gpt_eval_score", JUDGE, "en"),
    "mmbench_en_dev_static": Case("MMBench", "dev", mmbench, "gpt_eval_score", "", "en", 1),
    "seedbench": Case("SEED-Bench", "test", seedbench, "seed_all"),
    "seedbench_ppl": Case("SEED-Bench", "test", seedbench, "acc"),
    "hallusion_bench_image": Case("HallusionBench", "image", hallusion, "aAcc", JUDGE),
    "mathvista_testmini_format": Case(
        "MathVista", "testmini", mathvista, "llm_as_judge_eval", "needs the package"
    ),
    "ai2d": Case("ai2d", "test", ai2d),
    "infovqa_val": Case("DocVQA", "validation", vqa, "anls", "", "InfographicVQA"),
    "vizwiz_vqa_val": Case("VizWiz-VQA", "val", vqa),
    "ok_vqa_val2014": Case("OK-VQA", "val2014", vqa),
    "realworldqa": Case("RealWorldQA", "test", choices),
    "multidocvqa_val": Case("MP-DocVQA", "val", multidocvqa, "anls"),
    "blink_counting": Case("BLINK", "val", blink, "blink_acc", "", "Counting"),
    "muirbench": Case("MUIRBENCH", "test", muirbench, "muirbench_score_overall"),
    "flickr30k_test": Case("flickr30k", "test", caption, "flickr_CIDEr", "gives no number"),
    "refcoco_bbox_rec_test": Case("RefCOCO", "test", refcoco, "refcoco_IoU"),
    "stvqa": Case("ST-VQA", "test", vqa, "submission", "is a file for a test server"),
    "tempcompass_multi_choice": Case("TempCompass", "test", vqa, "avg_accuracy", "is about videos"),
    "mmvet": Case("MMVet", "test", vqa, "gpt_eval_score", "a judge behind the network (openai)"),
    "llava_in_the_wild": Case("llava-bench-in-the-wild", "train", vqa, "gpt_eval_llava_all", JUDGE),
}


def feature(value: Any) -> Any:
    if isinstance(value, list):
        return datasets.List(feature(value[0]))
    if hasattr(value, "convert"):
        return datasets.Image()
    return datasets.Value({int: "int64", float: "float64"}.get(type(value), "string"))


def write(folder: Path, case: Case, documents: int = 6) -> None:
    """The task's documents, laid out as on the hub."""
    rows = [case.document(i) for i in range(documents)]
    known = {key: value for row in rows for key, value in row.items() if value is not None}
    features = datasets.Features({key: feature(known.get(key, picture(0))) for key in rows[0]})
    target = folder / case.data / case.name
    target.mkdir(parents=True)
    rows_set = datasets.Dataset.from_list(rows, features=features)
    rows_set.to_parquet(target / f"{case.split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's answers are short, and a letter, so that some are right."""
    stock = DroppingLlava.answer

    def answer(self: DroppingLlava, batch: Any, generation: dict[str, Any], seeds: Any) -> Any:
        return [replace(a, text="A") for a in stock(self, batch, generation | {"max_new_tokens": 2}, seeds)]

    monkeypatch.setattr(DroppingLlava, "answer", answer)


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("task", CASES)
def test_a_task_is_scored_as_lmms_eval_does_or_refused(
    task: str, models: Models, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[task]
    write(tmp_path / "data", case)
    monkeypatch.chdir(tmp_path)
    options = [f"model.path={tiny_checkpoint}", f"data.path={tmp_path / 'data'}", "runs_dir=runs"]
    of_task = (f"name={task}", f"lmms_task={task}", f"metric={case.metric}", f"scale={case.scale}")
    options += [re.sub(r"^(\+?)", r"\1task.", option) for option in (*of_task, *case.scoring)]
    if case.refused:
        with pytest.raises(UserError, match=re.escape(case.refused)) as refused:
            run_quietly(*options, models=models)
        assert "\n" not in str(refused.value)
        assert not list(tmp_path.glob("runs/*/replies*"))
        return
    record = run_quietly(*options, models=models).record
    (theirs,) = (v for k, v in record.lmms_eval_metrics.items() if k.startswith(f"{case.metric},"))
    assert record.score.value == pytest.approx(theirs * case.scale)
    # a letter is no box
    assert task.startswith("refcoco") or 0 < record.score.value < 100
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}, "no file for a leader board"


@pytest.mark.usefixtures("letters")
def test_the_mean_of_mmstars_categories_is_lmms_evals_own(
    models: Models, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Of six documents four are right, all of the five of one category but one; the other has one alone."""
    case = CASES["mmstar"]
    write(tmp_path / "data", case)
    options = [f"model.path={tiny_checkpoint}", f"data.path={tmp_path / 'data'}", f"runs_dir={tmp_path}/runs"]
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
    task = yaml.safe_load(re.search(r"^# my_configs/task/mmstar.yaml\n(.*?)^```", page, re.M | re.S)[1])
    asked = {**config(*options), "task": task}

    def answered(**changed: Any) -> Outcome:
        return measure(read_config(asked | changed), lambda line: None, models)

    with pytest.raises(UserError) as refused:
        answered(task={**task, "scoring": "mean", "category": None})
    assert str(refused.value).endswith(
        "; write scoring: category_mean and category: l2_category in the task's config"
    )
    whole = answered()
    # numbers: the first of one; geometry: three of five
    expected = 100 * (1 / 1 + 3 / 5) / 2
    assert whole.record["lmms_eval_metrics"]["average,none"] == pytest.approx(expected / 100)
    store = Store(tmp_path / "runs")
    found = store.score([whole.record])
    assert (found.value, found.n) == (pytest.approx(expected), 6)
    assert store.samples(whole.record)["category"].tolist() == ["numbers", *["geometry"] * 5]
    part = answered(limit=2)
    assert (part.record.partial, store.score([part.record]).value) == (True, 100)
    difference = store.difference([(part.record, whole.record)])
    assert difference is not None
    assert (difference.value, difference.n) == (0, 2)
