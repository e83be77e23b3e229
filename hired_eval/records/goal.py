"""When a run that grows has answered enough, and what is settled then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hired_eval.errors import UserError

DIFFERENT, EQUIVALENT = "different", "equivalent"
MOST_POINTS = 50
SMALL = 0.01
"""Share of a benchmark's range that bets are made for where nobody names a precision or a margin."""


@dataclass(frozen=True)
class Goal:
    """What a run is to find out; of several goals, the first that is reached ends it.

    Attributes:
        precision: half the width of the interval that is wanted, in points.
        margin: the method is to be told to be within so many points of full execution, or further from it.
        different: whether it is to be told that the method differs from full execution at all.
    """

    precision: float | None = None
    margin: float | None = None
    different: bool = False

    @property
    def points(self) -> float | None:
        """What bets are made for; None where it is a share of the benchmark's range."""
        return min((p for p in (self.precision, self.margin) if p is not None), default=None)

    def reached(self, low: float, high: float, *, own: bool = False) -> str | None:
        """What an interval settles, in words; None where it settles nothing.

        Args:
            low: its lower end, in points.
            high: its upper end.
            own: it is that of full execution's own score, about which nothing is to be decided.
        """
        what = "score" if own else "difference to Full"
        if self.precision is not None and high - low <= 2 * self.precision:
            precise = f"{what} known to within {points(self.precision)}"
        else:
            precise = None
        if own:
            return precise or ("enough to begin with" if self.precision is None else None)
        return self.decided(low, high) or precise

    def decided(self, low: float, high: float) -> str | None:
        """What an interval of a difference says to `decide`, in words; None where it says nothing yet."""
        if self.margin is not None:
            if -self.margin <= low and high <= self.margin:
                return f"within {points(self.margin)} of Full"
            if low > self.margin or high < -self.margin:
                return f"more than {points(self.margin)} {'above' if low > 0 else 'below'} Full"
        if self.different and not low <= 0 <= high:
            return "different from Full"
        return None


def points(number: float) -> str:
    """'1 point', '2.5 points'."""
    return f"{number:g} point{'s' * (number != 1)}"


def read_goal(config: Mapping[str, Any]) -> Goal | None:
    """The goal that a config names; None where it names none.

    Args:
        config: with `precision` and `decide`, or without, as records of earlier versions are.

    Raises:
        UserError: `decide` is none of the two forms, or its margin is out of range.
    """
    precision, decide = config.get("precision"), config.get("decide")
    if precision is None and decide is None:
        return None
    if decide is None:
        return Goal(precision)
    if decide == DIFFERENT:
        return Goal(precision, different=True)
    match = re.fullmatch(rf"{EQUIVALENT}:(\d+(?:\.\d+)?)", decide)
    if match is None or not 0 < float(match[1]) <= MOST_POINTS:
        raise UserError(
            f"decide must be {DIFFERENT}, or {EQUIVALENT}:POINTS with points above 0 and at most "
            f"{MOST_POINTS}, e.g. {EQUIVALENT}:1, got {decide!r}"
        )
    return Goal(precision, margin=float(match[1]))
