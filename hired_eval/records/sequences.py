"""Intervals that hold however often one looks: confidence sequences for a part of a finite population.

Units (pictures with their questions, pairs of questions) come in random order, none twice. A score is the
sum of what all units contribute. To test a score, money is bet on each next unit, at odds that are fair if
the score is the true one. When the bets have made 40 times the stake, the score is rejected: if it is the
true one, that happens with a probability of at most 2.5 % on each side, at any time and over all looks
together (Ville's inequality). Source: Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", 2024, section 5 (without replacement). Bets are on what a unit contributes beyond a
prediction from the earlier units of its stratum, as in a stratified or a ratio estimator, which makes
intervals narrower and assumes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

ALPHA = 0.05
BETS = ((0.5, 0.25), (1.0, 0.45), (2.0, 0.2), (6.0, 0.1))
"""Multiples of the offset that bets are made for, each with its share of the stake."""
CAUTION = 0.75
"""Most of its capital that a bet can lose at once."""
FIRST_LOOK, GROWTH = 200, 1.5
"""Documents before the first look at an interval, and how many times as many before each next one."""
STEPS = 26
"""Halvings of the range in which an end of an interval is looked for."""


@dataclass(frozen=True)
class Drawn:
    """The first units of a population in random order.

    Attributes:
        values: (t,) what each adds to the score.
        weights: (t,) share of each: it adds its weight times the least to the most of `bounds`.
        strata: (t,) stratum of each, a number.
        totals: (strata,) weight of each stratum in the whole population.
        units: of the whole population.
        largest: weight that no unit exceeds.
        bounds: least and most of a value that has weight 1.
        first: units at the beginning that were not drawn from all: one of each stratum.
    """

    values: np.ndarray
    weights: np.ndarray
    strata: np.ndarray
    totals: np.ndarray
    units: int
    largest: float
    bounds: tuple[float, float]
    first: int = 0

    @property
    def possible(self) -> tuple[float, float]:
        """Least and most that the score can be, whatever the other units add."""
        rest = float(self.totals.sum() - self.weights.sum()) if len(self.values) < self.units else 0.0
        found = float(self.values.sum())
        return found + self.bounds[0] * rest, found + self.bounds[1] * rest

    def negative(self) -> Drawn:
        """The same units with the other sign."""
        return replace(self, values=-self.values, bounds=(-self.bounds[1], -self.bounds[0]))

    def head(self, units: int) -> Drawn:
        """What was known when so many units had been drawn."""
        return replace(
            self, values=self.values[:units], weights=self.weights[:units], strata=self.strata[:units]
        )


def interval(drawn: Drawn, offset: float | None = None) -> tuple[float, float]:
    """Ends of the 95 % interval; with an offset, valid together with all those of fewer units.

    Args:
        drawn: units so far.
        offset: distance from the true score that bets are made to tell, e.g. the precision that is wanted; it
            must not depend on what was drawn. None where the number of units was decided beforehand.
    """
    other = drawn.negative()
    return _lowest(Bets(drawn, offset), drawn.possible), -_lowest(Bets(other, offset), other.possible)


def _lowest(bets: Bets, possible: tuple[float, float]) -> float:
    """Below which every score is rejected."""
    low, high = possible
    if not bets.reject(low):
        return low
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if bets.reject(middle) else (low, middle)
    return low


class Bets:
    """Bets that the score is more than the one that is tested.

    Args:
        drawn: units so far.
        offset: see `interval`.
    """

    def __init__(self, drawn: Drawn, offset: float | None) -> None:
        t = len(drawn.values)
        scale = drawn.units / drawn.totals.sum()  # so that the mean weight is 1
        values, weights = drawn.values * scale, drawn.weights * scale
        low, high = drawn.bounds
        largest = drawn.largest * scale
        of_stratum = np.zeros((t + 1, len(drawn.totals)))
        of_stratum[np.arange(1, t + 1), drawn.strata] = weights
        weight_before = of_stratum.cumsum(axis=0)[:t]
        of_stratum[np.arange(1, t + 1), drawn.strata] = values
        value_before = of_stratum.cumsum(axis=0)[:t]
        # a unit of each stratum in the middle is known beforehand
        mean = (value_before + (low + high) / 2) / (weight_before + 1)
        rest = np.maximum(drawn.totals * scale - weight_before, 0)
        self._own = values - weights * mean[np.arange(t), drawn.strata]
        self._known = value_before.sum(axis=1) + (rest * mean).sum(axis=1)
        self._left = drawn.units - np.arange(t)
        self._below = largest * (mean.max(axis=1, initial=low) - low)
        start = (largest * (high - low) / 4) ** 2
        squares = np.concatenate([[0.0], np.cumsum(self._own**2)[:-1]]) if t else np.zeros(0)
        self._variance = (start + squares) / np.arange(1, t + 1)
        self._scale, self._first = scale, drawn.first
        if offset is None:
            # the distance that this number of units can tell
            self._offset = np.sqrt(-2 * np.log(ALPHA / 2) * self._variance / max(t, 1))
        else:
            self._offset = np.full(t, offset / drawn.totals.sum())

    def capital(self, score: float) -> np.ndarray:
        """(t,) logarithm of what the stake has become after each unit, at the odds of this score."""
        fair = (score * self._scale - self._known) / self._left
        beyond = self._own - fair
        beyond[: self._first] = 0
        most = CAUTION / np.maximum(self._below + fair, 1e-12)
        logs = []
        for multiple, share in BETS:
            offset = multiple * self._offset
            size = np.minimum(offset / (self._variance + offset**2), most)
            logs.append(np.log1p(size * beyond).cumsum() + np.log(share))
        found: np.ndarray = np.logaddexp.reduce(logs, axis=0)
        return found

    def reject(self, score: float, alpha: float = ALPHA / 2) -> bool:
        """Whether a score is too low to be the true one."""
        capital = self.capital(score)
        return bool(capital.size and capital.max() >= -np.log(alpha))


def sizes(least: int, most: int) -> Sequence[int]:
    """A geometric series of sizes to look at, the last of which is everything."""
    found, size = [], float(least)
    while size < most:
        found.append(round(size))
        size *= GROWTH
    return [*found, most]
