"""What is known of a task's scorer before the first question, and what is said of it after the last."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from lmms_eval.tasks import TaskManager

from hired_eval.errors import UserError
from hired_eval.lmms.guards import keep_unchanged, network_of
from hired_eval.lmms.scorers import check_scorer
from hired_eval.lmms.tasks import DataSource, load_task, task_config, task_manager
from hired_eval.records.record import Benchmark
from tests import tiny
from tests.spine import run_quietly

UTILS = """
import requests

TOTALS, CALLS = {"right": 0}, 0

def shown(document):
    return [document["image"]]

def path(document):
    return ["film.mp4"]

def gives_up(document):
    raise SystemExit("no film here")

def question(document):
    return document["question"]

def number(document):
    return int(document["question"].split()[-1])

def score(document, results):
    right = float(results[0] == document["answer"])
    known = results[0] in ("A", document["answer"])
    i = int(document["question"].split()[-1])
    group = {"category": "a" if i < 2 else "b", "question_id": str(i // 2)}
    return {
        "share": right, "nested": {"score": right, **group}, "bare": {"right": right, **group},
        "listed": [right], "text": "yes", "percent": 100 * right, "late": 1.0 if known else [1.0],
        "drifting": 1.0 if known else 0.5, "faulty": 1.0 if known else 0.5, "asked": right,
        "totals": {"score": right}, "nothing": None,
    }

def broken(document, results):
    return {"share": document["no such column"]}

def moody(document, results):
    if results[0] not in ("A", document["answer"]):
        raise KeyError("mood")
    return {"share": 1.0}

def mean(values):
    return sum(values) / len(values)

def of_categories(values):
    groups = {}
    for value in values:
        groups.setdefault(value["category"], []).append(value.get("score", value.get("right")))
    return mean([mean(group) for group in groups.values()])

def lenient(values):
    numbers = [value for value in values if isinstance(value, float)]
    return mean(numbers) if numbers else 0.0

def over_all(values):
    return mean([value["right"] for value in values])

def drifts(values):
    return mean(values) if 0.5 not in values else 9.0

def fails(values):
    if 0.5 in values:
        raise KeyError("x")
    return mean(values)

def judge(values):
    return requests.post("https://localhost").json()

def total(values):
    global CALLS
    CALLS += 1
    for value in values:
        TOTALS["right"] += value["score"]
    return TOTALS["right"] / len(values)
"""
TASK = """
task: toy
dataset_path: parquet
dataset_kwargs: {data_files: {test: none}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.shown
doc_to_text: !function utils.question
doc_to_target: answer
process_results: !function utils.score
generation_kwargs: {max_new_tokens: 3}
metric_list:
- {metric: share, aggregation: mean, higher_is_better: true}
- {metric: nested, aggregation: !function utils.of_categories, higher_is_better: true}
- {metric: bare, aggregation: !function utils.over_all, higher_is_better: true}
- {metric: bare_by_category, aggregation: !function utils.of_categories, higher_is_better: true}
- {metric: listed, aggregation: mean, higher_is_better: true}
- {metric: text, aggregation: mean, higher_is_better: true}
- {metric: percent, aggregation: mean, higher_is_better: true}
- {metric: late, aggregation: !function utils.lenient, higher_is_better: true}
- {metric: drifting, aggregation: !function utils.drifts, higher_is_better: true}
- {metric: faulty, aggregation: !function utils.fails, higher_is_better: true}
- {metric: asked, aggregation: !function utils.judge, higher_is_better: true}
- {metric: totals, aggregation: !function utils.total, higher_is_better: true}
- {metric: unknown, aggregation: no_such_thing, higher_is_better: true}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven documents of a task `toy`, which lmms-eval finds beside its utils."""
    folder = tmp_path / "lmms_eval"
    (folder / "data").mkdir(parents=True)
    (folder / "utils.py").write_text(UTILS)
    (folder / "toy.yaml").write_text(TASK)
    rows = [
        {"question": f"which {i}", "answer": "AB"[i % 2], "image": tiny.picture(40, 50, i)} for i in range(7)
    ]
    text = datasets.Value("string")
    features = datasets.Features({"question": text, "answer": text, "image": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(
        folder / "data/test-00000-of-00001.parquet"
    )
    return folder


def checked(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    scoring: str = "mean",
    category: str | None = None,
) -> Any:
    """The task, after a look at its scorer."""
    manager = TaskManager(verbosity="ERROR", include_path=str(toy), include_defaults=False)
    for place in ("lmms.tasks", "runs.accuracy"):
        monkeypatch.setattr(f"hired_eval.{place}.task_manager", lambda name: manager)
    benchmark = Benchmark("toy", "toy", metric, scoring, category=category)
    task = load_task(benchmark, DataSource("hub", toy / "data"))
    check_scorer(task, benchmark)
    return task


@pytest.mark.parametrize("metric", ["share", "bare", "late", "drifting", "faulty", "totals"])
def test_a_mean_of_documents_is_accepted(toy: Path, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    task = checked(toy, monkeypatch, metric)
    assert metric in task.aggregation()
    assert "asked" not in task.aggregation(), "nobody else is asked"
    assert not {"listed", "text"} & task.aggregation().keys(), (
        "what fails at made-up values would fail at the end"
    )


def test_a_mean_of_categories_is_accepted_where_it_is_named(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nested" in checked(toy, monkeypatch, "nested", "category_mean").aggregation()


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        (
            "nested",
            {},
            "metric nested of task toy is not what task.scoring=mean and task.scale=100 make of its",
        ),
        ("nested", {}, "; write scoring: category_mean and category: category in the task's config"),
        (
            "nested",
            {"scoring": "category_mean", "category": "question_id"},
            "; write scoring: category_mean and category: category in the task's config",
        ),
        (
            "nested",
            {"scoring": "category_mean", "category": "field"},
            "needs the category of each document, and metric nested of task toy gives a dict of score, "
            "category, question_id, none called field; write category: NAME in the task's config",
        ),
        (
            "share",
            {"scoring": "category_mean"},
            "task.scoring=category_mean needs the category of each document, and metric share of task toy",
        ),
        (
            "share",
            {"scoring": "ocrbench"},
            "task.scoring=ocrbench and task.scale=1000 make of its samples: of the same made-up scores "
            "lmms-eval makes 0.4286 and this would make 0.003; write scoring: mean in the task's config",
        ),
        (
            "listed",
            {},
            "metric listed of task toy gives no number for a document but a list, so that its score",
        ),
        ("text", {}, "metric text of task toy gives no number for a document but a str"),
        ("percent", {}, "gives 100 for a document, which task.scale=100 would make 10000; set task.scale=1"),
        (
            "share",
            {"scoring": "mme"},
            "task.scoring=mme needs pairs of questions in categories, and ",
        ),
        (
            "asked",
            {},
            "metric asked of task toy is made by a judge behind the network (requests), which is not asked",
        ),
        ("unknown", {}, "metric unknown of task toy names an aggregation that lmms-eval does not have"),
    ],
)
def test_another_score_is_refused_before_the_first_question(
    toy: Path, monkeypatch: pytest.MonkeyPatch, metric: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        checked(toy, monkeypatch, metric, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        (
            "utils.shown",
            "utils.path",
            "task toy cannot be asked: its task shows a str; this model sees only pictures",
        ),
        ("utils.shown", "utils.gives_up", "task toy cannot be asked: its task gives up: no film here"),
        (
            "doc_to_text: !function utils.question",
            "doc_to_text: !function utils.number",
            "is not text but a int",
        ),
        (
            "max_new_tokens: 3",
            "max_length: 3",
            "task toy cannot be asked: the generation option max_length=3",
        ),
        (
            "utils.score",
            "utils.broken",
            "the documents do not fit task toy, which reads parquet: column 'no such column' is missing",
        ),
    ],
)
def test_a_task_that_cannot_be_asked_or_scored_is_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch, was: str, now: str, message: str
) -> None:
    (toy / "toy.yaml").write_text(TASK.replace(was, now))
    with pytest.raises(UserError) as refused:
        checked(toy, monkeypatch, "share")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("metric", "scoring", "message"),
    [
        (
            "late",
            "utils.score",
            "metric late of task toy gives a list for document 0, not a number; choose another",
        ),
        (
            "drifting",
            "utils.score",
            "lmms-eval makes 9 of metric drifting of task toy, and task.scoring=mean makes",
        ),
        ("faulty", "utils.score", "lmms-eval cannot compute metric faulty of task toy: KeyError: 'x'"),
        ("share", "utils.moody", "lmms-eval cannot score a reply of task toy: KeyError: 'mood'"),
    ],
)
def test_what_shows_at_the_end_is_one_line_and_the_replies_are_kept(
    toy: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, metric: str, scoring: str, message: str
) -> None:
    (toy / "toy.yaml").write_text(TASK.replace("utils.score", scoring))
    checked(toy, monkeypatch, metric)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    options = ["task.name=toy", "task.lmms_task=toy", f"task.metric={metric}", f"data.path={toy / 'data'}"]
    options += [f"model.path={tiny_checkpoint}", f"runs_dir={toy / 'runs'}"]
    with pytest.raises(UserError) as refused:
        run_quietly(*options)
    assert message in str(refused.value)
    assert "; the replies are kept in" in str(refused.value) or "the replies are kept in" in str(
        refused.value
    )
    (replies,) = (toy / "runs").glob("*/replies.jsonl")
    assert len(replies.read_text().splitlines()) == 7


def test_a_scorers_totals_are_afterwards_what_they_were(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = checked(toy, monkeypatch, "totals").aggregation()["totals"]
    names = total.__globals__
    assert (names["TOTALS"], names["CALLS"]) == ({"right": 0}, 0), "a look at the scorer leaves no trace"
    with keep_unchanged([total]):
        assert total([{"score": 1}, {"score": 0}]) == 0.5
        assert (names["TOTALS"], names["CALLS"]) == ({"right": 1}, 1)
    assert (names["TOTALS"], names["CALLS"]) == ({"right": 0}, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("docvqa", "docvqa is a group of lmms-eval (docvqa_val, docvqa_test); name one of them"),
        ("infovqa", "infovqa is a group of lmms-eval (infovqa_val, infovqa_test); name one of them"),
        (
            "vizwiz_vqa",
            "vizwiz_vqa is a group of lmms-eval (vizwiz_vqa_val, vizwiz_vqa_test); name one of them",
        ),
        (
            "mmbench_en",
            "mmbench_en is a group of lmms-eval (mmbench_en_dev, mmbench_en_test); name one of them",
        ),
        (
            "mmbench_cn",
            "mmbench_cn is a group of lmms-eval (mmbench_cn_dev, mmbench_cn_test, mmbench_cn_cc); name one",
        ),
        ("mmmu", "mmmu is a group of lmms-eval (mmmu_val, mmmu_test); name one of them"),
        ("blink_groups", "blink_groups is a tag of lmms-eval (blink_"),
        ("docvqa_vl", "lmms-eval has no task 'docvqa_vl' (task.lmms_task); did you mean docvqa_val"),
        (
            "vending_bench2",
            "task vending_bench2 has output type generate_until_agentic, which is not supported",
        ),
        ("ovo_forward", "output type generate_until_multi_round, which is not supported"),
        (
            "tempcompass_multi_choice",
            "task tempcompass_multi_choice is about videos; this model sees only pictures",
        ),
        ("mmmu_val_pass64", "task mmmu_val_pass64 scores each answer several times (maj@64, "),
        ("mmlu_continuation_anatomy", "task mmlu_continuation_anatomy"),
        ("vcr_wiki_en_easy", "lmms-eval's task vcr_wiki_en_easy needs the package spacy, not installed here"),
    ],
)
def test_a_name_that_is_no_task_to_ask_is_explained(name: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        task_config(name)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("test_split: test", ""), "task toy names neither a test nor a validation split"),
        (("dataset_path: parquet", ""), "task toy names no data set"),
        (
            (TASK[TASK.index("metric_list") :], ""),
            "task toy names no metric, so that its answers cannot be scored",
        ),
        (("utils.score", "utils.scores"), "lmms-eval's task toy cannot be loaded: AttributeError: "),
        (("task: toy", "task: toy\nclass: Toy"), "toy is a task of lmms-eval with code of its own"),
    ],
)
def test_a_task_that_lacks_a_part_is_explained(
    toy: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    (toy / "toy.yaml").write_text(TASK.replace(*change))
    with pytest.raises(UserError) as refused:
        checked(toy, monkeypatch, "share")
    assert message in str(refused.value)


def test_a_validation_split_is_asked_where_there_is_no_test_split(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy / "toy.yaml").write_text(TASK.replace("test_split: test", "validation_split: test"))
    assert len(checked(toy, monkeypatch, "share").eval_docs) == 7


def test_judges_are_known_by_what_their_code_reaches() -> None:
    judged = task_config("mmbench_en_dev")["metric_list"][0]["aggregation"]
    silent = task_config("mmbench_en_dev_static")["metric_list"][0]["aggregation"]
    assert (network_of(judged), network_of(silent)) == ("requests", None)
    assert network_of(task_config("docvqa_val").get("process_results")) is None
    assert "docvqa_val" in task_manager("docvqa_val").task_index
