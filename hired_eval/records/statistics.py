"""How sure a score or a difference of scores is: intervals by bootstrap, and a paired test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd

RESAMPLES = 2000
FEWEST = 10
"""Pictures below which no interval is given: a bootstrap of fewer draws the same few over and over."""
BLOCK = 1 << 21
"""Counts drawn at once, 16 MiB."""
MANY = 4096
"""Clusters above which equal ones are drawn together: the same distribution, and a hundred times as fast."""
ALIKE = 1e-9


@dataclass(frozen=True)
class Units:
    """What a score is made of: the sum over strata of the mean over a stratum's units.

    Attributes:
        values: (n,) score of each unit.
        clusters: (n,) what is drawn together in the bootstrap: units that share an image.
        strata: (n,) what is drawn by itself, and as often as it is there: a category, where there are any.
        bounds: least and most that a unit can score; None where that is not known.
    """

    values: np.ndarray
    clusters: np.ndarray
    strata: np.ndarray
    bounds: tuple[float, float] | None = None

    @property
    def total(self) -> float:
        """The score; not a number where there is no unit."""
        sums, counts = _by_cluster_and_stratum(self)
        return float(_total(sums.sum(axis=0), counts.sum(axis=0))) if sums.size else float("nan")

    def minus(self, others: Units) -> Units:
        """The difference of each unit and the same of another run."""
        bounds = None
        if self.bounds and others.bounds:
            bounds = self.bounds[0] - others.bounds[1], self.bounds[1] - others.bounds[0]
        return Units(self.values - others.values, self.clusters, self.strata, bounds)


@dataclass(frozen=True)
class Estimate:
    """A score with its uncertainty.

    Attributes:
        value: the mean over seeds where there are several.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        n: scored units: samples, or question pairs of MME.
        clusters: groups of units that share an image.
        shown_low: lower end as tables show it: `low`, made wider where a bootstrap is blind, which is where
            all pictures of a stratum have one score; None below `FEWEST` clusters, or where it is not known.
        shown_high: upper end as tables show it.
        seeds: score of each seed, where there are several.
        sequence: whether the interval is no bootstrap but that of a part drawn at random, which holds for the
            whole benchmark: see `hired_eval.records.sequences`.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    shown_low: float | None = None
    shown_high: float | None = None
    seeds: tuple[float, ...] = ()
    sequence: bool = False

    def within(self, low: float, high: float) -> Self:
        """The same with the interval of a part drawn at random."""
        return replace(self, low=low, high=high, shown_low=low, shown_high=high, sequence=True)

    def scaled(self, factor: float) -> Self:
        """The same on another scale."""
        return replace(
            self,
            value=self.value * factor,
            low=self.low * factor,
            high=self.high * factor,
            shown_low=None if self.shown_low is None else self.shown_low * factor,
            shown_high=None if self.shown_high is None else self.shown_high * factor,
            seeds=tuple(score * factor for score in self.seeds),
        )


@dataclass(frozen=True)
class Difference(Estimate):
    """A score minus another on the same samples, whose units are those that both have.

    Attributes:
        p: two-sided p-value of the paired test.
    """

    p: float = 1.0

    @property
    def beyond_noise(self) -> bool:
        """Whether the paired test rejects equal scores at 5 %, and the interval of several seeds as well.

        Of a part drawn at random, whether the interval leaves out 0.
        """
        if self.sequence:
            return not self.low <= 0 <= self.high
        if self.clusters < FEWEST or self.p >= 0.05:
            return False
        if not self.seeds or self.shown_low is None or self.shown_high is None:
            return True
        return not self.shown_low <= 0 <= self.shown_high


def estimate(runs: Sequence[Units], seed: int = 0) -> Estimate:
    """The score with its 95 % interval: percentile bootstrap over images, so that questions about one image,
    which are not independent, are drawn together; within each stratum.

    Args:
        runs: units of a run; of several, which differ in their seed alone, the same units in the same order.
        seed: of the bootstrap.
    """
    units, seeds = _mean(runs)
    sums, counts = _by_cluster_and_stratum(units)
    if sums.size == 0:
        nan = float("nan")
        return Estimate(nan, nan, nan, 0, 0)
    draws = _draws(sums, counts, np.random.default_rng(seed), seeds)
    low, high = (float(x) for x in np.percentile(draws, [2.5, 97.5]))
    value = float(_total(sums.sum(axis=0), counts.sum(axis=0)))
    shown = _widened(value, low, high, sums, counts, units.bounds)
    return Estimate(value, low, high, len(units.values), len(sums), *shown, seeds)


