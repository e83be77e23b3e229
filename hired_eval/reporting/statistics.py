"""Scores of a benchmark and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A score with its uncertainty.

    Attributes:
        value: on the paper's scale.
        low: lower end of the 95 % interval.
        high: upper end.
        n: scored units: samples, or question pairs of MME.
        clusters: groups of units that share an image.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int


@dataclass(frozen=True)
class Units:
    """What a score is made of: the sum over strata of the mean over a stratum's units.

    Attributes:
        values: (n,) score of each unit.
        clusters: (n,) what is drawn together in the bootstrap: units that share an image.
        strata: (n,) category of MME; the same for all units elsewhere.
    """

    values: np.ndarray
    clusters: np.ndarray
    strata: np.ndarray


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
        values = 100 * pairs["mean"] + 100 * (pairs["min"] == 1)
        return Units(values.to_numpy(float), pairs["pair"].to_numpy(), pairs["category"].to_numpy())
    clusters = scored["image"].fillna(scored["doc_id"].astype(str))
    return Units(scored["score"].to_numpy(float), clusters.to_numpy(), np.zeros(len(scored), dtype=int))


def estimate(samples: pd.DataFrame, scoring: str, scale: float, seed: int = 0) -> Estimate:
    """The score with its 95 % interval: percentile bootstrap over images, so that questions about one image,
    which are not independent, are drawn together.

    Args:
        samples: see `units_of`.
        scoring: 'mean' or 'mme'.
        scale: factor to the paper's scale.
        seed: of the bootstrap.
    """
    units = units_of(samples, scoring)
    sums, counts = _by_cluster_and_stratum(units)
    if sums.size == 0:
        nan = float("nan")
        return Estimate(nan, nan, nan, 0, 0)
    n = len(sums)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    draws = _score(weights @ sums, weights @ counts)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    value = float(_score(sums.sum(axis=0)[None], counts.sum(axis=0)[None])[0])
    return Estimate(value * scale, float(low) * scale, float(high) * scale, len(units.values), n)


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
    """(draws,) sum over strata of the mean; a stratum that a draw missed counts 0 of 0, left out."""
    means: np.ndarray = np.divide(sums, counts, out=np.zeros_like(sums, dtype=float), where=counts > 0)
    total: np.ndarray = means.sum(axis=1)
    return total


@dataclass(frozen=True)
class Difference:
    """A score minus another on the same samples.

    Attributes:
        value: on the paper's scale.
        low: lower end of the 95 % interval.
        high: upper end.
        p: two-sided p-value of the paired test.
        n: scored units that both have.
    """

    value: float
    low: float
    high: float
    p: float
    n: int

    @property
    def beyond_noise(self) -> bool:
        """Whether the paired test rejects equal scores at 5 %."""
        return self.p < 0.05


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
    common = set(samples.loc[samples["score"].notna(), "doc_id"]) & set(
        reference.loc[reference["score"].notna(), "doc_id"]
    )
    if not common:
        return None
    ours, theirs = (
        units_of(frame[frame["doc_id"].isin(common)].sort_values("doc_id"), scoring)
        for frame in (samples, reference)
    )
    sums, counts = _by_cluster_and_stratum(ours)
    sums_reference, _ = _by_cluster_and_stratum(Units(theirs.values, ours.clusters, ours.strata))
    n = len(sums)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    draws = _score(weights @ (sums - sums_reference), weights @ counts)
    by_cluster = ((sums - sums_reference) / counts.sum(axis=0)).sum(axis=1)
    value = float(by_cluster.sum())
    flipped = np.abs(rng.choice([-1.0, 1.0], size=(RESAMPLES, n)) @ by_cluster)
    as_far = int((flipped >= abs(value) - 1e-12).sum())
    low, high = (float(x) * scale for x in np.percentile(draws, [2.5, 97.5]))
    return Difference(value * scale, low, high, (1 + as_far) / (1 + RESAMPLES), len(ours.values))
