"""Two ways of doing the same, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

HEAD = ("what", "baseline", "seconds", "here", "seconds", "ratio", "target", "reached", "same result")


@dataclass(frozen=True)
class Comparison:
    """Seconds of both ways, pair by pair.

    Attributes:
        what: the comparison, with the letter of its row.
        baseline: the slow way.
        ours: the fast way.
        pairs: (baseline, ours) seconds, each pair measured back to back.
        same: how far results agree.
        target: least ratio; None where there is none.
        share: the ratio is ours over baseline, and the target is the most it may be.
    """

    what: str
    baseline: str
    ours: str
    pairs: list[tuple[float, float]]
    same: str
    target: float | None = None
    share: bool = False

    @property
    def ratios(self) -> list[float]:
        """Baseline over ours of each pair, or ours over baseline for a share."""
        return [ours / base if self.share else base / ours for base, ours in self.pairs]

    @property
    def reached(self) -> bool | None:
        """Whether the median meets the target."""
        if self.target is None:
            return None
        middle = median(self.ratios)
        return middle <= self.target if self.share else middle >= self.target

    def row(self) -> list[str]:
        """A row of the table: medians, and the lowest and highest of the ratios."""
        base, ours = (median(pair[i] for pair in self.pairs) for i in (0, 1))
        form: Callable[[float], str] = (lambda r: f"{r:.2%}") if self.share else (lambda r: f"{r:.2f}x")
        low, high = min(self.ratios), max(self.ratios)
        target = "" if self.target is None else ("below " if self.share else "at least ") + form(self.target)
        return [
            self.what,
            self.baseline,
            f"{base:.4g}",
            self.ours,
            f"{ours:.4g}",
            f"{form(median(self.ratios))} ({form(low)} to {form(high)})",
            target,
            {True: "yes", False: "no", None: ""}[self.reached],
            self.same,
        ]


def in_turns(
    baseline: Callable[[], Any], ours: Callable[[], Any], repeats: int
) -> tuple[list[tuple[float, float]], Any, Any]:
    """Warm both up, then time them in turns; seconds, and the last results of both."""
    baseline()
    ours()
    pairs = []
    for _ in range(repeats):
        start = time.perf_counter()
        first = baseline()
        middle = time.perf_counter()
        second = ours()
        pairs.append((middle - start, time.perf_counter() - middle))
    return pairs, first, second


def together(what: str, parts: list[Comparison], target: float | None) -> Comparison:
    """The sum over comparisons of the same two ways."""
    pairs = [
        (sum(base for base, _ in same_turn), sum(ours for _, ours in same_turn))
        for same_turn in zip(*(part.pairs for part in parts), strict=True)
    ]
    same = "all" if all(part.same.startswith("all") for part in parts) else "see the rows above"
    return Comparison(what, parts[0].baseline, parts[0].ours, pairs, same, target)


def agreement(first: list[Any], second: list[Any]) -> str:
    """How many of two lists of answers are equal."""
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    return f"all {equal} answers" if equal == len(first) else f"{equal} of {len(first)} answers"


def table(comparisons: list[Comparison]) -> str:
    """All comparisons in Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return "\n".join([*lines, *("| " + " | ".join(c.row()) + " |" for c in comparisons)])