def difference(pairs: Sequence[tuple[Units, Units]], seed: int = 0) -> Difference:
    """The difference of a run and the one that it is compared with, or the mean of those of several seeds.

    The interval is a percentile bootstrap that draws the same images for both runs. The test exchanges the
    two runs' scores image by image (sign flips of the clusters' differences), which keeps the pairing.

    Args:
        pairs: units of the two runs, for each seed; the same units in the same order, one at least.
        seed: of the bootstrap and the test.
    """
    units, seeds = _mean([ours.minus(theirs) for ours, theirs in pairs])
    sums, counts = _by_cluster_and_stratum(units)
    rng = np.random.default_rng(seed)
    draws = _draws(sums, counts, rng, seeds)
    by_cluster = (sums / counts.sum(axis=0)).sum(axis=1)
    value = float(by_cluster.sum())
    as_far = sum(int((flipped >= abs(value) - 1e-12).sum()) for flipped in _flipped(by_cluster, rng))
    low, high = (float(x) for x in np.percentile(draws, [2.5, 97.5]))
    shown = _widened(value, low, high, sums, counts, units.bounds)
    p = (1 + as_far) / (1 + RESAMPLES)
    return Difference(value, low, high, len(units.values), len(sums), *shown, seeds, p=p)


def spread_of_seeds(seeds: Sequence[float]) -> float:
    """How far a mean over so few seeds may be off: half the 95 % interval of Student's t."""
    k = len(seeds)
    rng = np.random.default_rng(0)
    quantile = np.quantile(np.abs(rng.standard_t(k - 1, size=200_000)), 0.95)
    return float(np.std(seeds, ddof=1) / k**0.5 * quantile)


def mean_share(pairs: Sequence[tuple[Units, Units]], seed: int = 0) -> Estimate | None:
    """The mean over benchmarks of a run's score as a share of another's, as a percentage.

    The interval draws the same images for both runs of a benchmark, and each benchmark by itself.

    Args:
        pairs: units of the two runs on each benchmark; the same units in the same order.
        seed: of the bootstrap.

    Returns:
        None where one of the other scores is 0, so that nothing is a share of it.
    """
    rng = np.random.default_rng(seed)
    shares, draws, clusters = [], [], []
    for ours, theirs in pairs:
        sums, counts = _by_cluster_and_stratum(ours)
        others, _ = _by_cluster_and_stratum(theirs)
        whole = float(_total(others.sum(axis=0), counts.sum(axis=0)))
        if whole == 0:
            return None
        shares.append(float(_total(sums.sum(axis=0), counts.sum(axis=0))) / whole)
        own, reference, drawn = np.split(
            _drawn(np.hstack([sums, others, counts]), counts > 0, rng), 3, axis=1
        )
        draws.append(_total(own, drawn) / _total(reference, drawn))
        clusters.append(len(sums))
    value, fewest = 100 * float(np.mean(shares)), min(clusters)
    low, high = (100 * float(x) for x in np.percentile(np.mean(draws, axis=0), [2.5, 97.5]))
    shown = (low, high) if fewest >= FEWEST and np.isfinite([low, high]).all() else (None, None)
    return Estimate(value, low, high, sum(len(ours.values) for ours, _ in pairs), fewest, *shown)


def adjust_for_many(p: Sequence[float]) -> list[float]:
    """P-values adjusted for how many tests there are (Holm, 1979).

    Args:
        p: of each test.

    Returns:
        In the same order, each at most 1.
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def _mean(runs: Sequence[Units]) -> tuple[Units, tuple[float, ...]]:
    """Unit by unit the mean of runs, and the score of each where there are several."""
    if len(runs) == 1:
        return runs[0], ()
    known = all(units.bounds is not None for units in runs)
    values = np.mean([units.values for units in runs], axis=0)
    mean = replace(runs[0], values=values, bounds=runs[0].bounds if known else None)
    return mean, tuple(units.total for units in runs)


def _by_cluster_and_stratum(units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of values, (clusters, strata)."""
    cluster, cluster_names = pd.factorize(units.clusters.astype(object), sort=True)
    stratum, stratum_names = pd.factorize(units.strata.astype(object), sort=True)
    sums = np.zeros((len(cluster_names), len(stratum_names)))
    counts = np.zeros_like(sums)
    np.add.at(sums, (cluster, stratum), units.values)
    np.add.at(counts, (cluster, stratum), 1)
    return sums, counts


