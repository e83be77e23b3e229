"""Benchmarks whose every score is known, to draw parts of: those of the mini benchmarks, and made-up ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from hired_eval.records.sequences import Drawn

STORED = Path(__file__).parent / "scores.parquet"
"""Scores of the runs of Table 3 on the mini benchmarks, a row a document."""
MOST = 8
"""Questions of a unit, as a run draws them."""
SIZES = {
    "vqav2": 214_354, "scienceqa": 2_017, "textvqa": 5_000, "docvqa": 5_349, "ocrbench": 1_000, "mme": 1_057,
    "pope": 9_000, "chartqa": 2_500,
}  # fmt: skip
"""Documents of the real benchmarks."""
METHODS = ("Spatial 40 %", "PruMerge", "PruMerge+", "HiRED 20 %", "HiRED 40 %")


@dataclass(frozen=True)
class Population:
    """All units of a benchmark.

    Attributes:
        values: (units,) sum of the scores of each, a difference of two runs or one run's scores.
        sizes: (units,) documents of each.
        strata: (units,) category of each.
        bounds: least and most of a document.
        scale: from the mean of a document to points.
    """

    values: np.ndarray
    sizes: np.ndarray
    strata: np.ndarray
    bounds: tuple[float, float]
    scale: float = 100.0

    @property
    def truth(self) -> float:
        """The score in points, when all is answered."""
        return self.scale * float(self.drawn(np.arange(len(self.values))).values.sum())

    @property
    def documents(self) -> int:
        """Of the whole benchmark."""
        return int(self.sizes.sum())

    def drawn(self, order: np.ndarray) -> Drawn:
        """All units in an order."""
        counts = np.bincount(self.strata, self.sizes)
        of_unit = counts[self.strata]
        return Drawn(
            values=(self.values / of_unit)[order],
            weights=(self.sizes / of_unit)[order],
            strata=self.strata[order],
            totals=np.ones(len(counts)),
            units=len(self.values),
            largest=float((self.sizes / of_unit).max()),
            bounds=self.bounds,
            first=len(counts) if len(counts) > 1 else 0,
        )

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """A random one: where there are strata, one unit of each first."""
        if self.strata.max() == 0:
            return rng.permutation(len(self.values))
        firsts = [rng.choice(np.flatnonzero(self.strata == s)) for s in range(self.strata.max() + 1)]
        rest = np.setdiff1d(np.arange(len(self.values)), firsts)
        return np.concatenate([firsts, rng.permutation(rest)])


def made_up(
    documents: int, most: int, points: float, changed: float, rng: np.random.Generator, alike: float = 0.3
) -> Population:
    """A difference of so many points, to a tenth of a document.

    Args:
        documents: of the benchmark, about.
        most: questions of a picture, at most; every number up to it is as frequent.
        points: the difference in points.
        changed: share of the documents of which the score changes.
        rng: draws the population.
        alike: share of the pictures whose questions all change in the same way, where one changes.
    """
    sizes = rng.integers(1, most + 1, 2 * documents // (most + 1))
    total = int(sizes.sum())
    more = round(total * (changed + points / 100) / 2)
    less = round(total * (changed - points / 100) / 2)
    of_document = np.zeros(total)
    picture = np.repeat(np.arange(len(sizes)), sizes)
    # pictures that are alike take all their changes of one kind, so that questions of a picture depend
    key = np.where(
        (rng.random(len(sizes)) < alike)[picture], rng.random(len(sizes))[picture], rng.random(total)
    )
    ranked = np.argsort(key, kind="stable")
    of_document[ranked[:more]] = 1
    of_document[ranked[total - less :]] = -1
    values = np.bincount(picture, of_document)
    return Population(values, sizes, np.zeros(len(sizes), dtype=int), (-1.0, 1.0))


@cache
def stored_scores() -> pd.DataFrame:
    """See `STORED`."""
    return pd.read_parquet(STORED)


def stored(benchmark: str, method: str, minus: str | None = "Full") -> Population:
    """A method's scores on a mini benchmark, or its differences to another's."""
    table = stored_scores()
    table = table[table["benchmark"] == benchmark]
    if benchmark == "mme":
        table = table[table["category"].notna()]
        pairs = table.groupby(["category", "pair"], observed=True)
        values = sum(
            sign * (100 * pairs[name].mean() + 100 * (pairs[name].min() == 1))
            for name, sign in ((method, 1), (minus, -1))
            if name
        ).to_numpy(float)
        strata = pd.factorize(pairs[method].mean().index.get_level_values(0))[0]
        return Population(
            values, np.ones(len(values)), strata, (-200.0, 200.0) if minus else (0.0, 200.0), 1.0
        )
    scores = table[method].to_numpy(float) - (table[minus].to_numpy(float) if minus else 0)
    picture = table["image"].to_numpy().astype(np.int64)
    # a document without a picture stands for itself
    picture = np.where(picture < 0, 10_000 + np.arange(len(picture)), picture)
    place = pd.Series(picture).groupby(picture).cumcount().to_numpy()
    parts = -(-np.bincount(picture)[picture] // MOST)
    unit = pd.factorize(picture * 1000 + place % parts)[0]
    sizes = np.bincount(unit)
    return Population(
        np.bincount(unit, scores), sizes, np.zeros(len(sizes), dtype=int), (-1.0 if minus else 0.0, 1.0)
    )


def enlarged(population: Population, documents: int, rng: np.random.Generator) -> Population:
    """A benchmark of about so many documents, of units drawn from a smaller one."""
    n = max(1, round(documents * len(population.sizes) / population.documents))
    chosen = rng.integers(0, len(population.sizes), n)
    chosen = chosen[np.argsort(population.strata[chosen], kind="stable")]
    strata = np.unique(population.strata[chosen], return_inverse=True)[1].reshape(-1)
    return replace(
        population, values=population.values[chosen], sizes=population.sizes[chosen], strata=strata
    )
