"""`hired-eval regress`: the same, different beyond the tolerance, and no comparison."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hired_eval.errors import UserError
from hired_eval.mini.benchmarks import SPLITS
from hired_eval.paths import config_folder
from hired_eval.records.scores import SCORERS
from hired_eval.regression.answering import identify_here
from hired_eval.regression.chosen import read_set
from hired_eval.regression.command import DIFFERENT, NOT_COMPARED, SAME
from hired_eval.regression.reference import FACTS, SAMPLES, read, refuse_other
from hired_eval.reporting.regression import COLUMNS, Comparison, Tolerance, compare
from hired_eval.reporting.regression_report import changed_samples, verdict
from tests.spine import command_line

ROOT = Path(__file__).parents[1]
Edit = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass
class Regression:
    """A set of the tiny model on ten documents, in a folder of its own.

    Attributes:
        folder: holds set.yaml, the checkpoint, and the reference.
        capsys: what was printed.
        monkeypatch: of the test.
    """

    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def start(self, *options: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        files = ["--set", f"{self.folder}/set.yaml", "--out", f"{self.folder}/out"]
        status = command_line(self.monkeypatch, "regress", *files, *options)
        return status, *self.capsys.readouterr()

    def edit(self, change: Edit) -> None:
        """Another reference."""
        file = self.folder / "reference" / SAMPLES
        change(pd.read_parquet(file)).to_parquet(file)

    def report(self) -> str:
        return (self.folder / "out" / "regression.md").read_text()


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Path, docvqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set, before it has a reference; the checkpoint is a copy that a test may change."""
    folder = tmp_path_factory.mktemp("regression")
    shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    content = {
        "overrides": [f"model.path={folder}/checkpoint", f"data.path={docvqa_folder}", "batch_size=4"],
        "methods": {"full": "method=full", "hired": "method=hired budget=0.4"},
        "benchmarks": ["docvqa"],
        "samples": 10,
        "reference": str(folder / "reference"),
        "tolerance": {"answers": 0.2, "answers_overall": 0.15},
    }
    (folder / "set.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def reference(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference as --update makes it, for tests to copy."""
    with pytest.MonkeyPatch.context() as patch:
        options = ["--set", f"{made}/set.yaml", "--out", f"{made}/out", "--update"]
        assert command_line(patch, "regress", *options) == SAME
    kept = tmp_path_factory.mktemp("kept") / "reference"
    shutil.move(made / "reference", kept)
    return kept


@pytest.fixture
def regression(
    made: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Regression:
    for name in ("reference", "out"):
        shutil.rmtree(made / name, ignore_errors=True)
    shutil.copytree(reference, made / "reference")
    capsys.readouterr()
    return Regression(made, capsys, monkeypatch)


def with_other_answers(reference: pd.DataFrame) -> pd.DataFrame:
    """All answers of HiRED are others, and right."""
    rows = reference.index[reference["method"] == "hired"]
    reference.loc[rows, "prediction"] = "something `else` | <b>"
    reference.loc[rows, "score"] = 1.0
    return reference


def with_other_tokens(reference: pd.DataFrame) -> pd.DataFrame:
    reference.loc[reference.index[-1], "kept"] += 1
    return reference


def test_the_same_code_is_the_same(regression: Regression) -> None:
    status, out, err = regression.start()
    assert status == SAME
    assert "regression: same (2 runs, 20 samples: 0 with other token counts, 0 with another answer)" in out
    assert "docvqa: 2 methods answered" in err
    assert "# Regression: same" in regression.report()


def test_one_other_token_count_is_different(regression: Regression) -> None:
    regression.edit(with_other_tokens)
    status, out, _ = regression.start()
    assert status == DIFFERENT
    assert "docvqa, hired: token counts of 1 of 10 samples differ" in out
    (row,) = pd.read_csv(regression.folder / "out" / "regression-changes.csv").to_dict("records")
    assert (row["method"], row["doc_id"]) == ("hired", 9)
    assert row["kept_before"] == row["kept_after"] + 1


def test_answers_beyond_the_tolerance_are_different(regression: Regression) -> None:
    regression.edit(with_other_answers)
    status, out, _ = regression.start()
    assert status == DIFFERENT
    assert "docvqa, hired: 10 of 10 answers differ (100%, tolerance.answers is 20%)" in out
    assert "all runs: 10 of 20 answers differ (50.0%, tolerance.answers_overall is 15.0%)" in out
    assert "`\"something 'else' \\| <b>\"`" in out
    assert out.count("| prediction | ") == 10
    assert len(pd.read_csv(regression.folder / "out" / "regression-changes.csv")) == 10


def results(**columns: object) -> pd.DataFrame:
    """Twenty answers about twenty pictures, in the reference's columns."""
    frame = pd.DataFrame({"doc_id": range(20)}).assign(
        benchmark="docvqa", method="hired", asked=1, prediction="a", score=1.0, kept=5, full=20,
        allowed=pd.array([6] * 20, dtype="Int64"), image=None, pair=None, category=None,
    )  # fmt: skip
    frame["image"] = frame["doc_id"].astype("string")
    return frame.assign(**columns)[COLUMNS]


def compared(before: pd.DataFrame, after: pd.DataFrame, answers: float, overall: float) -> Comparison:
    tolerance = Tolerance(answers, overall)
    return compare(after, before, {"docvqa": SCORERS["mean"]}, tolerance)


def test_answers_within_the_tolerance_are_named_and_accepted() -> None:
    after = results(prediction=["b", "b", *["a"] * 18])
    comparison = compared(results(), after, 0.1, 0.1)
    assert comparison.problems == []
    assert verdict(comparison).startswith("same (1 runs, 20 samples: 0 with other token counts, 2 with")
    assert changed_samples(comparison).count("| prediction |") == 2
    assert len(compared(results(), after, 0.05, 0.1).problems) == 1
    assert compared(results(), after, 0.1, 0.05).problems == [
        "all runs: 2 of 20 answers differ (10.0%, tolerance.answers_overall is 5.0%)"
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"kept": [4, *[5] * 19]},
        {"full": [21, *[20] * 19]},
        {"allowed": pd.array([pd.NA] * 20, dtype="Int64")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_token_counts_have_no_tolerance(change: dict[str, object]) -> None:
    assert len(compared(results(), results(**change), 1, 1).problems) == 1


def test_a_score_that_falls_beyond_noise_is_different_whatever_share_of_answers_may_differ() -> None:
    after = results(score=[0.0] * 8 + [1.0] * 12)
    (problem,) = compared(results(), after, 1, 1).problems
    assert problem.startswith("docvqa, hired: score 100.0 became 60.0 (paired test p = 0.0")
    assert compared(results(), results(score=[0.0] * 3 + [1.0] * 17), 1, 1).problems == []
    by_rounding = results(score=1.0 - 1e-12)
    assert compared(results(), by_rounding, 0, 0).answers == 0


def test_the_list_of_samples_is_bounded() -> None:
    comparison = compared(results(), results(prediction="b" * 500, kept=1), 1, 1)
    frames = pd.concat([comparison.samples] * 3)
    shown = changed_samples(replace(comparison, samples=frames))
    assert shown.endswith("... and 40 more samples")
    assert len(shown) < 10_000


def test_a_part_of_the_set_is_compared_with_its_part_of_the_reference(regression: Regression) -> None:
    regression.edit(with_other_tokens)
    status, out, _ = regression.start("--methods", "hired", "--samples", "4")
    assert status == SAME, "the sample that changed is behind the fourth"
    assert "1 runs, 4 samples" in out


def test_update_shows_the_difference_and_renews(regression: Regression) -> None:
    regression.edit(with_other_tokens)
    status, out, _ = regression.start("--update")
    assert status == SAME
    assert "token counts of 1 of 10 samples differ" in out
    assert "reference renewed (20 samples)" in out
    assert regression.start()[0] == SAME


def refused(regression: Regression, *options: str) -> str:
    status, out, err = regression.start(*options)
    assert status == NOT_COMPARED
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith("docvqa: ")]
    assert line.startswith("error: ")
    return line


def test_no_reference_cannot_be_compared_and_is_made(regression: Regression) -> None:
    shutil.rmtree(regression.folder / "reference")
    assert "there is no reference in " in refused(regression)
    assert regression.start("--update")[0] == SAME
    assert pd.read_parquet(regression.folder / "reference" / SAMPLES).columns.tolist() == COLUMNS


def test_other_weights_cannot_be_compared(regression: Regression) -> None:
    file = regression.folder / "checkpoint" / "generation_config.json"
    before = file.read_text()
    try:
        file.write_text(before + " ")
        assert "the weights differ" in refused(regression)
    finally:
        file.write_text(before)
    (regression.folder / "checkpoint" / "README.md").write_text("another card")
    assert regression.start("--methods", "hired", "--samples", "1")[0] == SAME


FOREIGN = [
    (lambda facts: facts["documents"].update(docvqa="x"), "the data of docvqa differs"),
    (lambda facts: facts["documents"].pop("docvqa"), "lacks the benchmark docvqa"),
    (lambda facts: facts["methods"].update(hired="method=hired"), "has 'method=hired' for hired"),
    (lambda facts: facts["methods"].pop("full"), "has 'nothing' for full"),
    (lambda facts: facts.update(samples=5), "has 5 samples of each benchmark, and the set 10"),
    (lambda facts: facts.update(overrides=[]), "was made with the overrides"),
    (lambda facts: facts.update(format=0), "has another format"),
    (lambda facts: facts.pop("weights"), "is damaged"),
]


@pytest.mark.parametrize(("change", "message"), FOREIGN, ids=[message for _, message in FOREIGN])
def test_a_foreign_reference_is_refused_before_anything_runs(
    regression: Regression, change: Callable[[dict[str, object]], None], message: str
) -> None:
    file = regression.folder / "reference" / FACTS
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))
    assert message in refused(regression)
    assert not (regression.folder / "out").exists()


