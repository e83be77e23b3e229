"""Runs meet in a cell, a difference, a curve or a gallery only if all they differ in is named."""

import csv
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hired_eval.records.context import blocks_of, context_of
from hired_eval.records.record import Record, Timings
from hired_eval.records.store import Store
from hired_eval.reporting import render
from hired_eval.reporting.figures import baselines as curve
from hired_eval.reporting.gallery import entries
from hired_eval.reporting.rows import label_of, options_of, rows_of
from hired_eval.reporting.table import full_run_like, run_table
from hired_eval.reporting.tables import Cell, Table, TableRow
from tests.reporting import synthetic
from tests.reporting.packaged import baselines, table3, table4, table5, table6

SETTINGS: dict[str, Any] = {
    "prompt": "{images} {question}",
    "dtype": "bfloat16",
    "quantization": "8bit",
    "attention": "eager",
    "feature_layer": -1,
    "a_setting_of_later": 3,
}


def with_settings(record: Record, **changed: Any) -> Record:
    """The same run with other settings, in whatever part of its identity they are."""
    settings = record.identity.settings
    model = {k: changed.get(k, v) for k, v in settings["model"].items()}
    others = {k: v for k, v in changed.items() if k not in model}
    return replace(record, identity=replace(record.identity, settings={**settings, "model": model, **others}))


def cells(table: Table) -> dict[tuple[str, str, str], Cell]:
    return {
        (row.block, row.label, column): cell
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_with_another_setting_is_no_match_for_full_execution(runs: Path, name: str) -> None:
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.9)
    other = synthetic.write_run(
        runs, "hired", "docvqa", accuracy=0.2, settings={name: SETTINGS[name]}, finished="2026-02-01"
    )
    store = Store(runs)
    made = baselines(store)
    found = {key: cell for key, cell in cells(made).items() if cell.run}
    (key,) = (key for key, cell in found.items() if cell.run == other.run)
    assert name in key[0]
    assert found[key].difference is None
    assert any("full execution was not run with" in note and name in note for note in made.notes)
    assert full_run_like(other, store.records) is None


def test_settings_are_compared_as_they_are_resolved(runs: Path) -> None:
    """A layer counted from either end is one layer."""
    one = synthetic.write_run(runs, "full", "docvqa")
    other = synthetic.write_run(runs, "hired", "docvqa", settings={"feature_layer": 22})
    assert context_of(one) != context_of(other)
    asked = replace(one, config={**one.config, "model": {"feature_layer": 22}, "prompt": "q"})
    assert context_of(asked) == context_of(one)
    assert context_of(with_settings(other, feature_layer=-2)) == context_of(one)
    assert context_of(with_settings(one, prompt="q")) != context_of(one)


def test_each_block_is_compared_with_its_own_full_execution(runs: Path) -> None:
    for settings in ({}, {"dtype": "bfloat16"}):
        synthetic.write_run(runs, "full", "docvqa", accuracy=0.9 - 0.2 * len(settings), settings=settings)
        synthetic.write_run(runs, "hired", "docvqa", accuracy=0.6, settings=settings)
    synthetic.write_run(runs, "prumerge", "docvqa")
    made = table3(Store(runs))
    found = cells(made)
    usual, other = "mini, bundled data", "mini, bundled data, dtype=bfloat16"
    assert [row.block for row in made.rows] == [usual] * 6 + [other] * 2
    first, second = (found[block, "HiRED 20 %", "DocVQA"].difference for block in (usual, other))
    assert first is not None
    assert second is not None
    assert first.value < second.value
    assert "no difference" not in " ".join(made.notes)


def test_device_batch_size_and_where_things_lie_keep_nothing_apart(runs: Path) -> None:
    one = synthetic.write_run(runs, "full", "docvqa")
    other = with_settings(one, device="cuda:0", batch_size=1, runs_dir="elsewhere")
    model = {**other.identity.settings["model"], "path": "/moved", "alpha": 0.3, "device_map": "auto"}
    assert context_of(with_settings(other, model=model)) == context_of(one)
    unknown = {**model, "source": "somewhere@None"}
    assert context_of(with_settings(other, model=unknown)) != context_of(one), "the name is all that is known"


def test_a_patch_version_is_told_and_a_minor_one_keeps_runs_apart(runs: Path) -> None:
    package, number = "torch", synthetic.VERSIONS["torch"]
    patch = number.rsplit(".", 1)[0] + ".9+cu128"
    usual = synthetic.write_run(runs, "full", "docvqa")
    for name in ("lmms_eval", "transformers"):
        versions = {**usual.identity.versions, name: "9.9.0"}
        other = replace(usual, identity=replace(usual.identity, versions=versions))
        assert context_of(other) != context_of(usual)
    synthetic.write_run(runs, "hired", "docvqa", versions={package: patch})
    made = table3(Store(runs))
    assert cells(made)["mini, bundled data", "HiRED 20 %", "DocVQA"].difference is not None
    assert f"Versions differ between the runs: {package} {number} (1 runs), {patch} (1 runs)." in made.notes
    synthetic.write_run(runs, "prumerge", "docvqa", versions={package: "9.9.0"})
    assert cells(table3(Store(runs)))[f"mini, bundled data, {package}=9.9", "PruMerge", "DocVQA"].value


