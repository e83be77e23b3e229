"""The dropping methods by name: those of `configs/method/`, and those that other packages register."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hired_eval.dropping.base import TokenDropper, VisionStage
from hired_eval.dropping.types import Signal
from hired_eval.errors import UserError, unknown
from hired_eval.method_configs import BUDGETS, MethodConfig, method_configs, split_name
from hired_eval.typed import check_value, read, types_of

ENTRY_POINT_GROUP = "hired_eval.methods"


def available_methods() -> dict[str, type[TokenDropper]]:
    """The class of every method by name; two names may have one class.

    Another package adds its own through the entry-point group `hired_eval.methods`.

    Raises:
        UserError: an entry point cannot be loaded, or is not a dropping method.
    """
    built_in = {name: _imported(config) for name, config in method_configs().items()}
    return {name: _load(point) for name, point in _plugins().items()} | built_in


def methods_that_read(signals: frozenset[Signal]) -> list[str]:
    """The methods that need no more than some signals of the vision tower, by name."""
    return [
        name
        for name, method in available_methods().items()
        if issubclass(method, VisionStage) and method.reads <= signals
    ]


def build(name: str, **options: Any) -> TokenDropper:
    """A dropping method with its options.

    Args:
        name: as in the configs, e.g. "hired"; "hired+fastv" composes two.
        options: fields of the method's dataclass, e.g. budget=0.2; others are as in the method's config.
            Those of a composition have the method's name in front, e.g. "fastv.keep".

    Raises:
        UserError: no such method, an option that the method does not have, or a value out of range.
    """
    if "+" in name:
        return _compose(name, options, build)
    method, known = _named(name, options)
    given = {option: check_value(option, known[option], value) for option, value in options.items()}
    configured = _configured(name)
    if any(given.get(budget) is not None for budget in BUDGETS):
        configured = {option: value for option, value in configured.items() if option not in BUDGETS}
    return method(**configured | given)


def build_as_typed(name: str, options: dict[str, Any]) -> TokenDropper:
    """A dropping method whose options were typed by a user: a text is read as its option's type says.

    Args:
        name: as in the configs, e.g. "hired".
        options: e.g. budget="0.2", final_layer="null".

    Raises:
        UserError: see `build`.
    """
    if "+" in name:
        return _compose(name, options, lambda part, **own: build_as_typed(part, own))
    _, known = _named(name, options)
    return build(name, **{option: read(known[option], value) for option, value in options.items()})


def _compose(name: str, options: dict[str, Any], make: Callable[..., TokenDropper]) -> TokenDropper:
    """The composition of the methods that a name joins with '+'.

    Raises:
        UserError: an option that names none of them, or see `Composed`.
    """
    from hired_eval.dropping.composed import Composed, takes_budget  # they build Full by its name

    parts = split_name(name)
    of_part: dict[str, dict[str, Any]] = {part: {} for part in parts}
    with_budget = takes_budget({part: _named(part, ())[0] for part in parts})
    for option, value in options.items():
        part, dot, own = option.partition(".")
        if option in BUDGETS and with_budget:
            of_part[with_budget][option] = value
        elif dot and part in of_part:
            of_part[part][own] = value
        else:
            raise UserError(
                f"{name} has no option {option!r} of its own; put a method's name in front, e.g. "
                f"{parts[0]}.{own or option}"
            )
    return Composed(tuple(make(part, **own) for part, own in of_part.items()))


def _named(name: str, options: Iterable[str]) -> tuple[type[TokenDropper], dict[str, Any]]:
    """A method's class, and the types of its options.

    Raises:
        UserError: no such method, or an option that it does not have.
    """
    configs, plugins = method_configs(), _plugins()
    names = sorted({*configs, *plugins})
    if name not in names:
        raise UserError(
            f"{unknown(f'method {name!r}', name, names)}; here one of your own needs an entry point "
            "(docs/extending.md)"
        )
    method = _imported(configs[name]) if name in configs else _load(plugins[name])
    known = types_of(method)
    for option in options:
        if option not in known:
            raise UserError(f"method {name} has no option {option!r}; its options: {', '.join(known)}")
    return method, known


def _configured(name: str) -> dict[str, Any]:
    """The options that a method's config sets, but for those that it takes from the run."""
    options = method_configs()[name].options if name in method_configs() else {}
    return {option: value for option, value in options.items() if not str(value).startswith("${")}


def _imported(config: MethodConfig) -> type[TokenDropper]:
    found: type[TokenDropper] = getattr(import_module(config.module), config.class_name)
    return found


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(point: EntryPoint) -> type[TokenDropper]:
    try:
        method = point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"method {point.name} of {point.value} cannot be loaded: {error}") from error
    if not (isinstance(method, type) and issubclass(method, TokenDropper)):
        raise UserError(f"method {point.name}: {point.value} is not a subclass of TokenDropper")
    return method
