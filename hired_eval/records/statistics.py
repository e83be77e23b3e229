"""Scores of a benchmark and how sure they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
class Estimate:
    """A score with its uncertainty.

    Attributes:
        value: on the paper's scale; the mean over seeds where there are several.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        n: scored units: samples, or question pairs of MME.
        clusters: groups of units that share an image.
        shown_low: lower end as tables show it: `low`, made wider where a bootstrap is blind, which is where
            all pictures of a stratum have one score; None below `FEWEST` clusters, or where it is not known.
        shown_high: upper end as tables show it.
        seeds: score of each seed, where there are several.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    shown_low: float | None = None
    shown_high: float | None = None
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A score minus another on the same samples.

    Attributes:
        value: on the paper's scale.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        p: two-sided p-value of the paired test.
        n: scored units that both have.
        clusters: groups of units that share an image.
        shown_low: lower end as tables show it, see `Estimate`.
        shown_high: upper end.
        seeds: difference of each seed, where there are several.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    clusters: int
    shown_low: float | None = None
    shown_high: float | None = None
    seeds: tuple[float, ...] = ()

    @property
    def beyond_noise(self) -> bool:
        """Whether the paired test rejects equal scores at 5 %, and the interval of several seeds as well."""
        if self.clusters < FEWEST or self.p >= 0.05:
            return False
        if not self.seeds or self.shown_low is None or self.shown_high is None:
            return True
        return not self.shown_low <= 0 <= self.shown_high


@dataclass(frozen=True)
class Units:
    """What a score is made of: the sum over strata of the mean over a stratum's units.

    Attributes:
        values: (n,) score of each unit; of several seeds, the mean.
        clusters: (n,) what is drawn together in the bootstrap: units that share an image.
        strata: (n,) category of MME; the same for all units elsewhere.
        lowest: least that a unit can score; None where that is not known.
        highest: most that a unit can score.
        seeds: score of each seed, where there are several.
    """

    values: np.ndarray
    clusters: np.ndarray
    strata: np.ndarray
    lowest: float | None = None
    highest: float | None = None
    seeds: tuple[float, ...] = ()


def units_of(samples: pd.DataFrame, scoring: str) -> Units:
    """The units of a benchmark's score.

    Args:
        samples: one row a document, with `score`, `image`, and for MME `pair` and `category`; a document
            without a score (one that another metric counts) is no unit.
        scoring: 'mean', or 'mme': each pair counts 100 times the share answered right, and 100 more if both
            are right; the mean over pairs is summed over categories (Fu et al., MME).
    """
    scored = samples[samples["score"].notna()]
    if scoring == "mme":
        pairs = scored.groupby(["category", "pair"], sort=True)["score"].agg(["mean", "min"]).reset_index()
        values = (100 * pairs["mean"] + 100 * (pairs["min"] == 1)).to_numpy(float)
        return Units(values, pairs["pair"].to_numpy(), pairs["category"].to_numpy(), 0.0, 200.0)
    scores = scored["score"].to_numpy(float)
    clusters = scored["image"].fillna(scored["doc_id"].astype(str)).to_numpy()
    shares = bool(((scores >= 0) & (scores <= 1)).all())
    bounds = (0.0, 1.0) if shares else (None, None)
    return Units(scores, clusters, np.zeros(len(scored), dtype=int), *bounds)


def estimate(samples: pd.DataFrame, scoring: str, scale: float, seed: int = 0) -> Estimate:
    """The score with its 95 % interval: percentile bootstrap over images, so that questions about one image,
    which are not independent, are drawn together; within each category, where there are categories.

    Args:
        samples: see `units_of`.
        scoring: 'mean' or 'mme'.
        scale: factor to the paper's scale.
        seed: of the bootstrap.
    """
    return estimate_seeds([samples], scoring, scale, seed)


