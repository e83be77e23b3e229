"""Results beside reference results: which samples changed, and whether that is within the tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hired_eval.errors import UserError
from hired_eval.records.scores import Scorer, difference, score
from hired_eval.records.statistics import Difference

KEY = ["benchmark", "method", "doc_id"]
TOKENS = ["kept", "allowed", "full"]
COMPARED = [*TOKENS, "prediction", "score"]
COLUMNS = [*KEY, "asked", *COMPARED, "image", "pair", "category"]
"""Of the reference results; `asked` is a hash of question and target."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ without being called different; token counts may not.

    Attributes:
        answers: share of a run's answers.
        answers_overall: share of all answers.
    """

    answers: float
    answers_overall: float

    def __post_init__(self) -> None:
        """Refuse what is no share.

        Raises:
            UserError: naming the tolerance.
        """
        for name in ("answers", "answers_overall"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UserError(f"tolerance.{name} must be a number of at least 0, got {value!r}")


@dataclass(frozen=True)
class RunChange:
    """One method on one benchmark, before and after.

    Attributes:
        benchmark: name.
        method: name of the run.
        samples: how many were compared.
        tokens: samples whose token counts differ.
        answers: samples whose answer or score differs.
        before: score of the reference on these samples.
        after: score now.
        difference: after minus before with its paired test; None where no score differs.
        problems: why the run is different beyond the tolerance; () where it is not.
    """

    benchmark: str
    method: str
    samples: int
    tokens: int
    answers: int
    before: float
    after: float
    difference: Difference | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared.

    Attributes:
        runs: each method on each benchmark.
        samples: the samples that changed, with `COMPARED` as `..._before` and `..._after`.
        tolerance: what may differ.
    """

    runs: list[RunChange]
    samples: pd.DataFrame
    tolerance: Tolerance

    @property
    def compared(self) -> int:
        """Samples compared."""
        return sum(run.samples for run in self.runs)

    @property
    def answers(self) -> int:
        """Samples whose answer or score differs."""
        return sum(run.answers for run in self.runs)

    @property
    def problems(self) -> list[str]:
        """What is different beyond the tolerance, one line each; [] where all is the same."""
        lines = [f"{r.benchmark}, {r.method}: {problem}" for r in self.runs for problem in r.problems]
        share = self.answers / self.compared
        if share > self.tolerance.answers_overall:
            lines.append(
                f"all runs: {self.answers} of {self.compared} answers differ ({share:.1%}, "
                f"tolerance.answers_overall is {self.tolerance.answers_overall:.1%})"
            )
        return lines


def compare(
    samples: pd.DataFrame,
    reference: pd.DataFrame,
    scorers: Mapping[str, Scorer],
    tolerance: Tolerance,
) -> Comparison:
    """Results beside the reference's results of the same samples.

    Args:
        samples: columns `COLUMNS`; may be a part of the reference's.
        reference: likewise.
        scorers: of each benchmark.
        tolerance: what may differ.

    Raises:
        UserError: the reference lacks a sample, or other questions were asked.
    """
    both = samples.merge(reference, on=KEY, how="left", suffixes=("_after", "_before"), indicator=True)
    missing = both[both["_merge"] == "left_only"]
    if len(missing):
        first = missing.iloc[0]
        raise UserError(
            f"the reference lacks {len(missing)} of {len(both)} samples, the first being {first['method']} "
            f"on {first['benchmark']} document {first['doc_id']}; renew it with --update"
        )
    other = both[both["asked_after"] != both["asked_before"]]
    if len(other):
        first = other.iloc[0]
        raise UserError(
            f"other questions than the reference's are asked: {len(other)} differ, the first being "
            f"{first['benchmark']} document {first['doc_id']}; install the versions that the reference "
            "names, or renew it with --update"
        )
    tokens = _differs(both, TOKENS)
    answers = _differs(both, ["prediction", "score"])
    both = both.assign(tokens_changed=tokens, answer_changed=answers)
    runs = [
        _run_change(
            str(benchmark), str(method), group, samples, reference, scorers[str(benchmark)], tolerance
        )
        for (benchmark, method), group in both.groupby(["benchmark", "method"], sort=False)
    ]
    changed = both[tokens | answers]
    columns = [*KEY, "tokens_changed", "answer_changed"]
    columns += [f"{name}_{side}" for name in COMPARED for side in ("before", "after")]
    return Comparison(runs, changed[columns].reset_index(drop=True), tolerance)


def _differs(both: pd.DataFrame, names: list[str]) -> pd.Series[bool]:
    """Which rows differ in one of some columns; missing equals missing."""
    differs = pd.Series(False, index=both.index)
    for name in names:
        before, after = both[f"{name}_before"], both[f"{name}_after"]
        same = (before == after).fillna(False).astype(bool) | (before.isna() & after.isna())
        if name == "score":
            same |= ((before - after).abs() < 1e-9).fillna(False)
        differs |= ~same
    return differs


def _run_change(
    benchmark: str,
    method: str,
    group: pd.DataFrame,
    samples: pd.DataFrame,
    reference: pd.DataFrame,
    scorer: Scorer,
    tolerance: Tolerance,
) -> RunChange:
    of_run = (samples["benchmark"] == benchmark) & (samples["method"] == method)
    ours = samples[of_run]
    theirs = reference[(reference["benchmark"] == benchmark) & (reference["method"] == method)]
    theirs = theirs[theirs["doc_id"].isin(ours["doc_id"])]
    before, after = (score([frame], scorer).value for frame in (theirs, ours))
    tokens, answers = int(group["tokens_changed"].sum()), int(group["answer_changed"].sum())
    change = None
    if _differs(group, ["score"]).any():
        change = difference([(ours, theirs)], scorer)
    problems = []
    if tokens:
        problems.append(f"token counts of {tokens} of {len(group)} samples differ")
    # a set of few samples still allows one near tie
    if answers > max(1, math.floor(tolerance.answers * len(group))):
        share = f"{answers / len(group):.0%}, tolerance.answers is {tolerance.answers:.0%}"
        problems.append(f"{answers} of {len(group)} answers differ ({share})")
    if change is not None and change.beyond_noise:
        problems.append(f"score {before:.1f} became {after:.1f} (paired test p = {change.p:.2g})")
    return RunChange(benchmark, method, len(group), tokens, answers, before, after, change, tuple(problems))


def versions_that_differ(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """'torch 2.13.0, now 2.14.1' of every package whose version is another."""
    return [f"{name} {before.get(name)}, now {now}" for name, now in after.items() if before.get(name) != now]
