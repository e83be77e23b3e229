"""What a table shows, as a file of `configs/report/` says it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml

from hired_eval.errors import UserError, unknown
from hired_eval.paths import read_yaml
from hired_eval.typed import Count, Natural, Share, check_value, types_of

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RowSpec:
    """A row: the runs of one method with one budget.

    Attributes:
        method: a config of `configs/method/`, or a class by its full name.
        budget: None for the config's own, or for a method without one.
        tokens: instead of a budget, the number of tokens for each picture.
        options: value of each option that is not its method's default, or {above: number}.
        label: as printed; None for the method's with budget and options.
        published: columns that find its published numbers; None for its method and budget.
    """

    method: str
    budget: Share | None = None
    tokens: Count | None = None
    options: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    published: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """A column: a benchmark, or a quantity that an efficiency run measures.

    Attributes:
        name: of the benchmark or the quantity.
        show: of a benchmark: the score, or flips: how many answers turned, compared with full execution. Of a
            row: share, the mean over the columns of scores of what is left of full execution's, or speed:
            `selection_ms` or `gflops` of one picture.
        label: as printed; None for the benchmark's own, or the name.
        digits: behind the point, of a quantity.
    """

    name: str
    label: str | None = None
    digits: Natural = 2
    show: Literal["score", "flips", "share", "speed"] = "score"


@dataclass(frozen=True, kw_only=True)
class NoteSpec:
    """A line below the table.

    Attributes:
        text: the line.
        models: it is there where one of these has runs in the table; () for always.
        unless_models: it is not there where one of these has.
    """

    text: str
    models: tuple[str, ...] = ()
    unless_models: tuple[str, ...] = ()

    def holds(self, models: Iterable[str]) -> bool:
        """Whether it is to be said of a table that shows these models."""
        shown = set(models)
        return (not self.models or not shown.isdisjoint(self.models)) and shown.isdisjoint(self.unless_models)


@dataclass(frozen=True, kw_only=True)
class PublishedSpec:
    """The published numbers beside the measured ones.

    Attributes:
        file: CSV with one number a row, beside the table's own file or in the folders of `published_folder`.
        source: a note on them.
        models: model -> what the published numbers call it; other models have none next to theirs.
        tokens: budget of a row that the table does not list, as a share or in tokens -> tokens of the
            published row of the same budget; 0 for full execution.
    """

    file: str
    source: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    tokens: dict[float, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table, or a figure that shows rows of runs.

    Attributes:
        title: one line.
        kind: what its numbers are, see `hired_eval.reporting.kinds`.
        budget: of a ranking, that of the methods; its columns are benchmarks or groups of them.
        partitions: many: models that cut a picture into partitions alone; one: the others alone.
        models, rows, columns: in order; () for all.
        others: what follows those that are listed, where there are runs.
        named: methods that keep a name and a colour in a curve of more methods than there are colours.
        published: numbers beside the measured ones.
        against: the row that differences are to, full execution where it is None; without a budget its
            method is taken at the budget of each row.
        notes: below the table.
        origin: the file.
    """

    title: str
    kind: Literal["accuracy", "rank", "efficiency", "attention", "tokens_per_sample"] = "accuracy"
    budget: Share | None = None
    partitions: Literal["many", "one"] | None = None
    models: tuple[str, ...] = ()
    rows: tuple[RowSpec, ...] = ()
    columns: tuple[ColumnSpec, ...] = ()
    others: tuple[Literal["models", "rows", "columns"], ...] = ()
    named: tuple[str, ...] = ()
    published: PublishedSpec | None = None
    against: RowSpec | None = None
    notes: tuple[NoteSpec, ...] = ()
    origin: Path = Path()

    @property
    def name(self) -> str:
        """Name of the table and of its files."""
        return self.origin.stem

    def open(self, part: Literal["models", "rows", "columns"]) -> bool:
        """Whether more than what is listed may be shown."""
        return not getattr(self, part) or part in self.others

    @property
    def stand_for(self) -> dict[str, str]:
        """Model -> what the published numbers call it."""
        return self.published.models if self.published else {}

    def notes_on(self, models: Iterable[str]) -> list[str]:
        """The lines below a table that shows these models."""
        models = list(models)
        return [note.text for note in self.notes if note.holds(models)]


def read_spec(file: Path) -> TableSpec:
    """The table that a file describes.

    Raises:
        UserError: it cannot be read, or a key in it is unknown, missing or of another type.
    """
    content = read_yaml(file)
    if "title" not in content:
        raise UserError(f"{file} is no table: it has no title; see docs/extending.md")
    return replace(_built(TableSpec, content, str(file)), origin=file)


def read_row(text: str) -> RowSpec:
    """The row that 'hired budget=0.2 alpha=0.3' means: a method, and its budget and options.

    Raises:
        UserError: a word that is no option, or a budget out of range.
    """
    method, *words = text.removeprefix("method=").split() or [""]
    if wrong := [word for word in words if "=" not in word]:
        raise UserError(f"--against {text}: {wrong[0]!r} is not an option; write NAME=VALUE")
    options = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}
    content = {"method": method, "budget": options.pop("budget", None), "options": options}
    row: RowSpec = _built(RowSpec, content, "--against")
    return row


def _built(kind: type[T], content: Any, where: str) -> T:
    """A part of a table; a single value stands for its first key.

    Raises:
        UserError: naming the key.
    """
    known = {name: hint for name, hint in types_of(kind).items() if name != "origin"}
    keys = content if isinstance(content, dict) else {next(iter(known)): content}
    for key in keys:
        if key not in known:
            raise UserError(f"{where}: {unknown(f'key {key!r}', str(key), known)}")
    needed = (f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)  # type: ignore[arg-type]
    if lacking := [name for name in needed if name not in keys]:
        raise UserError(f"{where} has no {lacking[0]}; add it")
    return kind(**{key: _value(known[key], value, f"{where}: {key}") for key, value in keys.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """The value of a key, of its type.

    Raises:
        UserError: it is of another type.
    """
    members = [kind, *get_args(kind)]
    part = next((m for m in members if is_dataclass(m) and isinstance(m, type)), None)
    if value is None and type(None) in members:
        return None
    if any(get_origin(member) is dict for member in members) and not isinstance(value, dict):
        raise UserError(f"{where} must be names with values, got {value!r}")
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list, got {value!r}")
        return tuple(_value(members[1], one, f"{where} {i}") for i, one in enumerate(value, 1))
    return check_value(where, kind, value) if part is None else _built(part, value, where)