def estimate_seeds(runs: Sequence[pd.DataFrame], scoring: str, scale: float, seed: int = 0) -> Estimate:
    """The mean score of runs that differ in their seed alone, on the documents that all answered.

    Args:
        runs: samples of each seed, see `units_of`.
        scoring: 'mean' or 'mme'.
        scale: factor to the paper's scale.
        seed: of the bootstrap.
    """
    units = _mean([units_of(frame, scoring) for frame in _on_common_documents(runs)])
    sums, counts = _by_cluster_and_stratum(units)
    if sums.size == 0:
        nan = float("nan")
        return Estimate(nan, nan, nan, 0, 0)
    draws = _draws(sums, counts, np.random.default_rng(seed), units.seeds)
    low, high = (float(x) for x in np.percentile(draws, [2.5, 97.5]))
    value = float(_score(sums.sum(axis=0)[None], counts.sum(axis=0)[None])[0])
    shown = _widened(value, low, high, sums, counts, (units.lowest, units.highest))
    numbers = (value * scale, low * scale, high * scale, len(units.values), len(sums))
    return Estimate(*numbers, *_scaled(shown, scale), seeds=tuple(scale * x for x in units.seeds))


def paired_difference(
    samples: pd.DataFrame, reference: pd.DataFrame, scoring: str, scale: float, seed: int = 0
) -> Difference | None:
    """The difference of two runs on the documents that both answered; None where they share none.

    The interval is a percentile bootstrap that draws the same images for both runs. The test exchanges the
    two runs' scores image by image (sign flips of the clusters' differences), which keeps the pairing.

    Args:
        samples: of the run; see `units_of`.
        reference: of the run it is compared with.
        scoring: 'mean' or 'mme'.
        scale: factor to the paper's scale.
        seed: of the bootstrap and the test.
    """
    return difference_of_seeds([(samples, reference)], scoring, scale, seed)


def difference_of_seeds(
    pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]], scoring: str, scale: float, seed: int = 0
) -> Difference | None:
    """The mean difference of pairs of runs that differ in their seed alone; None where they share nothing.

    Args:
        pairs: samples of a run and of the run it is compared with, for each seed.
        scoring: 'mean' or 'mme'.
        scale: factor to the paper's scale.
        seed: of the bootstrap and the test.
    """
    frames = _on_common_documents([frame for pair in pairs for frame in pair])
    if frames[0].empty:
        return None
    units = [units_of(frame, scoring) for frame in frames]
    ours = units[0]
    found = _mean(
        [replace(a, values=a.values - b.values) for a, b in zip(units[::2], units[1::2], strict=True)]
    )
    sums, counts = _by_cluster_and_stratum(Units(found.values, ours.clusters, ours.strata))
    n = len(sums)
    rng = np.random.default_rng(seed)
    draws = _draws(sums, counts, rng, found.seeds)
    by_cluster = (sums / counts.sum(axis=0)).sum(axis=1)
    value = float(by_cluster.sum())
    as_far = sum(int((flipped >= abs(value) - 1e-12).sum()) for flipped in _flipped(by_cluster, rng))
    low, high = (float(x) for x in np.percentile(draws, [2.5, 97.5]))
    widest = None if ours.lowest is None or ours.highest is None else ours.highest - ours.lowest
    shown = _widened(value, low, high, sums, counts, (None if widest is None else -widest, widest))
    numbers = (value * scale, low * scale, high * scale, (1 + as_far) / (1 + RESAMPLES), len(found.values), n)
    return Difference(*numbers, *_scaled(shown, scale), seeds=tuple(scale * x for x in found.seeds))


