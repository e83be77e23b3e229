"""Options have types: a value is checked against its annotation, here and nowhere else."""

from __future__ import annotations

import inspect
import math
import re
import types
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hired_eval.errors import UserError
from hired_eval.paths import expand_home

NO_WORDS = ("none", "null", "nil", "no", "off", "false", "nothing")
"""What people write for nothing, so that it is no folder, checkpoint or revision of that name."""


@dataclass(frozen=True)
class Range:
    """The numbers that an option may be.

    Attributes:
        words: how a message says it, e.g. 'above 0'.
        least, most: bounds.
        open: whether `least` itself is left out.
    """

    words: str
    least: float = -math.inf
    most: float = math.inf
    open: bool = False

    def __contains__(self, number: float) -> bool:
        above = number > self.least if self.open else number >= self.least
        return above and number <= self.most


Count = Annotated[int, Range("of at least 1", 1)]
Natural = Annotated[int, Range("of at least 0", 0)]
Seed = Annotated[int, Range("of at least 0", 0, 2**32 - 1)]
"""What numpy takes as a seed."""
Share = Annotated[float, Range("above 0 and at most 1", 0, 1, open=True)]
Proportion = Annotated[float, Range("from 0 to 1", 0, 1)]
Positive = Annotated[float, Range("above 0", 0, open=True)]


class _UnfitError(Exception):
    """A value is not of a type."""


def types_of(declaration: type) -> dict[str, Any]:
    """The options of a dataclass and their types; `Any` where an annotation names nothing that is there.

    Args:
        declaration: a dataclass whose `__init__` takes the options, e.g. a dropping method.
    """
    names = [field.name for field in fields(declaration) if field.init]
    try:
        hints = get_type_hints(declaration, include_extras=True)
    except NameError:  # an annotation for type checkers alone: the others still count
        hints = {}
        for owner in reversed(declaration.__mro__):
            for name, kind in inspect.get_annotations(owner).items():
                hints[name] = _resolved(kind, owner)
    return {name: hints[name] for name in names}


def _resolved(kind: Any, owner: type) -> Any:
    """An annotation by itself."""
    holder = type("Holder", (), {"__annotations__": {"it": kind}, "__module__": owner.__module__})
    try:
        return get_type_hints(holder, include_extras=True)["it"]
    except NameError:
        return Any


def check_value(name: str, kind: Any, value: Any) -> Any:
    """A value of the type of its option: 5.0 is the whole number 5, and ~ the home folder of a path.

    Args:
        name: of the option.
        kind: its annotation: bool, int, float, str, Path, Literal, lists of them, `| None`, with a `Range`.
            Any other annotation takes every value.
        value: as a config, a command line or Python code has it.

    Raises:
        UserError: the value is of another type; the line names the option, what it must be, and the value.
    """
    try:
        return _of(kind, value)
    except _UnfitError:
        pass
    if _is_number(value) and (outside := _ranges(kind)):
        must = " or ".join(dict.fromkeys(r.words for r in outside))
        whole = "a whole number " if _whole_alone(kind) else ""
        raise UserError(f"{name} must be {whole}{must}, got {value}{_without_percent(kind, value)}")
    more = "; put it in quotes" if takes_text(kind) and _is_number(value) else _without_percent(kind, value)
    raise UserError(f"{name} must be {_described(kind)}, got {value!r}{more}")


def _without_percent(kind: Any, value: Any) -> str:
    """How a share is written that was typed as 20 or 20%; "" for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?%?", str(value))
    if not match or get_args(Share)[1] not in _ranges(kind) or not 2 <= float(match[1]) <= 100:
        return ""
    return f"; for {match[1]} % write {float(match[1]) / 100:g}"


def read(kind: Any, value: Any) -> Any:
    """What a text means for an option of that type, typed where no grammar reads it.

    Args:
        kind: annotation of the option.
        value: a text, e.g. 'null', 'true' or '0.3'; anything else is given back.
    """
    if not isinstance(value, str):
        return value
    kinds = _alternatives(kind)
    if type(None) in kinds and value.lower() == "null":
        return None
    if bool in kinds and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if {int, float}.isdisjoint(kinds):
        return value
    if re.fullmatch(r"[+-]?(0|[1-9]\d*)", value):
        return int(value)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?|[+-]?inf|nan", value):
        return float(value)
    return value


def check_options(declaration: type, options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Those of a dataclass's options that are given, of their types.

    Raises:
        UserError: a value of another type.
    """
    known = types_of(declaration)
    return {
        name: check_value(prefix + name, known[name], value) if name in known else value
        for name, value in options.items()
    }