@pytest.mark.parametrize(("method", "option", "value"), [
    ("random", "spend_leftover", True), ("topk_cls", "final_layer", 3), ("spatial", "mode", "sampling"),
    ("hired", "head", 3), ("hired", "an_option_of_later", "x"), ("prumerge", "newline", "rows"),
])  # fmt: skip
def test_an_option_that_is_not_the_default_is_a_row_with_its_name(
    runs: Path, method: str, option: str, value: Any
) -> None:
    usual = synthetic.write_run(runs, method, "docvqa")
    other = synthetic.write_run(runs, method, "docvqa", finished="2026-02-01", **{option: value})
    assert options_of(usual) == {}
    rows = {row.label: row.cells[0].run for row in baselines(Store(runs)).rows}
    assert rows == {label_of(usual): usual.run, label_of(other): other.run}
    text = str(value).lower() if isinstance(value, bool) else value
    assert label_of(other) == f"{label_of(usual)}, {option}={text}"


def test_an_option_beside_that_of_a_named_row_keeps_a_run_out_of_it(runs: Path) -> None:
    single = synthetic.write_run(runs, "hired", "docvqa", heads="single")
    synthetic.write_run(runs, "hired", "docvqa", heads="single", head=3, finished="2026-02-01")
    made = table5(Store(runs))
    assert cells(made)["mini, bundled data", "one head", "DocVQA"].run == single.run
    assert any(note.startswith("Not in this table: 1 runs") for note in made.notes)


def test_a_method_that_was_run_by_two_names_is_one_row_with_both(runs: Path) -> None:
    one = synthetic.write_run(runs, "hired", "docvqa")
    other = synthetic.write_run(runs, "hired", "pope", budget=0.4)
    mine = synthetic.write_run(runs, "my_package.Mine", "docvqa")
    other_alpha = replace(one.method, options={**one.method.options, "alpha": 0.3})
    records = [
        replace(one, method_label="A"), replace(other, method_label="B"), replace(one, method_label="B"),
        replace(mine, method_label="Mine, really"), replace(one, method=other_alpha, method_label="C"),
    ]  # fmt: skip
    assert label_of(records[0]) == "A 20 %"
    assert [row.label for row in rows_of(records)] == [
        "A / B 40 %", "A / B 20 %", "C 20 %, alpha=0.3", "Mine, really 20 %",
    ]  # fmt: skip
    assert len(rows_of(records)[1].of(records)) == 2
    assert [row.label for row in rows_of([one, replace(mine, method_label="HiRED")])] == [
        "HiRED 20 % (HiRED)", "HiRED 20 % (my_package.Mine)",
    ]  # fmt: skip


def test_seeds_are_one_row_with_their_mean_and_spread(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.9)
    for seed, accuracy in ((0, 0.5), (1, 0.6), (2, 0.4)):
        synthetic.write_run(runs, "random", "docvqa", accuracy=accuracy, seed=seed)
    store = Store(runs)
    scores = {r.seed: r.score.value for r in store.accuracy() if r.score and "seed" in r.method.options}
    full = next(r.score.value for r in store.accuracy() if r.score and "seed" not in r.method.options)
    made = baselines(store)
    (row,) = (row for row in made.rows if row.label.startswith("Random"))
    assert row.label == "Random 20 %, seeds 0, 1, 2"
    cell = row.cells[0]
    mean = sum(scores.values()) / 3
    assert cell.value == pytest.approx(mean)
    assert dict(cell.seeds) == pytest.approx(scores)
    assert f" 3 seeds {min(scores.values()):.1f} to {max(scores.values()):.1f}" in cell.measured_text()
    assert cell.difference is not None
    assert cell.difference.value == pytest.approx(mean - full)
    assert cell.low is not None
    assert cell.low < min(scores.values()), "three seeds tell little of the mean over seeds"
    assert any(note.startswith("Several seeds: their mean") for note in made.notes)
    (line,) = (r for r in csv.DictReader(io.StringIO(render.comma_separated(made))) if r["seeds"])
    assert (line["seeds"], len(line["run"].split())) == ("0 1 2", 3)
    assert '"newline": "none"' in line["options"]


