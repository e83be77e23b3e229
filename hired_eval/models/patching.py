"""Replace methods of objects while contexts are open, and undo it in whatever order they are left."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Mapping
from threading import Lock, get_ident
from typing import Any

from hired_eval.errors import UserError

_LOCK = Lock()
Targets = Mapping[tuple[Any, str], Callable[..., Any]]
"""(object, name of its method) -> what is called instead, with the innermost open context, the original
method, and the call's own arguments."""


class Contexts:
    """The open contexts that replace the same methods, the outermost first; all of one thread or task."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.thread, self.task = get_ident(), _task()

    def of_others(self) -> bool:
        """Whether they belong to another thread, or another task of this one."""
        return self.thread != get_ident() or self.task not in (None, _task())


class Patched:
    """A method of one object: the replacement while contexts are open, the original otherwise.

    So it does no harm where it stays behind, e.g. inside a wrapper put around it. A copy of the object gets
    the original method, bound to the copy.

    Args:
        target: the object.
        name: of the method.
        replacement: see `Targets`.
        contexts: shared by all methods that are replaced together.
    """

    def __init__(self, target: Any, name: str, replacement: Callable[..., Any], contexts: Contexts) -> None:
        self.own = name in vars(target)
        self.original: Callable[..., Any] = getattr(target, name)
        self.replacement, self.contexts = replacement, contexts
        self.__name__, self.__doc__ = name, self.original.__doc__
        self.__signature__ = inspect.signature(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The replacement's or the original's result."""
        if not self.contexts.stack:
            return self.original(*args, **kwargs)
        return self.replacement(self.contexts.stack[-1], self.original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.original, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.original,)


def _task() -> Any:
    """The asyncio task that runs; None outside an event loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    return method


def open_context(context: Any, targets: Targets) -> Contexts:
    """Make `context` the innermost one, replacing the methods unless an outer context has done so.

    Args:
        context: handed to the replacements; may be opened several times.
        targets: what is replaced, and by what.

    Raises:
        UserError: another thread or task has contexts open on the same objects.
    """
    with _LOCK:
        contexts = _open(targets) or Contexts()
        if contexts.of_others():
            raise UserError(
                "the model drops visual tokens in a `with` block of another thread or task; wait until that "
                "is left, or load the model a second time"
            )
        if not contexts.stack:
            for (target, name), replacement in targets.items():
                setattr(target, name, Patched(target, name, replacement, contexts))
        contexts.stack.append(context)
        return contexts


def close_context(context: Any, contexts: Contexts, targets: Targets) -> None:
    """Close `context`; with the last one, the objects are as they were before the first."""
    with _LOCK:
        contexts.stack.remove(context)
        if contexts.stack:
            return
        for target, name in targets:
            patched = vars(target).get(name)
            # where a wrapper was put around it meanwhile, the wrapper stays, and now wraps the original
            if isinstance(patched, Patched) and patched.contexts is contexts:
                if patched.own:
                    setattr(target, name, patched.original)
                else:
                    delattr(target, name)


def _open(targets: Targets) -> Contexts | None:
    """The open contexts of the objects; None where there are none."""
    for target, name in targets:
        patched = vars(target).get(name)
        if isinstance(patched, Patched) and patched.contexts.stack:
            return patched.contexts
    return None
