"""The rows of the tables: which runs belong to 'HiRED 20 %'."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hired_eval.records.record import Record

# How the paper writes them; a method that is not listed goes by the name of its class.
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
OWN = "hired_eval."
SEED = "seed"
"""The option that makes runs of one method repetitions of each other."""


def target_of(record: Record) -> str:
    """Class name of a run's method; of a method from elsewhere, with its module."""
    return class_of(record.method.target)


def class_of(target: str) -> str:
    """Name of a class of this package without its module; of a class from elsewhere, with it."""
    return target.rsplit(".", 1)[-1] if target.startswith(OWN) else target


def budget_of(record: Record) -> float | None:
    """Token budget of a run; None for a method without one."""
    return record.budget


def seed_of(record: Record) -> int:
    """The seed that the method draws with; of a method without one, the run's."""
    seed: int = record.method.options.get(SEED, record.seed)
    return seed


def percent(share: float) -> str:
    """0.2 as '20 %'."""
    return f"{100 * share:g} %"


def name_of(target: str) -> str:
    """A method's name in words."""
    name = target.rsplit(".", 1)[-1]
    # a class of somebody else's with the name of one of ours is another method
    return LABELS.get(target, target if name in LABELS else name)


def label_with(name: str, budget: float | None, options: Mapping[str, Any]) -> str:
    """'HiRED 20 %, alpha=0.3': a method with its budget and the options that are not its defaults."""
    name += f" {percent(budget)}" if budget else ""
    return ", ".join([name, *(option_text(*option) for option in sorted(options.items()))])


def label_of(record: Record) -> str:
    """A run's method in words, with its budget and all that is not the method's default."""
    seed = seed_of(record)
    usual = record.method_defaults.get(SEED, 0)
    return row_of(record).label + (f", seed={seed}" if seed != usual else "")


def place_of(target: str) -> tuple[int, str]:
    """Where a method stands in a list: the paper's first, others by name."""
    names = list(LABELS)
    return (names.index(target) if target in names else len(names)), target


def options_of(record: Record) -> dict[str, Any]:
    """A run's options that are not its method's defaults; budget and seed have places of their own."""
    usual = record.method_defaults
    return {
        name: value
        for name, value in record.method.options.items()
        if name not in ("budget", SEED) and not (name in usual and usual[name] == value)
    }


def option_text(name: str, value: Any) -> str:
    """An option as it is typed."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: as printed.
        target: of the method, see `target_of`.
        budget: its token budget, None for a method without one.
        options: option -> the value it must have, or {above: number}; all others must have their default.
        published: columns that find the published number, without model and benchmark.
    """

    label: str
    target: str
    budget: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)

    def of(self, records: Iterable[Record]) -> list[Record]:
        """The runs that belong to this row."""
        return [r for r in records if self._matches(r)]

    def _matches(self, record: Record) -> bool:
        if target_of(record) != self.target or budget_of(record) != self.budget:
            return False
        if not options_of(record).keys() <= self.options.keys():
            return False
        ran = record.method_defaults | record.method.options
        return all(_is(ran.get(name), wanted) for name, wanted in self.options.items())


def _is(value: Any, wanted: Any) -> bool:
    """Whether an option has the value that a row asks for."""
    if isinstance(wanted, Mapping) and "above" in wanted:
        return value is not None and bool(value > wanted["above"])
    return bool(value == wanted)


FULL = Row("Full", "Full")
"""Full execution, which every method is compared with."""
HIRED = "HiRED"
"""The method that the figures single out."""


def row_of(record: Record) -> Row:
    """The row of a run that no table lists."""
    options, budget, target = options_of(record), budget_of(record), target_of(record)
    return Row(label_with(name_of(target), budget, options), target, budget, options)


def without_budget(row: Row) -> str:
    """'VisionZip, contextual=0.6': what a curve over budgets is called."""
    return row.label.replace(f" {percent(row.budget)}", "", 1) if row.budget else row.label


def rows_of(records: Iterable[Record]) -> list[Row]:
    """A row for every method, budget and choice of options: default options first, large budgets first."""
    rows = {_order(row): row for row in map(row_of, records)}
    labels = Counter(row.label for row in rows.values())
    return [
        # two classes of one name, in two modules
        replace(row, label=f"{row.label} ({row.target})") if labels[row.label] > 1 else row
        for _, row in sorted(rows.items())
    ]


def _order(row: Row) -> tuple[tuple[int, str], str, float]:
    options = ", ".join(option_text(*option) for option in sorted(row.options.items()))
    return place_of(row.target), options, -(row.budget or 2)
