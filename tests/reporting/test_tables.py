"""The tables, from synthetic records: which run fills which cell, and what is said beside it."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hired_eval.records.store import Store
from hired_eval.reporting import render
from hired_eval.reporting.choosing import NothingYetError
from hired_eval.reporting.tables import Cell, Table
from tests.reporting import synthetic
from tests.reporting.packaged import baselines, table3, table4, table5, table6


def cells(table: Table) -> dict[tuple[str, str], Cell]:
    return {
        (row.label, column): cell
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    }


def test_table3_is_complete_and_stands_beside_the_paper(table3_store: Store) -> None:
    made = table3(table3_store)
    found = cells(made)
    assert len(found) == 6 * 8
    assert all(cell.value is not None and cell.published for cell in found.values())
    assert found["HiRED 20 %", "DocVQA"].published == "60.8"
    assert found["Full", "DocVQA"].difference is None
    difference = found["PruMerge", "DocVQA"].difference
    assert difference is not None
    assert difference.beyond_noise
    assert found["HiRED 20 %", "OCRBench"].digits == 0
    text = render.markdown(made)
    assert "llava_next_7b is its LLaVA-Next-7B" in text
    assert "LLaVA-Next-13B: not run; profile=paper runs it." in text
    assert "lmms-eval 0.7.3, transformers 5.23.0" in text
    assert "commit 0123456789ab" in text


def test_a_missing_cell_is_a_dash_with_its_reason(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa")
    synthetic.write_failure(runs, "prumerge", "docvqa", "no space left on device")
    text = render.markdown(table3(Store(runs)))
    assert "PruMerge on DocVQA: failed (no space left on device)" in text
    assert "Spatial 40 %, PruMerge+, HiRED 20 %, HiRED 40 % on VQAv2, ScienceQA" in text
    assert "python -m hired_eval -m +experiment=table3" in text
    row = next(line for line in text.splitlines() if line.startswith("| PruMerge "))
    assert {cell.strip() for cell in row.split("|")[3:-1]} == {"-"}


def test_partial_and_dummy_results_are_marked(runs: Path) -> None:
    synthetic.write_run(runs, "full", "ocrbench", answered=20)
    synthetic.write_run(runs, "full", "docvqa", answered=20, weights="dummy", model="llava_next_7b")
    text = render.markdown(table3(Store(runs)))
    assert "*#" in text
    assert "Mark *: on a part of the benchmark" in text
    assert "Mark #: a share of the questions in %" in text
    assert "*+" in text
    assert "llava_next_7b, bundled data, dummy weights" in text
    ocrbench = cells(table3(Store(runs)))["Full", "OCRBench"]
    assert ocrbench.value is None or ocrbench.value <= 100


def test_a_complete_run_goes_before_a_newer_part(runs: Path) -> None:
    whole = synthetic.write_run(runs, "full", "docvqa", finished="2026-01-01T00:00:00")
    synthetic.write_run(runs, "full", "docvqa", answered=10, finished="2026-02-01T00:00:00")
    assert cells(table3(Store(runs)))["Full", "DocVQA"].run == whole.run


def test_runs_of_an_earlier_checkpoint_are_left_out(runs: Path) -> None:
    """Full with old weights beside HiRED with new ones would be no comparison."""
    synthetic.write_run(runs, "full", "docvqa", checkpoint="old")
    synthetic.write_run(runs, "hired", "docvqa", checkpoint="new", finished="2026-03-01")
    made = table3(Store(runs))
    assert cells(made)["Full", "DocVQA"].value is None
    assert cells(made)["HiRED 20 %", "DocVQA"].difference is None
    assert (
        "Left out: 1 runs that are older than runs with another checkpoint of mini pretrained (1)"
        in render.markdown(made)
    )


def test_design_choices_do_not_leak_into_the_default_row(runs: Path) -> None:
    default = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.8)
    synthetic.write_run(runs, "hired", "docvqa", accuracy=0.3, finished="2026-02-01", alpha=0.25)
    evenly = synthetic.write_run(
        runs, "hired", "docvqa", accuracy=0.4, finished="2026-02-02", distribute="even"
    )
    by_final = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.5, initial_layer=None)
    first = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.6, final_layer=0)
    middle = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.7, final_layer=11)
    single = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.75, heads="single")
    assert cells(table3(Store(runs)))["HiRED 20 %", "DocVQA"].run == default.run
    found = {
        label: cell.run for (label, column), cell in cells(table5(Store(runs))).items() if column == "DocVQA"
    }
    assert found == {
        "Full": None,
        "budget evenly": evenly.run,
        "budget by the final layer": by_final.run,
        "budget by layer 0 (default)": default.run,
        "drop by layer 0": first.run,
        "drop by a middle layer": middle.run,
        "drop by the final layer (default)": default.run,
        "one head": single.run,
        "sum of heads (default)": default.run,
    }


def test_table6_takes_single_partition_models_alone(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa")
    with pytest.raises(NothingYetError, match=r"no complete run for table6 .* \+experiment=table6"):
        table6(Store(runs))
    synthetic.write_run(runs, "full", "docvqa", model="mini_1_5")
    made = table6(Store(runs))
    assert {row.block for row in made.rows} == {"mini_1_5, bundled data"}
    assert cells(made)["Full", "DocVQA"].published is None, "the paper has no such model"
    assert not any("arXiv" in note for note in made.notes)


def test_table4_has_the_numbers_or_says_that_memory_ran_out(runs: Path) -> None:
    synthetic.write_measurement(
        runs,
        "efficiency",
        {},
        method="full",
        model="llava_next_7b",
        batch_size=4,
        out_of_memory=True,
        tokens_kept=None,
        efficiency=None,
    )
    synthetic.write_measurement(
        runs, "efficiency", {}, method="hired", batch_size=4, out_of_memory=False, tokens_kept=64.0,
        efficiency=synthetic.SPEED, model="llava_next_7b",
    )  # fmt: skip
    made = table4(Store(runs))
    found = cells(made)
    assert found["Full", "tokens/s"].measured_text() == "OOM"
    assert found["Full", "tokens/s"].published == "OOM"
    assert found["HiRED 20 %", "tokens/s"].measured_text() == "2.00 [1.50, 2.50]"
    assert found["HiRED 20 %", "peak memory, GB"].measured_text() == "3.25"
    assert found["HiRED 20 %", "time to first token, s"].published == "13.60"
    assert found["HiRED 40 %", "tokens/s"].measured_text() == "-"


def test_baselines_has_a_row_for_each_method_and_budget(runs: Path) -> None:
    synthetic.write_curve(runs)
    labels = [row.label for row in baselines(Store(runs)).rows]
    assert labels[0] == "Full"
    assert "HiRED 5 %" in labels
    assert len(labels) == len(set(labels)) == 1 + 4 * 6


def test_a_difference_over_fewer_samples_than_the_score_says_so(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", documents=60, answered=20)
    synthetic.write_run(runs, "hired", "docvqa", budget=0.2, documents=60)
    found = cells(table3(Store(runs)))
    assert found["Full", "DocVQA"].measured_text().endswith(" n=20 (10 pictures)")
    assert not found["HiRED 20 %", "DocVQA"].n_text()
    assert found["HiRED 20 %", "DocVQA"].difference_text().endswith(" n=20 (10 pictures)")


def test_the_best_of_a_block_is_bold_full_execution_apart(runs: Path) -> None:
    """Of runs of one method under two names, in Table 5, all lines; of a run alone, none."""
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.95)
    synthetic.write_run(runs, "hired", "docvqa", accuracy=0.7)
    assert not any(cell.best for cell in cells(table5(Store(runs))).values())
    synthetic.write_run(runs, "hired", "docvqa", accuracy=0.4, distribute="even")
    made = table5(Store(runs))
    best = {label for (label, _), cell in cells(made).items() if cell.best}
    names = ("budget by layer 0", "drop by the final layer", "sum of heads")
    assert best == {f"{name} (default)" for name in names}
    assert re.search(r"\n\| sum of heads \(default\) .*\*\*\d+\.\d\*\* \[", render.markdown(made))
    assert any(note.startswith("Bold: the best") for note in made.notes)


def test_table5_compares_with_its_default(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.95)
    default = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.7)
    evenly = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.4, distribute="even")
    store = Store(runs)
    made = table5(store)
    found = cells(made)
    difference = found["budget evenly", "DocVQA"].difference
    assert difference == store.difference([(evenly, default)])
    assert found["Full", "DocVQA"].difference is not None
    assert found["budget by layer 0 (default)", "DocVQA"].difference is None
    assert "|   vs the default " in render.markdown(made)
    assert "difference to the default on the same documents" in render.markdown(made)
    assert ",the default,-" in render.comma_separated(made)


def test_csv_holds_every_number_once(table3_store: Store) -> None:
    lines = list(csv.DictReader(io.StringIO(render.comma_separated(table3(table3_store)))))
    assert len(lines) == 48
    one = next(line for line in lines if line["row"] == "HiRED 40 %" and line["column"] == "MME")
    assert one["published"] == "1474"
    assert float(one["low"]) <= float(one["value"]) <= float(one["high"])
    assert float(one["p"]) > 0
    assert one["n"] == "20"
    assert 100 < float(one["tokens_kept"]) < float(one["tokens_full"])
    assert one["against"] == "Full"
    assert '"budget": 0.4' in one["options"]


HOSTILE_TEX = r"\input{x} 50 % of $HOME & a_b #1 {~}^"


def test_latex_fits_the_page_and_is_inert(runs: Path, table3_store: Store, tmp_path: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa")
    synthetic.write_run(runs, HOSTILE_TEX, "docvqa")
    synthetic.write_failure(runs, "random", "docvqa", f"{HOSTILE_TEX}\n\\input{{y}}")
    small, large = render.latex(baselines(Store(runs))), render.latex(table3(table3_store))
    assert (
        r"\textbackslash{}input\{x\} 50 \% of \$HOME \& a\_b \#1 \{\textasciitilde{}\}\textasciicircum{}"
        in small
    )
    for text in (small, large):
        lines = text.splitlines()
        code = "\n".join(line for line in lines if not line.startswith("%"))
        assert all(rule in code for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
        assert r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" in code
        assert code.count("{") - code.count(r"\{") == code.count("}") - code.count(r"\}")
        assert r"\input" not in code
        assert "lmms-eval 0.7.3" not in code, "a comment"
        (caption,) = (line for line in lines if r"\caption" in line)
        assert len(caption) < 400
    assert r"\begin{table}[t]" in small
    assert r"\begin{table*}[t]" in large
    body = [line for line in large.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.replace(r"\&", "").count("&") for line in body} == {9}
    if shutil.which("pdflatex"):
        packages = r"\usepackage{booktabs}\usepackage{graphicx}\usepackage{xcolor}"
        head = f"\\documentclass[twocolumn]{{article}}{packages}\\begin{{document}}"
        (tmp_path / "t.tex").write_text(f"{head}{small}\n{large}\\end{{document}}")
        subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=True)
        assert "Overfull" not in (tmp_path / "t.log").read_text()


def test_a_table_longer_than_a_page_goes_on_in_another(runs: Path, tmp_path: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa")
    for percent in range(1, 91):
        synthetic.write_run(runs, "hired", "docvqa", budget=percent / 100)
    text = render.latex(baselines(Store(runs)))
    parts = text.split(r"\end{table}")[:-1]
    rows = [
        [line for line in part.splitlines() if re.search(r"^(HiRED|Full)|quad vs", line)] for part in parts
    ]
    assert len(parts) == 5
    assert max(map(len, rows)) <= render.LINES_OF_A_PAGE
    assert [line.split(" &")[0] for part in rows for line in part if "quad" not in line] == [
        "Full",
        *(f"HiRED {percent} \\%" for percent in range(90, 0, -1)),
    ]
    assert all(first.startswith(("HiRED", "Full")) for first, *_ in rows), "no row is cut in two"
    assert [part.count("(continued)") for part in parts] == [0, 1, 1, 1, 1]
    assert text.count(r"\label") == 1
    if shutil.which("pdflatex"):
        packages = r"\usepackage{booktabs}\usepackage{graphicx}\usepackage{xcolor}"
        (tmp_path / "t.tex").write_text(
            f"\\documentclass{{article}}{packages}\\begin{{document}}{text}\\end{{document}}"
        )
        subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=True)
        assert "too large" not in (tmp_path / "t.log").read_text()


def test_a_bar_in_a_cell_does_not_break_markdown() -> None:
    text = render.aligned([["a", "b"], ["x|y", "line\nbreak"]])
    assert text.splitlines()[2] == r"| x\|y | line break |"


def test_the_baselines_have_a_block_a_model_and_their_dashes_are_not_listed_one_by_one(runs: Path) -> None:
    for method, budget in (("hired", 0.2), ("random", 0.2), ("random", 0.4)):
        synthetic.write_run(runs, method, "docvqa", budget=budget)
    synthetic.write_run(runs, "hired", "vqav2", budget=0.2)
    synthetic.write_run(runs, "full", "docvqa", model="mini_1_5")
    synthetic.write_failure(runs, "random", "vqav2", "no space left on device")
    made = baselines(Store(runs))
    assert [row.block for row in made.rows] == ["mini, bundled data"] * 3 + ["mini_1_5, bundled data"]
    (note,) = (note for note in made.notes if note.startswith("A dash: "))
    assert note.startswith("A dash: not run; Random 20 % on VQAv2: failed (no space left on device). python")


@pytest.mark.parametrize(("method", "other"), [("full", "none"), ("hired", "rows")])
def test_another_layout_of_newline_tokens_is_another_design_choice(
    runs: Path, method: str, other: str
) -> None:
    """Full execution has newline tokens as stock models do; a later run without them is not its row."""
    usual = synthetic.write_run(runs, method, "docvqa", budget=0.2 if method == "hired" else None)
    later = "2026-02-01T00:00:00+00:00"
    unusual = synthetic.write_run(runs, method, "docvqa", budget=usual.budget, finished=later, newline=other)
    assert usual.run != unusual.run
    made = table3(Store(runs))
    assert {cell.run for row in made.rows for cell in row.cells if cell.run} == {usual.run}
    assert any(note.startswith("Not in this table: 1 runs") for note in made.notes)
    shown = {row.label: cell.run for row in baselines(Store(runs)).rows for cell in row.cells}
    label = "Full" if method == "full" else "HiRED 20 %"
    assert shown == {label: usual.run, f"{label}, newline={other}": unusual.run}


def test_a_partial_number_has_its_n_in_every_format(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", answered=20)
    made = table3(Store(runs))
    assert "n=20" in render.markdown(made)
    assert "n=20" in render.latex(made)
    synthetic.write_run(runs, "full", "docvqa")
    assert "n=" not in render.markdown(table3(Store(runs)))


def test_latex_has_the_differences_to_full_execution(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.9)
    synthetic.write_run(runs, "prumerge", "docvqa", accuracy=0.2)
    line = next(line for line in render.latex(table3(Store(runs))).splitlines() if "quad vs Full" in line)
    assert re.search(r"\$-\d+\.\d\^\\dagger\$ \{\\scriptsize", line)


def test_a_measurement_with_an_earlier_checkpoint_is_left_out(runs: Path) -> None:
    synthetic.write_measurement(runs, "gallery", {}, samples=2, checkpoint="old")
    synthetic.write_run(runs, "full", "docvqa", checkpoint="new", finished="2027-03-01")
    assert Store(runs).measuring("gallery") == []
