"""The rows of the tables: which runs belong to 'HiRED 20 %'."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hired_eval.method_configs import BUDGETS, MethodConfig, class_modules, class_name_of, method_configs
from hired_eval.method_configs import FULL as FULL_EXECUTION
from hired_eval.records.record import Record

SEED = "seed"
"""The option that makes runs of one method repetitions of each other."""


def target_of(record: Record) -> str:
    """Class name of a run's method; of a method from elsewhere, with its module."""
    return class_name_of(record.method.target)


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


def name_of(record: Record) -> str:
    """A run's method in words: the label of its config, without one the name of its class."""
    target, label = target_of(record), record.method_label
    name = target.rpartition(".")[2]
    if label != name:
        return label
    if config := _config_of(target):
        return config.label
    # a class of somebody else's with the name of one of ours is another method
    return target if name in class_modules() else name


def label_with(name: str, budget: float | None, options: Mapping[str, Any]) -> str:
    """'HiRED 20 %, alpha=0.3', 'HiRED 640 tokens': a method, its budget, the options that are no defaults."""
    name += f" {percent(budget)}" if budget else ""
    numbers = {kind: options[kind] for kind in BUDGETS if kind in options}
    name += "".join(f" {number} {kind.replace('_per_', ' a ')}" for kind, number in numbers.items())
    others = sorted((k, v) for k, v in options.items() if k not in numbers)
    return ", ".join([name, *(option_text(*option) for option in others)])


def label_of(record: Record) -> str:
    """A run's method in words, with its budget and all that is not the method's default."""
    seed = seed_of(record)
    usual = record.method_defaults.get(SEED, 0)
    return row_of(record).label + (f", seed={seed}" if seed != usual else "")


def place_of(target: str) -> tuple[int, str]:
    """Where a method stands in a list: as the configs place it, others by name."""
    names = list(class_modules())
    return (names.index(target) if target in names else len(names)), target


def _config_of(target: str) -> MethodConfig | None:
    """The config of a built-in method, of several the first; None for any other class."""
    return next((config for config in method_configs().values() if config.class_name == target), None)


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


_FULL = method_configs()[FULL_EXECUTION]
FULL = Row(_FULL.label, _FULL.class_name)
"""Full execution, which every method is compared with."""
HIRED = method_configs()["hired"].class_name
"""The method that the figures single out."""


def row_of(record: Record) -> Row:
    """The row of a run that no table lists."""
    return _named(name_of(record), record)


def _named(name: str, record: Record) -> Row:
    options, budget = options_of(record), budget_of(record)
    return Row(label_with(name, budget, options), target_of(record), budget, options)


def without_budget(row: Row) -> str:
    """'VisionZip, contextual=0.6': what a curve over budgets is called."""
    return row.label.replace(f" {percent(row.budget)}", "", 1) if row.budget else row.label


def rows_of(records: Iterable[Record]) -> list[Row]:
    """A row for every method, budget and choice of options: default options first, large budgets first.

    A method that was run by several names with the same options has all of them.
    """
    records = list(records)
    names: dict[tuple[Any, ...], set[str]] = {}
    for record in records:
        names.setdefault(_order(row_of(record))[:2], set()).add(name_of(record))
    rows = {
        (order := _order(row_of(record))): _named(" / ".join(sorted(names[order[:2]])), record)
        for record in records
    }
    labels = Counter(row.label for row in rows.values())
    return [
        # two classes of one name, in two modules
        replace(row, label=f"{row.label} ({row.target})") if labels[row.label] > 1 else row
        for _, row in sorted(rows.items())
    ]


def _order(row: Row) -> tuple[tuple[int, str], str, float]:
    options = sorted((k, v) for k, v in row.options.items() if k not in BUDGETS)
    number = max((row.options[budget] for budget in BUDGETS if budget in row.options), default=0)
    return place_of(row.target), ", ".join(option_text(*o) for o in options), -(row.budget or number or 2)
