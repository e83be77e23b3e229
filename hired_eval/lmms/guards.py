"""What the code of lmms-eval's scorers reaches, and what keeps a run safe from it."""

from __future__ import annotations

import copy
import dis
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from lmms_eval.api.task import Task
from loguru import logger
from tenacity import RetryError

from hired_eval.errors import UserError, first_line
from hired_eval.lmms.mmbench import STATIC
from hired_eval.lmms.tasks import NETWORK

NETWORK_MODULES = (
    "urllib.request",
    "urllib3",
    "google.gen",
    "lmms_eval.llm_judge",
    "lmms_eval.verifiers.openai",
)
"""Modules that ask somebody else: a scorer that reaches one has a judge."""
FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What a scorer of lmms-eval may raise at values that it does not expect."""


def comes_from(function: Any, packages: tuple[str, ...]) -> bool:
    """Whether a function's code names something of one of the packages."""
    return any(str(getattr(found, "__module__", "")).startswith(packages) for found in _reached(function))


def network_of(function: Any) -> str | None:
    """The module through which a function of a task asks somebody else; None where its code names none.

    What the function's code names is followed through functions, classes and objects of lmms-eval.
    """
    if getattr(function, "__name__", None) == STATIC:  # names a judge, and tells it to keep silent
        return None
    for found in _reached(function):
        names = _imports(found.__code__) if isinstance(found, FunctionType) else []
        names.append(found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None))
        for name in filter(lambda name: isinstance(name, str), names):
            if name.partition(".")[0] in NETWORK:
                return str(name.partition(".")[0])
            if name.startswith(NETWORK_MODULES):
                return str(name)
    return None


@contextmanager
def keep_unchanged(functions: Iterable[Any]) -> Iterator[None]:
    """Module-level totals and lists that scorers add to are afterwards what they were before."""
    before: list[tuple[dict[str, Any], str, Any, Any]] = []
    for found in {id(f): f for function in functions for f in _reached(function)}.values():
        if isinstance(found, FunctionType) and _of_lmms_eval(found):
            for name in _names(found.__code__) & found.__globals__.keys():
                value = found.__globals__[name]
                if isinstance(value, int | float | dict | list | set):
                    before.append((found.__globals__, name, value, copy.deepcopy(value)))
    try:
        yield
    finally:
        for module, name, value, was in before:
            if isinstance(value, dict | set):
                value.clear()
                value.update(was)
            elif isinstance(value, list):
                value[:] = was
            module[name] = value


def _reached(function: Any) -> Iterator[Any]:
    """Objects that a function's code reaches by name, itself included."""
    waiting, seen = [function], set()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, partial):
            waiting.append(found.func)
        elif isinstance(found, MethodType):
            waiting += [found.__func__, type(found.__self__)]
        elif isinstance(found, FunctionType):
            if hasattr(found, "__wrapped__"):
                waiting.append(found.__wrapped__)
            if _of_lmms_eval(found):
                waiting += [found.__globals__[n] for n in _names(found.__code__) if n in found.__globals__]
        elif isinstance(found, type):
            waiting += [member for member in vars(found).values() if isinstance(member, FunctionType)]
        elif not isinstance(found, ModuleType):
            waiting.append(type(found))


def _of_lmms_eval(function: FunctionType) -> bool:
    return "lmms_eval" in Path(function.__code__.co_filename).parts


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _imports(code: CodeType) -> list[Any]:
    """Modules that a function imports while it runs."""
    steps = (step for each in _codes(code) for step in dis.get_instructions(each))
    return [step.argval for step in steps if step.opname == "IMPORT_NAME"]


@contextmanager
def explain_scorer_errors(task: Task, metric: str, kept: str) -> Iterator[None]:
    """Turn what lmms-eval's scorer of a task raises while the block runs into one clear line.

    Metrics other than the benchmark's become nan where they fail, with a warning.

    Args:
        task: its aggregates are replaced by ones that explain.
        metric: the benchmark's.
        kept: what the line ends with.

    Raises:
        UserError: scoring failed.
    """
    name = task.config.task
    aggregates = task.aggregation()
    for other, aggregate in list(aggregates.items()):
        what = f"lmms-eval cannot compute metric {other} of task {name}"
        aggregates[other] = _explained(aggregate, what, kept if other == metric else None)
    try:
        yield
    except RetryError as error:  # of the scoring of one document, which lmms-eval tries several times
        cause = error.last_attempt.exception()
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        raise UserError(f"lmms-eval cannot score a reply of task {name}: {reason}{kept}") from error


def _explained(aggregate: Callable[..., Any], what: str, kept: str | None) -> Callable[..., Any]:
    @wraps(aggregate)
    def explained(*arguments: Any, **named: Any) -> Any:
        try:
            return aggregate(*arguments, **named)
        except FAULTS as error:
            reason = f"{what}: {type(error).__name__}: {first_line(error)}"
            if kept is None:
                logger.warning(reason)
                return math.nan
            raise UserError(f"{reason}{kept}") from error

    return explained