def test_one_seed_of_its_own_is_in_the_label(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa")
    assert label_of(synthetic.write_run(runs, "random", "docvqa", seed=4)) == "Random 20 %, seed=4"
    synthetic.write_run(runs, "hired", "docvqa", seed=5)
    labels = [row.label for row in baselines(Store(runs)).rows]
    assert labels == ["Full", "HiRED 20 %, seed 5", "Random 20 %, seed 4"]


def test_the_same_seed_again_is_no_second_seed(runs: Path) -> None:
    synthetic.write_run(runs, "random", "docvqa", accuracy=0.2, name="older")
    synthetic.write_run(runs, "random", "docvqa", accuracy=0.6, finished="2026-02-01", name="newer")
    (row,) = baselines(Store(runs)).rows
    assert (row.label, row.cells[0].run) == ("Random 20 %", "newer")


MINE = "<b>my_doc & 100 %</b>"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A method, a benchmark and a model of one's own, beside the usual ones."""
    runs = tmp_path_factory.mktemp("own")
    for model in ("mini", "my_llava"):
        for task in ("docvqa", MINE):
            synthetic.write_run(runs, "full", task, model=model)
            for method in ("hired", "my_package.Mine_2"):
                for budget in (0.2, 0.4):
                    accuracy = 0.8 - budget + len(method) / 50
                    synthetic.write_run(runs, method, task, model=model, budget=budget, accuracy=accuracy)
    return Store(runs)


def test_what_is_of_ones_own_has_its_row_column_and_block(own: Store) -> None:
    made = baselines(own)
    assert made.columns == ["DocVQA", MINE]
    assert {row.block for row in made.rows} == {"mini, bundled data", "my_llava, bundled data"}
    assert {"Mine_2 20 %", "Mine_2 40 %"} <= {row.label for row in made.rows}
    assert all(cell.value is not None for row in made.rows for cell in row.cells)
    paper = table3(own)
    assert paper.columns[-1] == MINE
    assert "Mine_2" in next(note for note in paper.notes if note.startswith("Not in this table: 8 runs"))


def test_what_is_of_ones_own_has_its_curve(own: Store) -> None:
    drawn = curve(own)
    assert "Mine_2" in drawn.alternative
    assert [axis.get_title() for axis in drawn.figure.axes] == ["DocVQA", MINE]
    assert len(drawn.figure.axes[1].containers) == 2, "full execution is the line at 100 %"
    assert "Not drawn: my_llava, bundled data (10 runs)." in drawn.notes


def test_names_of_ones_own_are_text_in_latex(own: Store) -> None:
    text = render.latex(baselines(own))
    assert r"\textless{}b\textgreater{}my\_doc \& 100 \%" in text
    assert r"Mine\_2 20 \%" in text
    starred = TableRow("block", "*mine", "-", ())
    assert "\n{}*mine & - " in render.latex(Table("t", "title", (), [starred]))


def test_a_class_of_somebody_elses_with_a_name_of_ours_is_another_method(runs: Path) -> None:
    ours = synthetic.write_run(runs, "hired", "docvqa")
    theirs = synthetic.write_run(runs, "other.HiRED", "docvqa", finished="2026-02-01")
    synthetic.write_run(runs, "one.Mine", "docvqa")
    synthetic.write_run(runs, "two.Mine", "docvqa")
    rows = {row.label: row.cells[0].run for row in baselines(Store(runs)).rows}
    assert rows["HiRED 20 %"] == ours.run
    assert rows["other.HiRED 20 %"] == theirs.run
    assert {"Mine 20 % (one.Mine)", "Mine 20 % (two.Mine)"} < rows.keys()


def test_a_curve_joins_runs_of_one_choice_of_options_and_settings(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa")
    for budget in (0.1, 0.2, 0.4):
        synthetic.write_run(runs, "topk_cls", "docvqa", budget=budget)
        synthetic.write_run(runs, "topk_cls", "docvqa", budget=budget, final_layer=3)
    for budget in (0.2, 0.4):
        synthetic.write_run(runs, "topk_cls", "docvqa", budget=budget, final_layer=1)
        synthetic.write_run(runs, "topk_cls", "docvqa", budget=budget, settings={"dtype": "float16"})
    drawn = curve(Store(runs))
    curves = {c.get_label(): len(c.lines[0].get_xdata()) for c in drawn.figure.axes[0].containers}
    assert curves == {"Top-k CLS": 3, "Top-k CLS, final_layer=3": 3}
    assert "Not drawn, options at fewer than three budgets: Top-k CLS, final_layer=1." in drawn.notes
    assert "Not drawn: mini, bundled data, dtype=float16 (2 runs)." in drawn.notes


def test_a_curve_of_many_methods_names_a_few_and_gives_no_colour_twice(runs: Path) -> None:
    synthetic.write_curve(runs)
    for name in ("One", "Two", "Three", "Four", "Five"):
        for budget in (0.1, 0.4):
            synthetic.write_run(runs, f"my.{name}", "docvqa", budget=budget)
    drawn = curve(Store(runs))
    (axis,) = (axis for axis in drawn.figure.axes if axis.containers)
    assert axis.get_xscale() == "log"
    assert {c.get_label() for c in axis.containers} == {"HiRED", "Top-k CLS", "Random", "Spatial"}
    colours = [c.lines[0].get_color() for c in axis.containers]
    assert len(set(colours)) == 4
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()][-1] == "others"
    assert any(note.startswith("In grey: ") and "Five" in note for note in drawn.notes)


def test_the_gallery_has_ones_own_benchmark_and_keeps_settings_apart(runs: Path) -> None:
    synthetic.write_gallery(runs)
    synthetic.write_gallery(runs, task="my_doc", settings={"dtype": "float16"})
    found = entries(Store(runs))
    assert {(e.block, e.benchmark) for e in found} == {
        ("mini, bundled data", "DocVQA"), ("mini, bundled data, dtype=float16", "my_doc"),
    }  # fmt: skip
    assert all([s.label for s in e.shown] == ["Full", "PruMerge", "HiRED 20 %"] for e in found)


def test_times_of_other_workloads_devices_or_settings_stand_apart(runs: Path) -> None:
    for name, device, settings in (
        ("one", "cpu", {}), ("two", "cuda:0", {}), ("three", "cpu", {"dtype": "float16"}),
    ):  # fmt: skip
        for method in ("full", "my_own"):
            kind = {"my_own": "hired"}.get(method, method)
            synthetic.write_measurement(
                runs, "efficiency", {}, method=kind, name=f"{name}-{method}", settings=settings, batch_size=1,
                tokens_kept=64.0, efficiency=synthetic.SPEED,
                timings=Timings(device=device, machine="synthetic"),
            )  # fmt: skip
    made = table4(Store(runs))
    assert {row.block for row in made.rows if any(cell.value for cell in row.cells)} == {
        "mini, batch 1", "mini, batch 1, device=cuda:0", "mini, batch 1, dtype=float16",
    }  # fmt: skip


def test_a_model_with_one_partition_is_known_by_its_tokens(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", model="mini_1_5")
    record = synthetic.write_run(runs, "full", "docvqa", model="mini")
    assert record.tokens.full is not None
    assert record.tokens.full.max != record.tokens.full.mean
    assert {row.block for row in table6(Store(runs)).rows} == {"mini_1_5, bundled data"}
    assert {row.block for row in table3(Store(runs)).rows} == {"mini, bundled data"}


def test_runs_scored_otherwise_or_on_earlier_documents_are_left_out_with_a_line(runs: Path) -> None:
    older = synthetic.write_run(runs, "full", "docvqa", documents_are="older")
    synthetic.write_run(runs, "hired", "docvqa", finished="2026-03-01")
    made = baselines(Store(runs))
    assert older.run not in {cell.run for row in made.rows for cell in row.cells}
    line = next(note for note in made.notes if note.startswith("Left out"))
    assert "another version of the documents of bundled docvqa (1)" in line


def test_a_table_of_runs_names_what_they_differ_in(runs: Path) -> None:
    one = synthetic.write_run(runs, "hired", "docvqa", documents=30)
    store = Store(runs)
    assert "| 15 " in run_table([(store, one)])
    assert "mini" not in run_table([(store, one)])
    other = synthetic.write_run(runs, "hired", "docvqa", settings={"dtype": "float16"}, alpha=0.3)
    text = run_table([(store, one), (store, other)])
    assert "mini, bundled data, dtype=float16 " in text
    assert "HiRED 20 %, alpha=0.3" in text


def test_a_long_setting_is_shown_where_it_differs(runs: Path) -> None:
    start, end = "A chat between a human and an assistant. " * 3, " {images} {question} ASSISTANT:" * 2
    for middle, task in (("one", "docvqa"), ("one", "vqav2"), ("two\n", "docvqa")):
        synthetic.write_run(runs, "full", task, settings={"prompt": f"{start}{middle}{end}"})
    usual, other = blocks_of(Store(runs).accuracy())
    assert usual.settings == ""
    assert other.settings == r'prompt="...istant. two\n {images..."'


def test_a_copied_folder_has_its_own_samples(runs: Path) -> None:
    record = synthetic.write_run(runs, "full", "docvqa")
    (runs / record.run).rename(runs / "kept-for-later")
    (row,) = baselines(Store(runs)).rows
    assert row.cells[0].run == "kept-for-later"


def test_importing_reports_imports_no_model_library() -> None:
    folder = Path(render.__file__).parent
    modules = [f"hired_eval.reporting.{f.stem}" for f in sorted(folder.glob("[!_]*.py"))]
    assert len(modules) > 12
    code = (
        f"import sys, {', '.join(modules)}, hired_eval.reporting.__main__\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'lmms_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
