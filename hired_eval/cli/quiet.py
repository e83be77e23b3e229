"""Progress and results on the screen, not the libraries' chatter."""

from __future__ import annotations

import sys


def quiet_libraries() -> None:
    """Leave out the libraries' progress bars and remarks; warnings stay."""
    import datasets

    # lmms-eval adds a sink of its own on import, so it has to be imported before the sinks are replaced
    import lmms_eval.models  # noqa: F401
    import transformers
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level}: {message}")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
