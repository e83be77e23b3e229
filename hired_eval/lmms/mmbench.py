"""MMBench without a judge: lmms-eval's own static evaluator, which reads the chosen letter off the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

STATIC = "mmbench_aggregate_dev_results_static"
"""lmms-eval's aggregate that asks nobody; of its tasks, the English one alone has a variant with it."""
NEEDED = {"index", "answer", "prediction", *"ABCD"}
"""What the evaluator reads of a document."""


def without_judge(aggregate: Any) -> Callable[..., Any]:
    """The aggregate of an MMBench task, or the static one in place of one that asks a judge."""
    return aggregate if getattr(aggregate, "__name__", "") == STATIC else aggregate_static


def aggregate_static(results: Sequence[dict[str, Any]]) -> float:
    """The share of questions answered right in every rotation, in percent, as lmms-eval counts it."""
    share, _, _ = MMBench_Evaluator().eval_result(results, eval_method="static")
    return 100 * float(share)


def read_static(value: Any) -> float | None:
    """100 where the reply to one rotation of a question is right, else 0; None for no value of MMBench's."""
    if not isinstance(value, dict) or not value.keys() >= NEEDED:
        return None
    document = pd.DataFrame([{**value, "prediction": str(value["prediction"])}])
    answers = {value["index"]: value["answer"]}
    return 100.0 * int(MMBench_Evaluator().eval_sub_data(document, answers, static_only=True))