def _on_common_documents(runs: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The samples of the documents that every run has a score of; of a single run, all as they are."""
    if len(runs) == 1:
        return list(runs)
    common = set.intersection(*(set(frame.loc[frame["score"].notna(), "doc_id"]) for frame in runs))
    return [frame[frame["doc_id"].isin(common)].sort_values("doc_id") for frame in runs]


def _mean(runs: Sequence[Units]) -> Units:
    """Unit by unit the mean of runs on the same documents, with the score of each where there are several."""
    if len(runs) == 1:
        return runs[0]
    seeds = []
    for units in runs:
        sums, counts = _by_cluster_and_stratum(units)
        seeds.append(float(_score(sums.sum(axis=0)[None], counts.sum(axis=0)[None])[0]))
    known = all(units.lowest is not None for units in runs)
    first = runs[0] if known else replace(runs[0], lowest=None, highest=None)
    return replace(first, values=np.mean([units.values for units in runs], axis=0), seeds=tuple(seeds))


def _by_cluster_and_stratum(units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of values, (clusters, strata)."""
    cluster_names, cluster = np.unique(units.clusters.astype(str), return_inverse=True)
    stratum_names, stratum = np.unique(units.strata.astype(str), return_inverse=True)
    sums = np.zeros((len(cluster_names), len(stratum_names)))
    counts = np.zeros_like(sums)
    np.add.at(sums, (cluster, stratum), units.values)
    np.add.at(counts, (cluster, stratum), 1)
    return sums, counts


def _score(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(draws,) sum over strata of the mean."""
    total: np.ndarray = (sums / counts).sum(axis=1)
    return total


def _draws(
    sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, seeds: Sequence[float]
) -> np.ndarray:
    """(RESAMPLES,) scores of clusters drawn with replacement, as many of each stratum as there are.

    Where there are several seeds, a draw is also off by what a mean over so few seeds may be off.
    """
    drawn = np.zeros((RESAMPLES, 2 * sums.shape[1]))
    # a cluster with units in several strata is drawn among those that lie in the same ones
    patterns, pattern = np.unique(counts > 0, axis=0, return_inverse=True)
    for i in range(len(patterns)):
        members = pattern.reshape(-1) == i
        kinds, number = _kinds(np.hstack([sums[members], counts[members]]))
        start = 0
        for rows in _blocks(len(kinds)):
            weights = rng.multinomial(number.sum(), number / number.sum(), size=rows).astype(float)
            drawn[start : start + rows] += weights @ kinds
            start += rows
    found = _score(*np.hsplit(drawn, 2))
    if seeds:
        k = len(seeds)
        found = found + np.std(seeds, ddof=1) / k**0.5 * rng.standard_t(k - 1, size=RESAMPLES)
    return found


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
    bounds: tuple[float | None, float | None],
) -> tuple[float | None, float | None]:
    """The interval with what a bootstrap cannot see, and within what is possible.

    Where all `m` clusters of a stratum have one score, a bootstrap finds no spread. As many as a share of
    1 - 0.025 ** (1 / m) of all pictures may still be otherwise (the exact bound of Clopper and Pearson where
    none of m is), and those may score anything that a unit can. Independent strata add up in quadrature.
    """
    if len(sums) < FEWEST:
        return None, None
    lowest, highest = bounds
    down = up = 0.0
    for of_stratum, number in zip(sums.T, counts.T, strict=True):
        means = of_stratum[number > 0] / number[number > 0]
        if np.ptp(means) > ALIKE:
            continue
        if lowest is None or highest is None:
            return None, None
        others = 1 - 0.025 ** (1 / len(means))
        down += (others * (means[0] - lowest)) ** 2
        up += (others * (highest - means[0])) ** 2
    if down or up:
        low = value - np.hypot(max(0.0, value - low), down**0.5)
        high = value + np.hypot(max(0.0, high - value), up**0.5)
    if lowest is not None and highest is not None:
        strata = sums.shape[1]
        low, high = max(low, strata * lowest), min(high, strata * highest)
    return float(low), float(high)


def _scaled(shown: tuple[float | None, float | None], scale: float) -> tuple[float | None, float | None]:
    low, high = shown
    return (None if low is None else low * scale, None if high is None else high * scale)
