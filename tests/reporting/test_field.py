"""The field's table: shares of full execution, numbers of tokens, protocols that share no cell."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from hired_eval.records.scores import SCORERS, mean_share, scorer_of
from hired_eval.records.store import Store
from hired_eval.reporting import render
from hired_eval.reporting.rows import label_of
from tests.reporting import synthetic
from tests.reporting.packaged import table
from tests.reporting.test_comparable import cells
from tests.reporting.test_statistics import frame

READ = ("docvqa", "textvqa", "chartqa", "vqav2")
MINI = "mini, bundled data"
FIXED = f"{MINI}, protocol=fixed_grid"


def test_the_mean_share_is_that_of_the_scores_and_pairs_its_images() -> None:
    half = SCORERS["mean"], [(frame([1.0, 0.0] * 20), frame([1.0] * 40))]
    equal = scorer_of("mean", 1), [(frame([0.0, 1.0] * 20), frame([0.0, 1.0] * 20))]
    found = mean_share([half, equal])
    assert found is not None
    assert found.value == 75.0
    assert found.shown_low is not None
    assert found.shown_high is not None
    assert 60 < found.shown_low < 75 < found.shown_high < 90
    alone = mean_share([equal])
    assert alone is not None
    assert (alone.value, alone.low, alone.high) == (100, 100, 100), "what is equal document by document"
    few = mean_share([half, (SCORERS["mean"], [(frame([1.0] * 5), frame([1.0] * 5))])])
    assert few is not None
    assert few.shown_low is None
    assert mean_share([half, (SCORERS["mean"], [(frame([0.0] * 40), frame([0.0] * 40))])]) is None


def test_the_share_of_full_needs_every_benchmark(runs: Path) -> None:
    for task in READ:
        synthetic.write_run(runs, "full", task, accuracy=0.9)
        synthetic.write_run(runs, "hired", task, accuracy=0.5, budget=0.2222)
    synthetic.write_run(runs, "random", "docvqa", accuracy=0.4, budget=0.2222)
    # a column of its own, which the mean leaves out
    synthetic.write_run(runs, "full", "pope", accuracy=0.9)
    store = Store(runs)
    made = table("field", store)
    found = {row.label: row.cells[0] for row in made.rows}
    value = found["HiRED 22.22 %"].value
    assert value is not None
    assert value == pytest.approx(
        100 * np.mean([pair["hired"] / pair["full"] for pair in _by_method(store)]), abs=1e-9
    )
    assert found["Full"].value == 100
    assert found["Random 22.22 %"].value is None
    assert all(cell.published is None for row in made.rows for cell in row.cells), "of another model"
    text = render.markdown(made)
    assert "Protocol: paper." in text
    assert "Mean of Full: " in text


def test_published_numbers_stand_beside_the_model_they_are_of(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", model="llava_next_7b")
    made = table("field", Store(runs))
    printed = {
        row.label: row.cells[1].published for row in made.rows if row.block.startswith("llava_next_7b")
    }
    assert printed["Full"] == "68.4 (SPIDER)"


def _by_method(store: Store) -> list[dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for record in store.accuracy():
        name = {"Full": "full", "HiRED": "hired"}.get(record.method_label, "other")
        found[record.benchmark.name][name] = store.score([record]).value
    return [found[task] for task in READ]


def test_runs_of_another_protocol_have_a_block_of_their_own(runs: Path) -> None:
    fixed = {"protocol": "fixed_grid"}
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.9)
    number = synthetic.write_run(runs, "hired", "docvqa", tokens=71, settings=fixed)
    own = synthetic.write_run(runs, "hired", "docvqa", accuracy=0.5, tokens=71)
    made = table("field", Store(runs))
    found = {key[:2]: cell for key, cell in cells(made).items() if key[2] == "DocVQA"}
    assert found[FIXED, "HiRED 71 tokens"].run == number.run
    assert found[FIXED, "HiRED 71 tokens"].difference is None, "full execution was not run there"
    assert found[MINI, "HiRED 71 tokens"].run == own.run
    assert found[MINI, "HiRED 71 tokens"].difference is not None
    assert label_of(number) == "HiRED 71 tokens"
    only = [line for line in render.comma_separated(made).splitlines() if number.run in line]
    assert only
    assert all("protocol=fixed_grid" in line and '""tokens"": 71' in line for line in only)


def test_a_protocol_is_named_even_where_no_run_has_another(runs: Path) -> None:
    synthetic.write_run(runs, "full", "docvqa", settings={"protocol": "fixed_grid"})
    assert {row.block for row in table("baselines", Store(runs)).rows} == {FIXED}


def test_other_positions_are_in_the_label(runs: Path) -> None:
    usual = synthetic.write_run(runs, "hired", "docvqa", budget=0.2222)
    other = synthetic.write_run(runs, "hired", "docvqa", budget=0.2222, positions="original")
    shown = {row.label: row.cells[1].run for row in table("field", Store(runs)).rows}
    assert shown == {"HiRED 22.22 %": usual.run, "HiRED 22.22 %, positions=original": other.run}
