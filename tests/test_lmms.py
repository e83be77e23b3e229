"""The plugin through lmms-eval's own entry points: `simple_evaluate` and its command line."""

import io
import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lmms_eval.__main__ import cli_evaluate
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from loguru import logger
from PIL import Image

from hired_eval import Full
from hired_eval.errors import UserError
from hired_eval.lmms.answerer import Answerer
from hired_eval.lmms.documents import read_pictures
from hired_eval.lmms.model import HiredVLM
from hired_eval.lmms.options import find_source
from hired_eval.lmms.tasks import task_manager
from hired_eval.mini import checkpoint_path
from hired_eval.models.answering import DroppingVLM
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.configs import default_prompt
from hired_eval.records.folder import RunFolder
from hired_eval.records.replies import ReplyFile
from tests import tiny
from tests.spine import command_line

CHOICES = ["yes", "no", "maybe so"]
UTILS = """
def pictures(document):
    return [image.convert("RGB") for image in document["images"]]

def question(document, lmms_eval_specific_kwargs=None):
    return document["question"]
"""
TASK = """
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {folder}/data.parquet}}}}
test_split: test
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.question
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""
OPEN = "output_type: generate_until\ndoc_to_target: reply\ngeneration_kwargs: {max_new_tokens: 4}\n"
CHOICE = "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: answer\n"
OPTIONS = "prompt=mini,dtype=float32"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open and a multiple-choice task on documents with no, one and three pictures."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "question": f"which {'x' * 3 * i} is it?",
            "choices": CHOICES,
            "answer": i % 3,
            "reply": "a",
            "images": [tiny.picture(60 + 10 * i, 90, seed=3 * i + k) for k in range((0, 1, 3)[i % 3])],
        }
        for i in range(6)
    ]
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "choices": datasets.List(datasets.Value("string")),
            "answer": datasets.Value("int64"),
            "reply": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "data.parquet")
    (folder / "utils.py").write_text(UTILS)
    for name, kind, metric in (("toy_open", OPEN, "exact_match"), ("toy_choice", CHOICE, "acc")):
        task = f"task: {name}\n{kind}{TASK.format(folder=folder, metric=metric)}"
        (folder / f"{name}.yaml").write_text(task)
    return folder


@pytest.fixture(scope="module")
def toy_tasks(tasks: Path) -> TaskManager:
    return TaskManager(verbosity="ERROR", include_path=str(tasks), include_defaults=False)


def evaluate(checkpoint: Path, options: str, task: Any, manager: TaskManager, batch_size: int = 1) -> Any:
    return simple_evaluate(
        model="hired_llava",
        model_args=f"pretrained={checkpoint},{OPTIONS},{options}",
        tasks=[task],
        task_manager=manager,
        batch_size=batch_size,
        bootstrap_iters=0,
        verbosity="ERROR",
        process_docs_parallel=1,
    )


def responses(results: Any, task: str) -> list[Any]:
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


@pytest.mark.parametrize("method", ["full", "hired,budget=0.2"])
def test_answers_do_not_depend_on_the_batch(
    method: str, tiny_checkpoint: Path, toy_tasks: TaskManager
) -> None:
    single, batch = (
        responses(evaluate(tiny_checkpoint, f"method={method}", "toy_open", toy_tasks, size), "toy_open")
        for size in (1, 4)
    )
    assert single == batch
    assert len({answer for (answer,) in single}) > 1, "answers must depend on the document"


def stock_loss(model: Any, processor: Any, document: dict[str, Any], choice: str) -> float:
    """Mean loss of a choice by the stock model, the continuation's tokens as labels."""
    placeholders = " ".join(["<image>"] * len(document["images"]))
    prompt = (
        f"USER: {placeholders}\n{document['question']} ASSISTANT:"
        if placeholders
        else (f"USER: {document['question']} ASSISTANT:")
    )
    images = [image.convert("RGB") for image in document["images"]] or None
    inputs = processor(images=images, text=prompt + choice, return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[:, : -len(choice)] = -100  # the tiny tokenizer has a token a character
    with torch.inference_mode():
        return float(model(**inputs, labels=labels).loss)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_choices_are_ranked_as_the_stock_model_ranks_them(
    batch_size: int,
    tiny_checkpoint: Path,
    toy_tasks: TaskManager,
    tasks: Path,
    llava_next: tuple[Any, Any],
) -> None:
    results = evaluate(tiny_checkpoint, "method=full", "toy_choice", toy_tasks, batch_size)
    documents = datasets.Dataset.from_parquet(str(tasks / "data.parquet"))
    right = 0
    for document, found in zip(documents, responses(results, "toy_choice"), strict=True):
        losses = [stock_loss(*llava_next, document, f" {choice}") for choice in CHOICES]
        torch.testing.assert_close([loss for loss, _ in found], losses, rtol=1e-4, atol=1e-4)
        right += losses.index(min(losses)) == document["answer"]
    assert results["results"]["toy_choice"]["acc,none"] == pytest.approx(right / 6)


def test_a_task_of_lmms_eval_runs_on_local_data(tiny_checkpoint: Path, docvqa_folder: Path) -> None:
    (file,) = docvqa_folder.rglob("*.parquet")
    task = {
        "task": "docvqa_val",
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"validation": str(file)}},
    }
    results = evaluate(tiny_checkpoint, "method=hired,budget=0.2", task, task_manager("docvqa_val"), 5)
    assert len(responses(results, "docvqa_val")) == 12
    assert 0 <= results["results"]["docvqa_val"]["anls,none"] <= 1


