"""The comparisons of `make bench`: both ways give the same result, and the table says what was measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import end_to_end, parts
from bench.harness import Comparison, agreement, in_turns, table, together
from bench.prumerge_loop import drop_in_loops
from hired_eval import PartitionLayout
from hired_eval.dropping.prumerge import PruMerge
from hired_eval.dropping.registry import build
from hired_eval.dropping.testing import unpad
from hired_eval.mini import checkpoint_path
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.runs.options import Workload
from tests.selected import Kept, drop

CPU = torch.device("cpu")
SMALL = PartitionLayout(1, 2, (7, 7), (70, 140))
WORK = Workload(width=112, height=112, text_tokens=7, new_tokens=3, warm_up=0, repeats=1)


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_the_loop_gives_what_the_method_gives(name: str) -> None:
    encoding = parts.random_encoding(CPU, SMALL)
    method: Any = build(name)
    assert isinstance(method, PruMerge)
    looped, vectorised = Kept(*unpad(drop_in_loops(method, encoding, SMALL))), drop(method, encoding, SMALL)
    assert sum(len(i) for i in looped.indices) > 3, "some tokens must stand out"
    for a, b in zip(looped.indices, vectorised.indices, strict=True):
        assert a.equal(b)
    for a, b in zip(looped.features, vectorised.features, strict=True):
        torch.testing.assert_close(a, b)


def test_the_cls_row_is_a_row_of_the_whole_attention() -> None:
    (row,) = parts.cls_rows(CPU, repeats=1, partitions=1, calls=1)
    assert float(row.same.split()[-1]) < 1e-6
    assert row.row()[0].startswith("(c)")


def test_parts_run_on_a_model(llava_next: tuple[Any, Any]) -> None:
    checkpoint = Checkpoint(*llava_next)
    rows = [*parts.dropping(checkpoint, WORK, 1), *parts.selection(checkpoint, WORK, 1)]
    assert [row.what[:3] for row in rows] == ["(b)", "(b)", "(g)"]
    assert rows[0].target is not None
    assert rows[1].target is not None
    assert 0.9 < rows[0].target < rows[1].target, "fewer tokens, less arithmetic"
    (_, stock), *here = parts.vision_memory(checkpoint, WORK)
    assert [what for what, _ in here] == ["full", "hired 20 %"]
    assert all(0 < gigabytes < stock for _, gigabytes in here)


def test_ratios_are_medians_of_pairs() -> None:
    comparison = Comparison("(x)", "a", "b", [(2.0, 1.0), (9.0, 3.0), (4.0, 1.0)], "", target=3.0)
    assert comparison.ratios == [2.0, 3.0, 4.0]
    assert comparison.reached
    assert comparison.row()[5] == "3.00x (2.00x to 4.00x)"
    share = Comparison("(x)", "a", "b", [(100.0, 2.0)], "", target=0.01, share=True)
    assert share.reached is False
    assert "2.00%" in table([share])
    total = together("(x) all", [comparison, comparison], None)
    assert total.pairs == [(4.0, 2.0), (18.0, 6.0), (8.0, 2.0)]


def test_both_ways_are_warmed_up_and_take_turns() -> None:
    calls: list[str] = []
    pairs, first, second = in_turns(lambda: calls.append("a") or 1, lambda: calls.append("b") or 2, 3)
    assert "".join(calls) == "abababab"
    assert (len(pairs), first, second) == (3, 1, 2)


def test_answers_that_differ_are_counted() -> None:
    assert agreement(["a", "b"], ["a", "b"]) == "all 2 answers"
    assert agreement(["a", "b"], ["a", "c"]) == "1 of 2 answers"


@pytest.fixture
def setting() -> end_to_end.Setting:
    return end_to_end.Setting(str(checkpoint_path()), "cpu", documents=6, batch_size=4, repeats=1)


def test_full_execution_answers_as_llava_hf_does(setting: end_to_end.Setting) -> None:
    rows = end_to_end.against_llava_hf(setting, ("pope", "docvqa"))
    assert [row.same for row in rows] == ["all 6 answers", "all 6 answers", "all", "no answers"]
    assert "what is possible" in rows[-1].what
    assert [base for base, _ in rows[-1].pairs] == [base for base, _ in rows[-2].pairs]


def test_sharing_and_caching_change_no_answer(setting: end_to_end.Setting) -> None:
    rows = [*end_to_end.prefix_sharing(setting), *end_to_end.encode_once(setting, ("pope",))]
    assert [row.same for row in rows] == ["all 6 answers"] * 3 + ["all 36 answers", "all"]


@pytest.mark.parametrize("task", ["docvqa", "ocrbench", "vqav2"])
@pytest.mark.parametrize(("method", "options"), [("full", {}), ("hired", {"budget": 0.2})])
def test_no_optimisation_changes_an_answer_of_the_bundled_model(
    setting: end_to_end.Setting, task: str, method: str, options: dict[str, Any]
) -> None:
    """One question at a time with nothing shared, and batches with all there is."""
    (work,) = end_to_end.workloads((task,), 16)
    dropper = build(method, **options)
    plainly = end_to_end.Runner(replace(setting, batch_size=1)).answer(work, dropper, share_prefix=False)
    runner = end_to_end.Runner(replace(setting, batch_size=8))
    assert runner.answer(work, dropper) == plainly
    together = runner.answer_together(work, [build("prumerge"), dropper, build("random", budget=0.3)])
    assert together[len(plainly) : 2 * len(plainly)] == plainly, "in one pass with other methods"


def test_the_table_goes_between_the_marks() -> None:
    from bench.__main__ import END, START

    text = (Path(__file__).parents[1] / "docs" / "speed.md").read_text()
    assert text.count(START) == 1
    assert text.count(END) == 1
    assert text.index(START) < text.index(END)
