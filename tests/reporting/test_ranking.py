"""Ranks over a group of benchmarks, and the share of full execution's score that they stand on."""

from pathlib import Path

import numpy as np
import pytest

from hired_eval.records import statistics
from hired_eval.records.statistics import Estimate, Units
from hired_eval.records.store import Store
from hired_eval.reporting.__main__ import main as report
from hired_eval.reporting.frame import frame
from hired_eval.reporting.rank import main
from hired_eval.reporting.ranking import ranks_of
from tests.reporting import synthetic


def units(values: np.ndarray) -> Units:
    return Units(values, np.arange(len(values)).astype(str), np.zeros(len(values), dtype=int), (0.0, 1.0))


def mean_share(benchmarks: list[list[tuple[Units, Units]]]) -> Estimate:
    found = statistics.mean_share(benchmarks)
    assert found is not None
    return found


def test_the_mean_share_is_of_each_benchmark_and_draws_both_runs_together() -> None:
    rng = np.random.default_rng(0)
    full = [(rng.random(400) < p).astype(float) for p in (0.9, 0.5)]
    half = [values * (np.arange(400) % 2) for values in full]
    found = mean_share([[(units(a), units(b))] for a, b in zip(half, full, strict=True)])
    assert found.value == pytest.approx(
        np.mean([a.mean() / b.mean() for a, b in zip(half, full, strict=True)])
    )
    assert found.low < found.value < found.high
    assert (found.n, found.clusters) == (800, 400)
    itself = mean_share([[(units(values), units(values))] for values in full])
    assert itself.low == itself.high == 1, "the same images are drawn for both"
    few = mean_share([[(units(full[0][:9]), units(full[0][:9]))]])
    assert few.shown_low is None


def test_the_interval_of_a_share_has_the_coverage_that_it_says() -> None:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(40):
        theirs = (rng.random(150) < 0.8).astype(float)
        ours = theirs * (rng.random(150) < 0.75)
        found = mean_share([[(units(ours), units(theirs))]])
        inside += found.low <= 0.75 <= found.high
    assert inside >= 34


def test_several_seeds_widen_the_interval_of_a_share() -> None:
    rng = np.random.default_rng(2)
    full = np.ones(200)
    runs = [(rng.random(200) < p).astype(float) for p in (0.4, 0.6)]
    one = mean_share([[(units(runs[0]), units(full))]])
    both = mean_share([[(units(run), units(full)) for run in runs]])
    assert both.value == pytest.approx(np.mean([run.mean() for run in runs]))
    assert both.high - both.low > 3 * (one.high - one.low)


def test_methods_whose_intervals_overlap_are_tied() -> None:
    shares = {
        name: Estimate(value, value - 3, value + 3, 100, 50, value - 3, value + 3)
        for name, value in (("a", 95.0), ("b", 92.0), ("c", 88.5), ("d", 70.0))
    }
    assert ranks_of(shares) == {"a": "1 (tie)", "b": "1 (tie)", "c": "2", "d": "4"}
    few = Estimate(99.0, 98.0, 100.0, 8, 8)
    assert ranks_of({**shares, "few": few}) == ranks_of(shares), "no rank without an interval"