def test_other_questions_and_missing_samples_cannot_be_compared() -> None:
    with pytest.raises(UserError, match=r"the reference lacks 19 of 20 samples, .* docvqa document 1"):
        compared(results()[:1], results(), 1, 1)
    with pytest.raises(UserError, match=r"other questions .* asked: 20 differ, .* docvqa document 0"):
        compared(results(), results(asked=2), 1, 1)


MISTAKES = [
    (["--set", "nothing"], "there is no set 'nothing'; known: mini"),
    (["--methods", "hird"], "the set has no method 'hird'; it has full, hired"),
    (["--benchmarks", "pope"], "the set has no benchmark 'pope'; it has docvqa"),
    (["--samples", "11"], "--samples must be from 1 to 10"),
    (["--update", "--methods", "full"], "--update renews the whole reference"),
    (["--reference", "/dev/null/x"], "there is no reference in /dev/null/x"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_one_line(regression: Regression, options: list[str], message: str) -> None:
    assert message in refused(regression, *options)


def test_mistakes_in_a_set_are_one_line(regression: Regression) -> None:
    file = regression.folder / "other.yaml"
    content = yaml.safe_load((regression.folder / "set.yaml").read_text())
    wrong = [
        ({"tolerance": {**content["tolerance"], "answers": -1}}, "tolerance.answers must be a number"),
        ({"tolerance": {}}, "is not a regression set"),
        ({"methods": {"x": "method=hird"}}, "there is no method 'hird'; did you mean hired"),
        ({"overrides": ["model.prompt='{"]}, "error: "),
        ({"surplus": 1}, "is not a regression set"),
    ]
    for change, message in wrong:
        file.write_text(yaml.safe_dump({**content, **change}))
        assert message in refused(regression, "--set", str(file))
    file.write_text("a: [")
    assert "is not valid YAML" in refused(regression, "--set", str(file))


def test_help_names_the_exit_statuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(monkeypatch, "regress", "--help") == 0
    assert "0 the same, 1 different beyond the tolerance of the set, 2 could not compare" in (
        capsys.readouterr().out
    )


def test_the_mini_set_has_every_method_and_benchmark() -> None:
    mini = read_set("mini")
    assert {*mini.methods} == {file.stem for file in (config_folder() / "method").glob("*.yaml")}
    assert read(ROOT / mini.reference)[0].methods.items() <= mini.methods.items()
    assert {*mini.benchmarks} == {*SPLITS}
    for method in mini.methods:
        assert mini.config(method, "docvqa")["limit"] == mini.samples


def test_a_fault_of_the_program_is_no_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own exit status of a traceback is 1, which here says that answers differ."""

    def faulty(name: str) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("hired_eval.regression.chosen.read_set", faulty)
    assert command_line(monkeypatch, "regress") == NOT_COMPARED
    assert "RuntimeError: a fault" in capsys.readouterr().err


def test_the_committed_reference_is_of_the_bundled_model_and_data() -> None:
    chosen = read_set("mini")
    folder = Path(chosen.reference)
    refuse_other(identify_here(chosen), read(folder)[0], folder)
