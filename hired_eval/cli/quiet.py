"""Progress and results on the screen, not the libraries' chatter."""

from __future__ import annotations

import sys
from functools import partial

SECONDS_BEFORE_A_BAR = 5


def quiet_libraries() -> None:
    """Leave out the libraries' progress bars and remarks; warnings stay."""
    import datasets

    # lmms-eval adds a sink of its own on import, so it has to be imported before the sinks are replaced
    import lmms_eval.api.task
    import lmms_eval.evaluator
    import lmms_eval.models
    import transformers
    from loguru import logger
    from tqdm import tqdm

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level}: {message}")
    datasets.disable_progress_bars()
    # lmms-eval's own bars come where they take long, and go when they are done: a sweep leaves a line a run
    for module in (lmms_eval.evaluator, lmms_eval.api.task):
        module.tqdm = partial(tqdm, leave=False, delay=SECONDS_BEFORE_A_BAR)
    transformers.utils.logging.disable_progress_bar()