def test_a_method_on_few_pictures_has_no_rank_and_a_line_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for task, pictures in (("docvqa", 8), ("textvqa", 60)):
        for method, budget in (("full", None), ("hired", 0.1), ("spatial", 0.1)):
            synthetic.write_run(runs, method, task, pictures=pictures, budget=budget)
    main(["budget=0.1", "--runs-dir", str(runs), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:] for line in printed.splitlines() if line.startswith(("| HiRED", "| Spatial"))]
    assert [row[2].strip() for row in rows] == ["-", "-"]
    assert (
        "No rank, mini, bundled data: Spatial 10 %; HiRED 10 %: fewer than 10 pictures on DocVQA." in printed
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for task in ("vqav2", "textvqa", "docvqa"):
        synthetic.write_run(folder, "full", task, accuracy=0.9, share=1.0)
        for method, accuracy in (("hired", 0.8), ("topk_cls", 0.78), ("spatial", 0.2)):
            synthetic.write_run(folder, method, task, accuracy=accuracy, share=0.1, budget=0.1)
    synthetic.write_run(folder, "random", "docvqa", budget=0.1)
    synthetic.write_run(folder, "hired", "docvqa", budget=0.2)
    synthetic.write_run(folder, "prumerge", "docvqa")
    return folder


def test_the_question_which_is_best_has_a_command(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["budget=0.1", "group=reading", "--runs-dir", str(runs), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:] for line in printed.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in rows[0]][:-1] == [
        "method", "tokens", "rank", "mean share of Full, %", "TextVQA", "DocVQA",
    ]  # fmt: skip
    ranks = {row[0].strip(): row[2].strip() for row in rows[1:] if not row[0].startswith("   ")}
    assert ranks == {"HiRED 10 %": "1 (tie)", "Top-k CLS 10 %": "1 (tie)", "Spatial 10 %": "3", "Full": "-"}
    best = next(row for row in rows if row[0].startswith(" HiRED"))
    store = Store(runs)
    share = {}
    for method in ("hired", "full"):
        of = [r for r in store.accuracy() if f"-{method}-" in r.run and r.budget in (None, 0.1)]
        share[method] = {r.benchmark.name: store.score([r]).value for r in of}
    mean = np.mean([100 * share["hired"][b] / share["full"][b] for b in ("textvqa", "docvqa")])
    assert best[3].strip().startswith(f"**{mean:.1f}** [")
    assert "Not ranked, mini, bundled data: Random 10 % was not run on TextVQA." in printed
    assert "Not ranked, since they have no budget: PruMerge." in printed
    assert {file.name for file in tmp_path.iterdir()} == {
        f"rank_reading_10.{x}" for x in ("md", "tex", "csv", "html")
    }


def test_a_ranking_compares_with_the_method_that_is_asked_for(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        ["budget=0.1", "group=docvqa", "--against", "hired", "--runs-dir", str(runs), "--out", str(tmp_path)]
    )
    lines = capsys.readouterr().out.splitlines()
    below = {
        lines[i - 1].split("|")[1].strip()
        for i, line in enumerate(lines)
        if line.startswith("|   vs HiRED at the same budget")
    }
    assert below == {"Top-k CLS 10 %", "Spatial 10 %", "Random 10 %"}


def test_a_method_to_compare_with_that_was_not_run_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--runs-dir", str(runs), "--out", str(tmp_path)]
    main(["budget=0.1", "group=reading", "--against", "hired alpha=0.9", *folders])
    ranked = capsys.readouterr().out
    assert "vs " not in ranked.split("Score [")[0]
    said = "No difference to {}, mini, bundled data: there is no run of it on {}; run it there, or name with"
    assert said.format("HiRED, alpha=0.9 at 10 %", "TextVQA, DocVQA") in ranked
    report(["baselines", "--against", "hired", *folders])
    table = capsys.readouterr().out
    assert "vs HiRED at the same budget" in table
    assert "no run of it on" not in table
    assert "Without a difference, since they have no budget: Full, PruMerge." in table
    report(["baselines", "--against", "hired budget=0.2", *folders])
    assert said.format("HiRED 20 %", "VQAv2, TextVQA") in capsys.readouterr().out


def test_all_results_are_one_frame(runs: Path) -> None:
    found, store = frame(runs), Store(runs)
    assert len(found) == sum(len(store.samples(r)) for r in store.accuracy())
    means = found.groupby(["label", "benchmark"])["score"].mean()
    (hired,) = (r for r in store.accuracy() if r.run.startswith("docvqa-mini-hired-0.1"))
    assert 100 * means["HiRED 10 %", "docvqa"] == pytest.approx(store.score([hired]).value)
    assert set(found.loc[found["label"] == "HiRED 10 %", "budget"]) == {0.1}
    assert found.loc[found["label"] == "PruMerge", "budget"].isna().all()
    assert {"run", "seed", "model", "data", "options", "doc_id", "prediction", "kept", "full"} <= {
        *found.columns
    }
    none = frame(runs / "none")
    assert none.empty
    assert {*none.columns} <= {*found.columns}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget=0.3"], "no run has budget=0.3; write budget=SHARE with one of 0.1, 0.2"),
        (["group=reading"], "no budget is named; write budget=SHARE with one of 0.1, 0.2"),
        (["budget=0.1", "group=readin"], "there is no benchmark or group 'readin'; did you mean reading?"),
        (["budget=2"], "budget must be above 0 and at most 1, got 2"),
        (["0.1"], "'0.1' is not an option; write budget=0.1 or group=0.1"),
        (["bugdet=0.1"], "there is no option 'bugdet'; did you mean budget?"),
        (
            ["budget=0.2"],
            "no method was run at budget=0.2 on all of vqav2, textvqa, docvqa with full execution",
        ),
        (["budget=0.1", "--against", "hird"], "there is no method 'hird'; did you mean hired?"),
        (
            ["budget=0.1", "--against", "hired 0.2"],
            "--against hired 0.2: '0.2' is not an option; write NAME=VALUE",
        ),
    ],
)
def test_a_mistake_is_one_line(runs: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--runs-dir", str(runs), "--out", str(tmp_path)])
    assert str(ended.value).startswith(f"error: {message}")
    assert "\n" not in str(ended.value)
