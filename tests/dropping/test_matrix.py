"""Every registered method, with its options, through the checks that methods of other packages share."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hired_eval import EvenSplit, KeptTokens, Layouts, VisionEncoding
from hired_eval.dropping import SelectingDropper
from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.registry import build
from hired_eval.dropping.testing import LAYOUTS, check_dropper
from hired_eval.errors import UserError
from hired_eval.method_configs import method_configs

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in method_configs()),
    *((c.name, {"spend_leftover": True}) for c in method_configs().values() if "spend_leftover" in c.options),
    ("hired", {"distribute": "even"}),
    ("hired", {"initial_layer": 22}),
    ("hired", {"initial_layer": None, "final_layer": 11}),
    ("hired", {"final_layer": 0}),
    ("hired", {"heads": "single", "head": 1}),
    ("hired", {"alpha": 0.0, "spend_leftover": True}),
    ("hired", {"alpha": 1.0, "spend_leftover": True}),
    ("hired_released", {"alpha": 0.0}),
    ("random", {"seed": 7}),
    ("visionzip", {"contextual": 1.0}),
    ("pyramiddrop", {"at": [1, 3], "ratios": [0.3, 0.6]}),
    ("sparsevlm", {"recycle": False}),
    ("dart", {"order": "ascending", "pivot_text": 0}),
    ("visionzip", {"contextual": 0.0}),
]
OF_MANY_STEPS: dict[str, list[dict[str, Any]]] = {
    "scope": [{"alpha": 0.0}, {"combined": "add"}],
    "vispruner": [{"important": 0.0}],
    "holov": [{"within": "attention"}, {"bands": 5}],
    "globalcom2": [{"scores": "logit"}],
    "hiprune": [{"wrap": True}, {"alpha": 1.0}],
    "dart_embedding": [{"pivots": 9}],
    "cdpruner": [],
}
"""Methods that take long, and other options of theirs."""
SOME_LAYOUTS = [LAYOUTS[0], LAYOUTS[6]]
"""One partition, and a grid with padding."""
LAYOUTS_OF_OPTIONS = [LAYOUTS[0], LAYOUTS[4], *LAYOUTS[6:8]]
"""One partition, a grid without padding, and one with padding on either axis."""


@pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_every_method_keeps_the_contracts(name: str, options: dict[str, Any]) -> None:
    layouts = SOME_LAYOUTS if name in OF_MANY_STEPS else LAYOUTS_OF_OPTIONS if options else LAYOUTS
    check_dropper(build(name, **options), layouts)


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, given in OF_MANY_STEPS.items() for o in given])
def test_other_options_of_methods_of_many_steps(name: str, options: dict[str, Any]) -> None:
    check_dropper(build(name, **options, budget=0.3), SOME_LAYOUTS[1:])


@dataclass(frozen=True, kw_only=True)
class Broken(SelectingDropper):
    """A method with a fault, to see that the checks find it."""

    fault: str

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> Tensor:
        if self.fault == "changes the encoding":
            encoding.features.zero_()
        if self.fault == "random":
            return torch.rand(encoding.features.shape[:2])
        if self.fault == "a score for each channel":
            return encoding.features.float()
        return encoding.features.float().sum(dim=-1)

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        kept = super().keep(encoding, layouts, [n + (self.fault == "one too many") for n in budgets])
        indices, features = kept.indices, kept.features
        if self.fault == "twice":
            indices = indices[:, :1].expand_as(indices)
        if self.fault == "out of range":
            indices = indices + 1
        if self.fault == "dtype":
            features = features.double()
        return replace(kept, indices=indices, features=features)


@pytest.mark.parametrize(
    ("fault", "contract"),
    [
        ("changes the encoding", "left as it was"),
        ("random", "random state"),
        ("one too many", "within the budget"),
        ("twice", "kept twice"),
        ("out of range", "positions"),
        ("dtype", "dtype"),
    ],
)
def test_the_checks_find_faults(fault: str, contract: str) -> None:
    with pytest.raises(AssertionError, match=contract):
        check_dropper(Broken(fault=fault))


def test_the_checks_find_no_fault_where_there_is_none() -> None:
    check_dropper(Broken(fault="none"))


def test_a_score_of_the_wrong_shape_is_named() -> None:
    expected = r"Broken.score must give one number for each token, \(S, N\) = \(1, 36\); it gave \(1, 36, 8\)"
    with pytest.raises(UserError, match=expected):
        check_dropper(Broken(fault="a score for each channel"))


@pytest.mark.parametrize("reads", [{"cls_atention"}, "keys"])
@pytest.mark.parametrize("base", [EvenSplit, FastV])
def test_signals_that_are_not_there_are_named(base: type[Any], reads: Any) -> None:
    with pytest.raises(UserError, match=rf"^Reading.reads must be a frozenset of .*, got {reads!r}$"):
        type("Reading", (base,), {"reads": reads})()


def test_an_option_that_a_method_lacks_is_refused_by_name() -> None:
    for name, option in [
        ("prumerge", "budget"),
        ("prumerge_plus", "budget"),
        ("full", "budget"),
        ("spatial", "alpha"),
        ("hired_released", "spend_leftover"),
        ("divprune", "final_layer"),
    ]:
        with pytest.raises(
            UserError, match=f"method {name} has no option '{option}'; its options: .*newline"
        ):
            build(name, **{option: 0.5})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hired", {"budget": 0}, "budget must be above 0 and at most 1, got 0"),
        ("hired", {"budget": 1.2}, "budget must be above 0"),
        ("hired", {"budget": "much"}, "budget must be a number"),
        ("hired", {"alpha": -0.1}, "alpha must be from 0 to 1"),
        ("hired", {"distribute": "layer0"}, "distribute must be 'content' or 'even', got 'layer0'"),
        ("hired", {"heads": "mean"}, "heads must be"),
        ("hired", {"head": 1.5}, "head must be a whole number"),
        ("hired", {"initial_layer": -1}, "initial_layer must be a whole number"),
        ("topk_cls", {"final_layer": True}, "final_layer must be a whole number"),
        ("spatial", {"mode": "max"}, "mode must be 'pooling' or 'sampling', got 'max'"),
        ("random", {"seed": -3}, "seed must be a whole number"),
        ("visionzip", {"contextual": 2}, "contextual must be from 0 to 1"),
        ("full", {"newline": "all"}, "newline must be 'none' or 'rows', got 'all'"),
        ("hierd", {}, "there is no method 'hierd'; did you mean hired"),
    ],
)
def test_bad_options_are_refused_by_name(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **options)