def _alternatives(kind: Any) -> list[Any]:
    """The types that an annotation allows, ranges left out."""
    return [_bare(k) for k in _members(kind)]


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _bare(kind: Any) -> Any:
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return type(None) if kind is None else kind


def _ranges(kind: Any) -> list[Range]:
    return [
        note
        for member in _members(kind)
        if get_origin(member) is Annotated
        for note in get_args(member)[1:]
        if isinstance(note, Range)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _whole_alone(kind: Any) -> bool:
    """Whether its numbers are whole ones."""
    return int in _alternatives(kind) and float not in _alternatives(kind)


def takes_text(kind: Any) -> bool:
    """Whether an option of that type is free text, or a path."""
    return not {str, Path}.isdisjoint(_alternatives(kind))


def _or_null(kind: Any) -> str:
    return ", or null" if type(None) in _alternatives(kind) else ""


def _of(kind: Any, value: Any) -> Any:
    """The value as that type.

    Raises:
        _UnfitError: it is none of it.
    """
    members = _members(kind)
    if len(members) > 1:
        return _of_one(members, value)
    if get_origin(kind) is Annotated:
        fit = _of(get_args(kind)[0], value)
        if any(fit not in note for note in get_args(kind)[1:] if isinstance(note, Range)):
            raise _UnfitError
        return fit
    if get_origin(kind) in (list, tuple) and isinstance(value, list | tuple):
        inner = [k for k in get_args(kind) if k is not Ellipsis]
        kinds = inner * len(value) if len(inner) == 1 else inner
        if len(kinds) != len(value):
            raise _UnfitError
        return get_origin(kind)(_of(k, v) for k, v in zip(kinds, value, strict=True))
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if type(choice) is type(value) and choice == value:
                return value
        raise _UnfitError
    return _of_plain(_bare(kind), value)


def _of_one(members: tuple[Any, ...], value: Any) -> Any:
    """The value as the first of several types that it fits."""
    nullable = type(None) in (_bare(m) for m in members)
    if nullable and value is None:
        return None
    if nullable and isinstance(value, str) and value.strip().lower() in ("", *NO_WORDS):
        members = tuple(m for m in members if get_origin(m) is Literal)
    for member in sorted(members, key=lambda m: _bare(m) is not type(value)):
        try:
            return _of(member, value)
        except _UnfitError:
            continue
    raise _UnfitError


def _of_plain(kind: Any, value: Any) -> Any:
    whole = _is_number(value) and (isinstance(value, Integral) or float(value).is_integer())
    if kind in (bool, str):
        fits = isinstance(value, kind)
    elif kind is int:
        value, fits = int(value) if whole else value, whole
    elif kind is float:
        fits = _is_number(value) and math.isfinite(value)
        value = float(value) if fits else value
    elif kind is Path:
        fits = isinstance(value, Path | str) and str(value).lower() not in ("", *NO_WORDS)
        value = Path(expand_home(str(value))) if fits else value
    elif kind is type(None):
        fits = value is None
    else:
        return value
    if not fits:
        raise _UnfitError
    return value


def _described(kind: Any) -> str:
    """What a value must be, in words."""
    words: list[str] = []
    for member in _members(kind):
        plain = _bare(member)
        span = "".join(f" {r.words}" for r in _ranges(member))
        if get_origin(plain) is Literal:
            words += map(repr, get_args(plain))
        elif get_origin(plain) in (list, tuple):
            words.append("a list")
        elif plain is not type(None):
            word = {
                bool: "true or false",
                int: "a whole number",
                float: "a number",
                str: "text",
                Path: "a path",
            }
            words.append(word.get(plain, "a value") + span)
    listed = ", ".join(words[:-1]) + " or " * (len(words) > 1) + words[-1]
    return listed + _or_null(kind)


def is_path(kind: Any) -> bool:
    """Whether an option of that type is a path."""
    return Path in _alternatives(kind)


def paths_as_text(options: dict[str, Any]) -> dict[str, Any]:
    """Paths as text, so that a config can be written down."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
