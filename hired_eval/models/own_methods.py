"""Faults in methods from elsewhere: a mistake in somebody's code ends in one line that says where it is."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hired_eval.dropping.base import TokenDropper
from hired_eval.errors import UserError, first_line
from hired_eval.models.memory import is_out_of_memory
from hired_eval.paths import PACKAGE


@contextmanager
def explained_faults(method: TokenDropper) -> Iterator[None]:
    """Turn what a method of another package raises into one line; a method of this one raises as it does.

    Raises:
        UserError: naming the method, the error, and the line of the method's file where it happened.
    """
    kind = type(method)
    if kind.__module__.partition(".")[0] == PACKAGE.name:
        yield
        return
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        own = inspect.getsourcefile(kind)
        frames = traceback.extract_tb(error.__traceback__)
        # the innermost line of the method's own file, where the error went through it
        frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
        raise UserError(
            f"the method {kind.__name__} fails: {type(error).__name__}: {first_line(error)} "
            f"({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})"
        ) from error
