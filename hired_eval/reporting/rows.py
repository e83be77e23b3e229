"""The rows of the tables: which runs belong to 'HiRED 20 %'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hired_eval.reporting.store import Record

# A run belongs to a row only if its other options are these; a run of another design choice is another row.
DEFAULTS: dict[str, Any] = {
    "alpha": 0.5,
    "initial_layer": 0,
    "final_layer": None,
    "heads": "sum",
    "distribute": "content",
    "newline": "none",
    "spend_leftover": False,
    "mode": "pooling",
}
LABELS = {
    "Full": "Full",
    "Spatial": "Spatial",
    "PruMerge": "PruMerge",
    "PruMergePlus": "PruMerge+",
    "PruMergeBudget": "PruMerge held to a budget",
    "HiRED": "HiRED",
    "HiREDReleased": "HiRED (released code)",
    "Random": "Random",
    "TopKCLS": "Top-k CLS",
    "EvenSplit": "Even split",
    "Downsample": "Downsampling",
    "VisionZip": "VisionZip",
    "FasterVLM": "FasterVLM",
    "DivPrune": "DivPrune",
}


def target_of(record: Record) -> str:
    """Class name of a run's method."""
    name: str = record["method"]["_target_"].rsplit(".", 1)[-1]
    return name


def budget_of(record: Record) -> float | None:
    """Token budget of a run; None for a method without one."""
    budget: float | None = record["config"]["budget"] or record["method"].get("budget")
    return budget


def percent(share: float) -> str:
    """0.2 as '20 %'."""
    return f"{100 * share:g} %"


def label_of(record: Record) -> str:
    """A run's method in words, with its budget where it has one."""
    name = LABELS.get(target_of(record), target_of(record))
    budget = budget_of(record)
    return f"{name} {percent(budget)}" if budget else name


def defaults_of(target: str) -> dict[str, Any]:
    """The options of a method's runs in the tables: full execution has newline tokens, as stock models do."""
    return {**DEFAULTS, "newline": "rows"} if target == "Full" else DEFAULTS


def options_of(record: Record) -> dict[str, Any]:
    """A run's options that differ from the defaults of the tables."""
    usual = defaults_of(target_of(record))
    return {k: v for k, v in record["method"].items() if k in usual and v != usual[k]}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: as printed.
        target: class name of the method.
        budget: its token budget, None for a method without one.
        options: option -> the value it must have, or a test of it; all others must have their default.
        published: columns that find the paper's number, without the benchmark.
        variant: the config of `configs/variant/` that runs it.
    """

    label: str
    target: str
    budget: float | None = None
    options: Mapping[str, Any | Callable[[Any], bool]] = field(default_factory=dict)
    published: Mapping[str, str] | None = None
    variant: str = ""

    def of(self, records: Iterable[Record]) -> list[Record]:
        """The runs that belong to this row."""
        return [r for r in records if self._matches(r)]

    def _matches(self, record: Record) -> bool:
        if target_of(record) != self.target or budget_of(record) != self.budget:
            return False
        for name, default in defaults_of(self.target).items():
            wanted = self.options.get(name, default)
            value = record["method"].get(name, default)
            if not (wanted(value) if callable(wanted) else value == wanted):
                return False
        return True


def _between(layer: int | None) -> bool:
    return layer is not None and layer > 0


def _row(method: str, label: str, target: str, budget: float | None, variant: str) -> Row:
    key = {"method": method, "budget": "" if budget is None else f"{budget:g}"}
    return Row(label, target, budget, published=key, variant=variant)


FULL = _row("full", "Full", "Full", None, "full")
HIRED_20 = _row("hired", "HiRED 20 %", "HiRED", 0.2, "hired_20")
HIRED_40 = _row("hired", "HiRED 40 %", "HiRED", 0.4, "hired_40")

TABLE3 = (
    FULL,
    _row("spatial", "Spatial 40 %", "Spatial", 0.4, "spatial_40"),
    _row("prumerge", "PruMerge", "PruMerge", None, "prumerge"),
    _row("prumerge_plus", "PruMerge+", "PruMergePlus", None, "prumerge_plus"),
    HIRED_20,
    HIRED_40,
)
TABLE6 = (FULL, HIRED_40, HIRED_20)


def _choice(choice: str, option: str, label: str, variant: str, **options: Any) -> Row:
    key = {"choice": choice, "option": option}
    return Row(label, "HiRED", 0.2, options, key, variant)


TABLE5 = (
    _choice("distribute", "evenly", "budget evenly", "hired_20_evenly", distribute="even"),
    _choice("distribute", "layer 22", "budget by the final layer", "hired_20_by_final", initial_layer=None),
    _choice("distribute", "layer 0", "budget by layer 0 (default)", "hired_20"),
    _choice("drop_layer", "layer 0", "drop by layer 0", "hired_20_drop_0", final_layer=0),
    _choice("drop_layer", "layer 11", "drop by a middle layer", "hired_20_drop_middle", final_layer=_between),
    _choice("drop_layer", "layer 22", "drop by the final layer (default)", "hired_20"),
    _choice("heads", "single", "one head", "hired_20_one_head", heads="single"),
    _choice("heads", "sum", "sum of heads (default)", "hired_20"),
)
