"""A mistake in a method from elsewhere is one line that says where; running out of memory is none of it."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
from torch import OutOfMemoryError, Tensor

from hired_eval.dropping import Layouts, SelectingDropper, VisionEncoding
from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.layer_stage import LayerSignals
from hired_eval.errors import UserError
from tests.models.test_apply import generate, inputs_for

RAISED = {
    "a key": KeyError("x"),
    "a number": ZeroDivisionError(),
    "memory": OutOfMemoryError("out of memory"),
}


@dataclass(frozen=True, kw_only=True)
class Faulty(SelectingDropper):
    fault: str = "a key"

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> Tensor:
        if self.fault == "nothing":
            return None  # type: ignore[return-value]  # as a return that is forgotten
        if self.fault == "a list":
            return encoding.features.sum(2).tolist()  # type: ignore[no-any-return]
        if self.fault == "deeper":
            return encoding.features.view(-1, 7, 7, 7)
        raise RAISED[self.fault]


@dataclass(frozen=True, kw_only=True)
class FaultyInside(FastV):
    def score(self, signals: LayerSignals) -> Tensor:
        raise KeyError("y")


@dataclass(frozen=True, kw_only=True)
class KeepsOddly(FastV):
    fault: str

    def kept(self, scores: Tensor, signals: LayerSignals, counts: Tensor) -> Tensor:
        kept = super().kept(scores, signals, counts)
        if self.fault == "a key":
            raise KeyError("z")
        if self.fault == "one more":
            return kept | (signals.visual & (kept.cumsum(1) == 0))
        if self.fault == "text":
            return kept | signals.text
        return kept.float() if self.fault == "numbers" else kept[:, 1:]


@dataclass(frozen=True, kw_only=True)
class AsksOddly(FastV):
    def raters(self, embeddings: Tensor, visual: Tensor, words: Tensor, shown: Tensor) -> Tensor:
        raise IndexError("w")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (Faulty(), r"the method Faulty fails: KeyError: 'x' \(test_own_methods.py, line \d+, in score\)"),
        (
            Faulty(fault="a number"),
            r"the method Faulty fails: ZeroDivisionError: ZeroDivisionError \(test_own.*",
        ),
        (Faulty(fault="deeper"), r"the method Faulty fails: RuntimeError: shape .* \(test_own.*, in score\)"),
        (Faulty(fault="nothing"), r"Faulty.score must give one number .*; it gave NoneType, not a tensor"),
        (Faulty(fault="a list"), r"Faulty.score must give one number .*; it gave list, not a tensor"),
        (
            FaultyInside(layer=1),
            r"the method FaultyInside fails: KeyError: 'y' \(test_own_methods.py, .*, in score\)",
        ),
        (KeepsOddly(layer=1, fault="a key"), r"the method KeepsOddly fails: KeyError: 'z' \(.*, in kept\)"),
        (
            KeepsOddly(layer=1, fault="numbers"),
            r"KeepsOddly.kept must give a bool for each column, \(B, n\) = .*; it gave torch.float32 .*",
        ),
        (
            KeepsOddly(layer=1, fault="fewer columns"),
            r"KeepsOddly.kept must give a bool .* torch.bool \(1, .*",
        ),
        (
            KeepsOddly(layer=1, fault="one more"),
            r"KeepsOddly.kept must keep visual tokens alone, in each row .*",
        ),
        (KeepsOddly(layer=1, fault="text"), r"KeepsOddly.kept must keep visual tokens alone, in each row .*"),
        (
            AsksOddly(layer=1),
            r"the method AsksOddly fails: IndexError: w \(test_own_methods.py, .*, in raters\)",
        ),
    ],
    ids=lambda value: getattr(value, "fault", "inside") if not isinstance(value, str) else "",
)
def test_a_mistake_is_one_line_that_says_where(llava_next: tuple[Any, Any], method: Any, text: str) -> None:
    model, processor = llava_next
    with pytest.raises(UserError) as refused, method(model):
        generate(model, inputs_for(processor, [(100, 75)]))
    assert re.fullmatch(text, str(refused.value))
    assert "\n" not in str(refused.value)


def test_memory_that_runs_out_is_left_to_those_who_know_what_to_do(llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    with pytest.raises(OutOfMemoryError), Faulty(fault="memory")(model):
        generate(model, inputs_for(processor, [(100, 75)]))