def _total(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(...) sum over strata, the last axis, of the mean."""
    total: np.ndarray = (sums / counts).sum(axis=-1)
    return total


def _draws(
    sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, seeds: Sequence[float]
) -> np.ndarray:
    """(RESAMPLES,) scores of clusters drawn with replacement, as many of each stratum as there are.

    Where there are several seeds, a draw is also off by what a mean over so few seeds may be off.
    """
    found = _total(*np.hsplit(_drawn(np.hstack([sums, counts]), counts > 0, rng), 2))
    if seeds:
        k = len(seeds)
        found = found + np.std(seeds, ddof=1) / k**0.5 * rng.standard_t(k - 1, size=RESAMPLES)
    return found


def _drawn(columns: np.ndarray, lies_in: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES, k) sums of the columns (clusters, k) over clusters drawn with replacement.

    Args:
        columns: what is summed.
        lies_in: (clusters, strata) bool; a cluster is drawn among those that lie in the same strata.
        rng: draws.
    """
    drawn = np.zeros((RESAMPLES, columns.shape[1]))
    patterns, pattern = np.unique(lies_in, axis=0, return_inverse=True)
    for i in range(len(patterns)):
        kinds, number = _kinds(columns[pattern.reshape(-1) == i])
        start = 0
        for rows in _blocks(len(kinds)):
            weights = rng.multinomial(number.sum(), number / number.sum(), size=rows).astype(float)
            drawn[start : start + rows] += weights @ kinds
            start += rows
    return drawn


def _flipped(by_cluster: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks of absolute sums of the clusters' differences, each with a sign drawn by lot."""
    kinds, number = _kinds(by_cluster[:, None])
    for rows in _blocks(len(kinds)):
        if len(kinds) == len(by_cluster):
            signs = rng.choice([-1.0, 1.0], size=(rows, len(kinds)))
        else:
            signs = 2.0 * rng.binomial(number, 0.5, size=(rows, len(kinds))) - number
        yield np.abs(signs @ kinds[:, 0])


def _kinds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different rows, and how many there are of each; of few rows, each by itself."""
    if len(rows) <= MANY:
        return rows, np.ones(len(rows), dtype=int)
    kinds, number = np.unique(rows.round(12), axis=0, return_counts=True)
    return kinds, number


def _blocks(n: int) -> Iterator[int]:
    """Numbers of draws of `n` counts each that fit in memory, `RESAMPLES` in all."""
    rows = max(1, BLOCK // n)
    yield from [rows] * (RESAMPLES // rows)
    if RESAMPLES % rows:
        yield RESAMPLES % rows


def _widened(
    value: float,
    low: float,
    high: float,
    sums: np.ndarray,
    counts: np.ndarray,
    bounds: tuple[float, float] | None,
) -> tuple[float | None, float | None]:
    """The interval with what a bootstrap cannot see, and within what is possible.

    Where all `m` clusters of a stratum have one score, a bootstrap finds no spread. As many as a share of
    1 - 0.025 ** (1 / m) of all pictures may still be otherwise (the exact bound of Clopper and Pearson where
    none of m is), and those may score anything that a unit can. Independent strata add up in quadrature.
    """
    if len(sums) < FEWEST:
        return None, None
    down = up = 0.0
    for of_stratum, number in zip(sums.T, counts.T, strict=True):
        means = of_stratum[number > 0] / number[number > 0]
        if np.ptp(means) > ALIKE:
            continue
        if bounds is None:
            return None, None
        others = 1 - 0.025 ** (1 / len(means))
        down += (others * (means[0] - bounds[0])) ** 2
        up += (others * (bounds[1] - means[0])) ** 2
    if down or up:
        low = value - np.hypot(max(0.0, value - low), down**0.5)
        high = value + np.hypot(max(0.0, high - value), up**0.5)
    if bounds is not None:
        strata = sums.shape[1]
        low, high = max(low, strata * bounds[0]), min(high, strata * bounds[1])
    return float(low), float(high)