def test_the_command_line_of_lmms_eval_finds_the_plugin(
    tiny_checkpoint: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"pretrained={tiny_checkpoint},method=hired,budget=0.2,feature_layer=-2,{OPTIONS}"
    command = ["lmms-eval", "--model", "hired_llava", "--model_args", model, "--tasks", "toy_choice"]
    command += ["--include_path", str(tasks), "--batch_size", "4", "--output_path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    cli_evaluate()
    (file,) = tmp_path.rglob("*_results.json")
    results = json.loads(file.read_text())["results"]["toy_choice"]
    assert 0 <= results["acc,none"] <= 1


def test_its_own_command_runs_the_bundled_benchmarks_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As README says; the tasks that come with lmms-eval are left out, whose index takes seconds."""
    monkeypatch.chdir(tmp_path)
    assert command_line(monkeypatch, "lmms-tasks", "build/tasks") == 0
    assert "mini_vqav2, mini_scienceqa, mini_textvqa, mini_docvqa" in capsys.readouterr().out
    monkeypatch.setattr("lmms_eval.__main__.TaskManager", partial(TaskManager, include_defaults=False))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (line,) = re.findall(r"^(lmms-eval --model hired_vlm .*mini_docvqa.*)$", readme, re.MULTILINE)
    command = [*shlex.split(line), "--limit", "4", "--output_path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    cli_evaluate()
    (file,) = tmp_path.rglob("*_results.json")
    assert json.loads(file.read_text())["results"]["mini_docvqa"]["anls,none"] > 0.5


def test_a_checkpoint_is_found_by_the_name_of_its_model_config(tmp_path: Path) -> None:
    hub_id = "llava-hf/llava-v1.6-vicuna-7b-hf"
    assert find_source("mini") == str(checkpoint_path())
    assert find_source("llava_next_7b") == find_source(hub_id) == hub_id
    assert find_source(str(tmp_path)) == str(tmp_path)
    assert find_source("nobody/nothing") == "nobody/nothing"
    assert default_prompt("mini").template == default_prompt("mini_1_5").template


@pytest.mark.parametrize(
    ("reason", "token", "said"),
    [
        ("HF_HUB_OFFLINE is set", "x", "HF_HUB_OFFLINE is set; lmms-eval's tasks end in a RetryError"),
        (None, None, "log in with hf auth login"),
        (None, "x", ""),
    ],
)
def test_what_lmms_eval_will_stumble_over_is_said_first(
    reason: str | None, token: str | None, said: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hired_eval.lmms.model.explain_unreachable", lambda: reason)
    monkeypatch.setattr("hired_eval.lmms.model.get_token", lambda: token)
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    HiredVLM(str(tiny_checkpoint), prompt="mini", dtype="float32")
    logger.remove(sink)
    assert said in "".join(lines)
    assert bool(lines) == bool(said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hird"}, "there is no method 'hird'; did you mean hired"),
        ({"budget": 0}, "budget must be above 0"),
        ({"method": "full", "budget": 0.2}, "method full has no option 'budget'"),
        ({"batch_size": "many"}, "batch_size must be a whole number of at least 1 or 'auto', got 'many'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"on_error": "x"}, "on_error must be 'stop' or 'record', got 'x'"),
        (
            {"prompt": "hello"},
            "neither a template with {images} and {question} once each nor the name of a model config",
        ),
        ({"prompt": None}, "has no chat template of its own; name the prompt"),
        ({"pretrained": "/no/folder"}, "/no/folder"),
    ],
)
def test_wrong_options_are_refused_by_name(
    options: dict[str, Any], message: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hired_eval.models.checkpoint.explain_unreachable", lambda: "HF_HUB_OFFLINE is set")
    with pytest.raises(UserError) as refused:
        HiredVLM(**{"pretrained": str(tiny_checkpoint), "prompt": "mini", "dtype": "float32"} | options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_dtype_is_the_checkpoints_own_unless_named(tiny_checkpoint: Path) -> None:
    own = HiredVLM(str(tiny_checkpoint), prompt="mini")
    named = HiredVLM(str(tiny_checkpoint), prompt="mini", dtype="bfloat16")
    assert own.llava.model.dtype == torch.float32
    assert named.llava.model.dtype == torch.bfloat16


def test_progress_in_a_file_is_a_few_lines(
    tiny_checkpoint: Path, toy_tasks: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    evaluate(tiny_checkpoint, "method=full", "toy_open", toy_tasks)
    updates = [line for line in stream.getvalue().replace("\n", "\r").split("\r") if "answering" in line]
    assert 1 <= len(updates) <= 2


REPEATED = "repeats: 3\nfilter_list: [{name: all, filter: [{function: take_first_k, k: 3}]}]\n"
WARM = "generation_kwargs: {max_new_tokens: 6, do_sample: true, temperature: 5.0}\n"


@pytest.fixture(scope="module")
def repeated(tasks: Path) -> TaskManager:
    """Every question asked three times, sampled and greedily."""
    for name, decoding in (("toy_warm", WARM), ("toy_cold", WARM.replace("5.0", "0"))):
        kind = "output_type: generate_until\ndoc_to_target: reply\n" + decoding + REPEATED
        task = f"task: {name}\n{kind}{TASK.format(folder=tasks, metric='exact_match')}"
        (tasks / f"{name}.yaml").write_text(task)
    return TaskManager(verbosity="ERROR", include_path=str(tasks), include_defaults=False)


def test_sampled_repeats_are_draws_of_their_own(tiny_checkpoint: Path, repeated: TaskManager) -> None:
    drawn = [
        responses(evaluate(tiny_checkpoint, "method=full", "toy_warm", repeated, size), "toy_warm")
        for size in (1, 5)
    ]
    assert drawn[0] == drawn[1], "the same seed, whatever the batch"
    assert [len(set(draws)) for (draws,) in drawn[0]] == [3] * 6


def test_each_draw_has_a_seed_of_its_own(
    tiny_checkpoint: Path, repeated: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    stock = DroppingVLM.answer
    monkeypatch.setattr(
        DroppingVLM,
        "answer",
        lambda self, batch, options, drawn: seeds.extend(drawn) or stock(self, batch, options, drawn),
    )
    evaluate(tiny_checkpoint, "method=full", "toy_warm", repeated, 4)
    assert len(seeds) == len(set(seeds)) == 3 * 6


def test_greedy_repeats_are_answered_once(
    tiny_checkpoint: Path, repeated: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    stock = DroppingVLM.answer
    monkeypatch.setattr(
        DroppingVLM, "answer", lambda self, batch, *a: rows.append(len(batch)) or stock(self, batch, *a)
    )
    found = responses(evaluate(tiny_checkpoint, "method=full", "toy_cold", repeated, 4), "toy_cold")
    assert sum(rows) == 6
    assert [len(set(replies)) for (replies,) in found] == [1] * 6


def test_an_interrupted_run_draws_what_is_missing(
    tiny_checkpoint: Path, repeated: TaskManager, llava_next: tuple[Any, Any], tmp_path: Path
) -> None:
    def draws(name: str) -> list[Any]:
        log = ReplyFile(RunFolder(tmp_path, name))
        llava = DroppingVLM(Checkpoint(*llava_next), Full(), "U:{images}\n{question} A:")
        model = HiredVLM.around(Answerer(llava, batch_size=4, log=log, seed=7))
        results = simple_evaluate(
            model, tasks=["toy_warm"], task_manager=repeated, bootstrap_iters=0, verbosity="ERROR"
        )
        return responses(results, "toy_warm")

    whole = draws("whole")
    file = tmp_path / "whole" / "replies.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 18
    file.write_text("".join(lines[3:11]))
    assert draws("whole") == whole


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("film.mp4", "its task shows a str; this model sees only pictures"),
        (["film.mp4"], "its task shows a str; this model sees only pictures"),
        ([[Image.new("RGB", (2, 2))]], "its task shows a list; this model sees only pictures"),
        ([{"array": [0.0], "sampling_rate": 16000}], "its task shows a dict; this model sees only pictures"),
    ],
)
def test_what_is_no_picture_is_named(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pictures(given)
    picture = Image.new("RGB", (2, 2))
    assert read_pictures([None, picture]) == read_pictures(picture) == (picture,)
    assert read_pictures(None) == read_pictures([]) == ()
