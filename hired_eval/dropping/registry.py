"""The dropping methods by name: the built-in ones, and those that other packages register."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hired_eval.dropping.base import TokenDropper, VisionStage
from hired_eval.dropping.divprune import DivPrune
from hired_eval.dropping.downsample import Downsample
from hired_eval.dropping.even_split import EvenSplit
from hired_eval.dropping.fastervlm import FasterVLM
from hired_eval.dropping.full import Full
from hired_eval.dropping.hired import HiRED
from hired_eval.dropping.hired_released import HiREDReleased
from hired_eval.dropping.prumerge import PruMerge, PruMergeBudget, PruMergePlus
from hired_eval.dropping.random_tokens import Random
from hired_eval.dropping.spatial import Spatial
from hired_eval.dropping.topk_cls import TopKCLS
from hired_eval.dropping.types import Signal
from hired_eval.dropping.visionzip import VisionZip
from hired_eval.errors import UserError
from hired_eval.typed import checked, read, types_of

ENTRY_POINT_GROUP = "hired_eval.methods"

BUILT_IN: dict[str, type[TokenDropper]] = {
    "full": Full,
    "spatial": Spatial,
    "prumerge": PruMerge,
    "prumerge_plus": PruMergePlus,
    "prumerge_budget": PruMergeBudget,
    "hired": HiRED,
    "hired_released": HiREDReleased,
    "random": Random,
    "topk_cls": TopKCLS,
    "even_split": EvenSplit,
    "downsample": Downsample,
    "visionzip": VisionZip,
    "fastervlm": FasterVLM,
    "divprune": DivPrune,
}


def available_methods() -> dict[str, type[TokenDropper]]:
    """Every method by name; another package adds its own through the entry-point group `hired_eval.methods`.

    Raises:
        UserError: an entry point cannot be loaded, or is not a dropping method.
    """
    plugins = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    return BUILT_IN | {name: _load(point) for name, point in plugins.items() if name not in BUILT_IN}


def methods_that_read(signals: frozenset[Signal]) -> list[str]:
    """The methods that make do with some signals of the vision tower, by name."""
    return [
        name
        for name, method in available_methods().items()
        if issubclass(method, VisionStage) and method.reads <= signals
    ]


def build(name: str, **options: Any) -> TokenDropper:
    """A dropping method with its options.

    Args:
        name: as in the configs, e.g. "hired".
        options: fields of the method's dataclass, e.g. budget=0.2.

    Raises:
        UserError: no such method, an option that the method does not have, or a value out of range.
    """
    method, known = _named(name, options)
    return method(**{option: checked(option, known[option], value) for option, value in options.items()})


def build_as_typed(name: str, options: dict[str, Any]) -> TokenDropper:
    """A dropping method whose options were typed by a user: a text is read as its option's type says.

    Args:
        name: as in the configs, e.g. "hired".
        options: e.g. budget="0.2", final_layer="null".

    Raises:
        UserError: see `build`.
    """
    _, known = _named(name, options)
    return build(name, **{option: read(known[option], value) for option, value in options.items()})


def _named(name: str, options: Iterable[str]) -> tuple[type[TokenDropper], dict[str, Any]]:
    """A method's class, and the types of its options.

    Raises:
        UserError: no such method, or an option that it does not have.
    """
    methods = available_methods()
    if name not in methods:
        close = difflib.get_close_matches(name.lower(), methods, n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"there is no method {name!r}; {meant}known: {', '.join(sorted(methods))}")
    known = types_of(methods[name])
    for option in options:
        if option not in known:
            raise UserError(f"method {name} has no option {option!r}; its options: {', '.join(known)}")
    return methods[name], known


def _load(point: EntryPoint) -> type[TokenDropper]:
    try:
        method = point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"method {point.name} of {point.value} cannot be loaded: {error}") from error
    if not (isinstance(method, type) and issubclass(method, TokenDropper)):
        raise UserError(f"method {point.name}: {point.value} is not a subclass of TokenDropper")
    return method
