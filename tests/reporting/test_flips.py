"""Flips between two runs, and differences of a table adjusted for how many there are."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hired_eval.records.flips import KINDS, find_flips
from hired_eval.records.statistics import adjust_for_many
from hired_eval.records.store import Store
from hired_eval.reporting import render
from hired_eval.reporting.kinds import make
from hired_eval.reporting.spec import read_spec
from hired_eval.reporting.tables import Cell
from tests.reporting import synthetic


def samples(scores: list[Any], predictions: str) -> pd.DataFrame:
    n = len(scores)
    return pd.DataFrame(
        {"doc_id": range(n), "score": pd.array(scores, dtype="float64"), "prediction": [*predictions]}
        | {"question": [f"q{i}" for i in range(n)], "target": "t", "kept": range(10, 10 + n)}
    )


def test_a_flip_is_another_score_or_another_text() -> None:
    before = samples([1, 0, 0.5, 1, None, None, 0.2], "aaaaaaa")
    after = samples([0, 1, 0.5, 1, None, None, 0.9], "babaaca").iloc[::-1]
    found = find_flips(before, after)
    assert found.compared == 7
    kinds = dict(zip(found.documents["doc_id"], found.documents["kind"], strict=True))
    assert kinds == {
        0: "right to wrong",
        1: "wrong to right",
        2: "other text",
        5: "other text",
        6: "wrong to right",
    }
    assert [found.count(kind) for kind in KINDS] == [1, 2, 2]
    assert found.percent("wrong to right") == pytest.approx(200 / 7)
    first = found.documents.iloc[0]
    assert (first["prediction_before"], first["prediction_after"], first["question"]) == ("a", "b", "q0")
    assert (first["kept_before"], first["kept_after"]) == (10, 10)


def test_only_documents_that_both_answered_are_compared() -> None:
    found = find_flips(samples([1, 1], "aa"), samples([0, 0, 0], "bbb"))
    assert (found.compared, len(found.documents)) == (2, 2)
    assert find_flips(samples([1], "a").iloc[:0], samples([1], "a")).percent("other text") == 0


def test_p_values_of_many_tests_are_raised_after_holm() -> None:
    """Holm's own procedure: 0.01 * 4, then 0.02 * 3, the third no lower than that, the last alone."""
    assert adjust_for_many([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert adjust_for_many([0.6, 0.7]) == [1.0, 1.0]
    assert adjust_for_many([]) == []


@given(st.lists(st.floats(0.0005, 1), min_size=1, max_size=9))
def test_adjusted_values_keep_their_order_and_never_fall(p: list[float]) -> None:
    found = adjust_for_many(p)
    assert all(a >= b for a, b in zip(found, p, strict=True))
    assert max(found) <= 1
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [found[i] for i in order] == sorted(found)
    assert found[order[0]] == min(1, len(p) * min(p))


@pytest.fixture
def table(runs: Path, tmp_path: Path) -> Any:
    """Full, and a worse and a slightly worse run on one benchmark."""
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.85)
    synthetic.write_run(runs, "hired", "docvqa", accuracy=0.84, budget=0.4)
    synthetic.write_run(runs, "spatial", "docvqa", accuracy=0.4, budget=0.4)
    file = tmp_path / "mine.yaml"
    file.write_text("title: Mine\ncolumns: [docvqa, {name: docvqa, show: flips}]\n")
    return make(read_spec(file), Store(runs))


def test_flips_are_a_column_of_a_table(table: Any, runs: Path) -> None:
    assert table.columns == ["DocVQA", "DocVQA, flips in %"]
    store = Store(runs)
    of = {row.label: row.cells for row in table.rows}
    full = next(r for r in store.records if "full" in r.run)
    spatial = next(r for r in store.records if "spatial" in r.run)
    before, after = store.samples(full)["score"], store.samples(spatial)["score"]
    lost, gained = 100 * (after < before).mean(), 100 * (after > before).mean()
    assert lost > 20
    assert of["Spatial 40 %"][1].number_text() == f"{lost:.1f} / {gained:.1f} / 0.0"
    assert of["Full"][1].number_text() == "-"
    assert "from wrong to right" in render.markdown(table)
    assert f",{lost:.1f} / {gained:.1f} / 0.0," in render.comma_separated(table)


def test_a_difference_that_holds_for_the_whole_table_has_two_marks(table: Any) -> None:
    of = {row.label: row.cells[0] for row in table.rows}
    assert of["Full"].p_adjusted is None
    p, adjusted = of["Spatial 40 %"].difference.p, of["Spatial 40 %"].p_adjusted
    assert adjusted == pytest.approx(2 * p)
    assert " !!" in of["Spatial 40 %"].difference_text()
    assert " ~" in of["HiRED 40 %"].difference_text()
    weak = Cell(80.0, n=60, difference=of["Spatial 40 %"].difference, p_adjusted=0.2)
    assert weak.difference_text().count("!") == 1
