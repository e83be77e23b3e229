"""Tasks of lmms-eval beyond the eight: each is scored as lmms-eval scores it, or refused in one line."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hired_eval.errors import UserError
from hired_eval.lmms import pictures
from hired_eval.lmms.local_data import DataSource
from hired_eval.lmms.scorers import check_scorer
from hired_eval.lmms.tasks import list_files_read, load_task
from hired_eval.models.answering import DroppingVLM
from hired_eval.records.record import Benchmark, Record
from hired_eval.records.store import Store
from hired_eval.runs.loading import Models
from tests import task_documents as documents
from tests.spine import run_quietly


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
    """

    data: str
    split: str
    document: Callable[[int], dict[str, Any]]
    metric: str = "exact_match"
    refused: str = ""
    name: str = ""
    scale: int = 100


JUDGE = "a judge behind the network"
CASES = {
    "mmmu_val": Case("MMMU", "validation", documents.mmmu, "mmmu_acc"),
    "mmbench_en_dev": Case("MMBench", "dev", documents.mmbench, "gpt_eval_score", JUDGE, "en"),
    "seedbench_ppl": Case("SEED-Bench", "test", documents.seedbench, "acc"),
    "hallusion_bench_image": Case("HallusionBench", "image", documents.hallusion, "aAcc", JUDGE),
    "mathvista_testmini_format": Case(
        "MathVista", "testmini", documents.mathvista, "llm_as_judge_eval", "needs the package"
    ),
    "ok_vqa_val2014": Case("OK-VQA", "val2014", documents.vqa),
    "realworldqa": Case("RealWorldQA", "test", documents.choices),
    "multidocvqa_val": Case("MP-DocVQA", "val", documents.multidocvqa, "anls"),
    "blink_counting": Case("BLINK", "val", documents.blink, "blink_acc", "", "Counting"),
    "muirbench": Case("MUIRBENCH", "test", documents.muirbench, "muirbench_score_overall"),
    "flickr30k_test": Case("flickr30k", "test", documents.caption, "flickr_CIDEr", "gives no number"),
    "refcoco_bbox_rec_test": Case("RefCOCO", "test", documents.refcoco, "refcoco_IoU"),
    "stvqa": Case("ST-VQA", "test", documents.vqa, "submission", "is a file for a test server"),
    "tempcompass_multi_choice": Case("TempCompass", "test", documents.vqa, "avg_accuracy", "is about videos"),
    "mmvet": Case("MMVet", "test", documents.vqa, "gpt_eval_score", "a judge behind the network (openai)"),
    "llava_in_the_wild": Case("llava-bench-in-the-wild", "train", documents.vqa, "gpt_eval_llava_all", JUDGE),
}


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's answers are short, and a letter, so that some are right."""
    stock = DroppingVLM.answer

    def answer(self: DroppingVLM, batch: Any, generation: dict[str, Any], seeds: Any) -> Any:
        return [replace(a, text="A") for a in stock(self, batch, generation | {"max_new_tokens": 2}, seeds)]

    monkeypatch.setattr(DroppingVLM, "answer", answer)


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("task", CASES)
def test_a_task_is_scored_as_lmms_eval_does_or_refused(
    task: str, models: Models, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[task]
    rows = [case.document(i) for i in range(6)]
    documents.write(tmp_path / "data" / case.data / case.name, case.split, rows)
    monkeypatch.chdir(tmp_path)
    options = [f"model.path={tiny_checkpoint}", f"data.path={tmp_path / 'data'}", "runs_dir=runs"]
    of_task = (f"name={task}", f"lmms_task={task}", f"metric={case.metric}", f"scale={case.scale}")
    options += [f"task.{option}" for option in of_task]
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


def rotated(number: int, answers: str) -> list[dict[str, Any]]:
    """A question of MMBench, asked once with each of the answers."""
    asked = documents.mmbench(number)
    return [asked | {"index": number + i * 1_000_000, "answer": letter} for i, letter in enumerate(answers)]


def mmbench() -> list[dict[str, Any]]:
    """Right with A in every rotation, in one of two, and without one; rotations come last."""
    rows = [*rotated(0, "AA"), *rotated(1, "AB"), *rotated(2, "A")]
    return sorted(rows, key=lambda row: row["index"])


def gqa() -> list[dict[str, Any]]:
    names = ("picture 1", "picture 0")
    return [
        {"id": str(i), "question": "what is it?", "answer": ("a", "cat")[i % 2], "imageId": names[i % 2]}
        for i in range(4)
    ]


def seedbench() -> list[dict[str, Any]]:
    """Six questions on pictures, and two on videos, which A would answer right."""
    videos = [documents.seedbench(i) | {"data_type": "video", "answer": "A"} for i in (6, 7)]
    return [videos[0], *map(documents.seedbench, range(6)), videos[1]]


def first_six(document: Callable[[int], dict[str, Any]]) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [document(i) for i in range(6)]


PACKAGED: dict[str, tuple[str, str, Callable[[], list[dict[str, Any]]], float]] = {
    "gqa": ("GQA/testdev_balanced_instructions", "testdev", gqa, 50),
    "vizwiz": ("VizWiz-VQA", "val", first_six(documents.vqa), 50),
    "mmbench_en": ("MMBench/en", "dev", mmbench, 200 / 3),
    "mmbench_cn": ("MMBench/cn", "dev", mmbench, 200 / 3),
    # of six documents four are right: the one of one category, and three of the five of the other
    "mmstar": ("MMStar", "val", first_six(documents.mmstar), 100 * (1 / 1 + 3 / 5) / 2),
    "seedbench": ("SEED-Bench", "test", seedbench, 400 / 6),
    "ai2d": ("ai2d", "test", first_six(documents.ai2d), 200 / 6),
    "infovqa": ("DocVQA/InfographicVQA", "validation", first_six(documents.vqa), 50),
}
"""Benchmarks of the package -> folder and split of the documents, these, the score where A is replied."""


def packaged(task: str, folder: Path) -> None:
    """The documents of a benchmark of the package, and what else it reads."""
    place, split, rows, _ = PACKAGED[task]
    documents.write(folder / place, split, rows())
    if task == "gqa":
        pictures = [{"id": f"picture {i}", "image": documents.picture(i)} for i in range(2)]
        documents.write(folder / "GQA" / "testdev_balanced_images", "testdev", pictures)


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("task", PACKAGED)
def test_a_benchmark_of_the_package_is_scored_as_lmms_eval_does(
    task: str, models: Models, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged(task, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    options = [f"model.path={tiny_checkpoint}", f"data.path={tmp_path / 'data'}", "runs_dir=runs"]
    record = run_quietly(f"task={task}", *options, models=models).record
    benchmark, expected = record.benchmark, PACKAGED[task][3]
    (theirs,) = (v for k, v in record.lmms_eval_metrics.items() if k.startswith(f"{benchmark.metric},"))
    assert record.score.value == pytest.approx(theirs * benchmark.scale)
    assert record.score.value == pytest.approx(expected)
    samples = Store(tmp_path / "runs").samples(record)
    assert (samples["images"] > 0).all()
    if task == "seedbench":
        assert (len(samples), record.documents, record.partial) == (6, 6, False)
    if task == "gqa":
        assert samples["image"].nunique() == 2
        assert samples["image"][0] == samples["image"][2] != samples["image"][1]
    if task.startswith("mmbench"):
        assert (record.score.n, samples["pair"].tolist()) == (3, ["0", "1", "2", "0", "1"])
    if task == "mmstar":
        assert samples["category"].tolist() == ["numbers", *["geometry"] * 5]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}, "no file for a leader board"


@pytest.mark.usefixtures("letters")
def test_a_mean_of_categories_is_named_and_compared(
    models: Models, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    packaged("mmstar", tmp_path / "data")
    options = [f"model.path={tiny_checkpoint}", f"data.path={tmp_path / 'data'}", f"runs_dir={tmp_path}/runs"]

    def run(*more: str) -> Record:
        return run_quietly("task=mmstar", *options, *more, models=models).record

    with pytest.raises(UserError) as refused:
        run("task.scoring=mean", "task.category=null")
    assert str(refused.value).endswith(
        "; write scoring: category_mean and category: l2_category in the task's config"
    )
    whole, part = run(), run("limit=2", "order=dataset")
    store = Store(tmp_path / "runs")
    assert (part.partial, store.score([part]).value) == (True, 100)
    difference = store.difference([(part, whole)])
    assert difference is not None
    assert (difference.value, difference.n) == (0, 2)


def gqa_task(folder: Path, path: str = "") -> Any:
    return load_task(Benchmark("gqa", "gqa", "exact_match", "mean"), DataSource("hub", folder / path))


def test_gqas_pictures_are_found_beside_its_questions(tmp_path: Path) -> None:
    packaged("gqa", tmp_path)
    files = list_files_read("gqa", tmp_path)
    assert [file.parent.name for file in files] == [
        "testdev_balanced_instructions",
        "testdev_balanced_images",
    ]
    assert list_files_read("gqa", tmp_path / "GQA" / "testdev_balanced_instructions") == files
    task = gqa_task(tmp_path, "GQA")
    (shown,) = task.doc_to_visual(task.eval_docs[1])
    assert (shown.mode, shown.size) == ("RGB", documents.picture(0).size)


def test_gqa_without_its_pictures_is_explained(tmp_path: Path) -> None:
    packaged("gqa", tmp_path)
    images = tmp_path / "GQA" / "testdev_balanced_images"
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"has no split testdev of .*GQA, config testdev_balanced_images"):
        gqa_task(tmp_path)
    documents.write(images, "testdev", [{"id": "picture 0", "image": documents.picture(0)}])
    with pytest.raises(UserError, match=r"picture picture 1 is not among the 1 of .*; copy it whole"):
        gqa_task(tmp_path)


def test_gqas_pictures_on_the_hub_need_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(pictures, "load_dataset", lambda *names, **options: asked.append((names, options)))
    pictures.read_pictures_apart(pictures.GQA, None)
    names = ("lmms-lab-encoder/GQA", "testdev_balanced_images")
    assert asked == [(names, {"split": "testdev"})]


def test_a_part_of_the_documents_that_is_empty_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)  # lmms-eval tries again
    packaged("seedbench", tmp_path)
    benchmark = Benchmark("seedbench", "seedbench", "seed_image", "mean", only="data_type=sound")
    with pytest.raises(
        UserError, match=r"^no document has task.only=data_type=sound; correct it, or leave it"
    ):
        load_task(benchmark, DataSource("hub", tmp_path))


def test_mmbenchs_scoring_is_for_mmbench(tmp_path: Path) -> None:
    packaged("ai2d", tmp_path)
    benchmark = Benchmark("ai2d", "ai2d", "exact_match", "mmbench")
    task = load_task(benchmark, DataSource("hub", tmp_path))
    with pytest.raises(UserError, match=r"task.scoring=mmbench needs what MMBench says of a document, and"):
        check_scorer(task, benchmark)
