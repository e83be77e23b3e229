"""What a score is: how the documents of a benchmark make it, one way a kind of scoring.

Every score and every difference that is shown anywhere is computed here, from samples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from hired_eval.errors import UserError
from hired_eval.records import sequences, statistics
from hired_eval.records.goal import SMALL
from hired_eval.records.record import Benchmark, Drawing
from hired_eval.records.sequences import Drawn
from hired_eval.records.statistics import Difference, Estimate, Units

PERCENT = 100
PAIR = "question_id"
"""What the two questions of a pair have in common, as MME calls it."""
ROTATED, ROTATION = "index", 1_000_000
"""MMBench asks a question again with its options rotated, under the same number plus a multiple of this."""
ROUNDING = 6e-5
"""Some of lmms-eval's aggregates are rounded to four digits, on a scale from 0 to 1."""


@dataclass(frozen=True)
class Scorer:
    """How documents make a score.

    A document is a unit, or several documents are. Units that share a picture are drawn together when an
    interval is made, and where there are categories within each of them.

    Attributes:
        name: as `task.scoring` names it.
        scale: factor from what lmms-eval makes of the documents to the printed score.
        digits: printed behind the point.
        together: which documents are one unit, of which a `limit` cuts none; None where each is one. 'pairs':
            two questions, as in MME, which count 100 times the share answered right, and 100 more where both
            are. 'rotations': a question with its options in every rotation, as in MMBench, which is right
            where all of them are.
        categories: what is made of the means of the categories; None where all documents are alike.
        category: name of a document's category, in what the metric says of the document.
        points: what lmms-eval divides the number of right answers by, however many questions were asked.
        open: which of `scale` and `category` are for the task to say.
        share: whether it stands in for points, where not all questions were asked.
    """

    name: str
    scale: float = PERCENT
    digits: int = 1
    together: Literal["pairs", "rotations"] | None = None
    categories: Literal["sum", "mean"] | None = None
    category: str | None = None
    points: int | None = None
    open: tuple[str, ...] = ()
    share: bool = False

    @property
    def unit_columns(self) -> tuple[str, ...]:
        """Columns of the documents that tell which of them are one unit; () where each is one."""
        return {"pairs": (str(self.category), PAIR), "rotations": (ROTATED,), None: ()}[self.together]

    def unit_of(self, values: tuple[Any, ...]) -> Hashable:
        """What the documents of one unit have in common.

        Args:
            values: a document's, in `unit_columns`.
        """
        return values[0] % ROTATION if self.together == "rotations" else values

    def pair_of(self, parts: Mapping[str, Any]) -> str | None:
        """The same in what the metric says of a document, categories apart; None where it does not say."""
        if self.together == "rotations":
            return str(parts[ROTATED] % ROTATION) if ROTATED in parts else None
        return str(parts[PAIR]) if PAIR in parts else None

    def of_part(self) -> Scorer:
        """The scorer of a part of the benchmark: of points, which need all questions, a share in percent."""
        return replace(self, scale=PERCENT, digits=1, points=None, share=True) if self.points else self

    def units(self, samples: pd.DataFrame) -> Units:
        """The units of samples, before the factor to the printed score.

        Args:
            samples: one row a document, with `doc_id`, `score`, `image`, and for what needs them `pair` and
                `category`; a document without a score, which another metric counts, is no unit.
        """
        scored = samples[samples["score"].notna()]
        bounds: tuple[float, float] | None = None
        if self.together == "rotations":
            scored = scored.groupby("pair", sort=True).agg({"score": "min", "image": "first"}).reset_index()
            values, bounds = scored["score"].to_numpy(float), (0.0, 100.0)
            clusters = scored["image"].fillna(scored["pair"]).to_numpy()
        elif self.together == "pairs":
            scored = (
                scored.groupby(["category", "pair"], sort=True)["score"].agg(["mean", "min"]).reset_index()
            )
            values = (100 * scored["mean"] + 100 * (scored["min"] == 1)).to_numpy(float)
            clusters, bounds = scored["pair"].to_numpy(), (0.0, 200.0)
        else:
            values = scored["score"].to_numpy(float)
            clusters = scored["image"].fillna(scored["doc_id"].astype(str)).to_numpy()
            if ((values >= 0) & (values <= 1)).all():
                bounds = (0.0, 1.0)
        if self.categories is None:
            return Units(values, clusters, np.zeros(len(values), dtype=int), bounds)
        strata = scored["category"].fillna("").to_numpy()
        if self.categories == "mean" and len(values):
            # a mean of means is a sum of smaller ones
            share = 1 / len(set(strata))
            values, bounds = values * share, bounds and (bounds[0] * share, bounds[1] * share)
        return Units(values, clusters, strata, bounds)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and most of a unit, before anything is answered; None where the scale does not tell."""
        if self.together:
            return 0.0, 200.0 if self.together == "pairs" else 100.0
        return (0.0, 1.0) if self.points or self.share or self.scale == PERCENT else None

    def drawn(self, runs: Sequence[pd.DataFrame], drawing: Drawing) -> Drawn:
        """The units of a part that was drawn at random, with what is known of the whole benchmark.

        Args:
            runs: samples of a run; or of a run and of the one it is compared with, on the same documents.
            drawing: the random order.

        Raises:
            UnboundedError: nothing bounds what the other documents can score, see `check_bounded`.
        """
        self.check_bounded(drawing)
        values, weights, names = self._contributions(runs[0], drawing)
        low, high = self.bounds or (0.0, 1.0)
        if len(runs) > 1:
            values = values - self._contributions(runs[1], drawing)[0]
            low, high = low - high, high - low
        counted = sorted({name for name, weight in zip(names, weights, strict=True) if weight})
        numbers = {name: i for i, name in enumerate(counted)}
        least = min(drawing.strata[name] for name in counted)
        totals = np.full(len(counted), 1.0 / len(counted) if self.categories == "mean" else 1.0)
        return Drawn(
            values=values,
            weights=weights,
            strata=np.array([numbers.get(name, 0) for name in names], dtype=int),
            totals=totals,
            units=drawing.units,
            largest=float(totals[0]) * (1 if self.together else drawing.largest) / least,
            bounds=(low, high),
            first=min(drawing.first, len(values)),
        )

    def check_bounded(self, drawing: Drawing) -> None:
        """Refuse what has no interval before all is answered.

        Raises:
            UnboundedError: with the reason.
        """
        if self.bounds is None:
            raise UnboundedError(
                f"task.scale={self.scale:g} sets no bound to what a document can score, so that a part of "
                "the benchmark has no interval that holds whenever one stops; use limit, or answer it whole"
            )
        if self.categories and not drawing.strata.keys() - {""}:
            raise UnboundedError(
                f"the documents have no column {self.category}, so that the categories of those not answered "
                "are not known and a part has no interval; answer the benchmark whole"
            )

    def _contributions(
        self, samples: pd.DataFrame, drawing: Drawing
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """What each unit adds to the score, its weight and its stratum, in the order of the drawing.

        Raises:
            UnboundedError: a score is out of bounds, or a document that should have one has none.
        """
        low, high = (0.0, 1.0) if self.together == "pairs" else self.bounds or (0.0, 1.0)
        scores = samples["score"].dropna()
        if not scores.between(low, high).all():
            raise UnboundedError(
                f"a document scores {scores[~scores.between(low, high)].iloc[0]:g}, which is not from "
                f"{low:g} to {high:g}: a part of this benchmark has no interval; answer it whole"
            )
        if len(scores) < (1 if self.together == "pairs" else len(samples)):
            raise UnboundedError(
                f"the metric counts {len(scores)} of {len(samples)} documents, and how many of those not "
                "answered it counts is not known: a part has no interval; answer the benchmark whole"
            )
        by_unit = samples.groupby("unit", sort=True)
        stratum = by_unit["stratum"].first()
        total = stratum.map(drawing.strata).astype(float)
        if self.together == "rotations":
            weight = 1 / total
            value = by_unit["score"].min() * weight
        elif self.together == "pairs":
            right = by_unit["score"].agg(["mean", "min", "count"])
            weight = (right["count"] > 0) / total
            value = (100 * right["mean"] + 100 * (right["min"] == 1)).fillna(0) * weight
        else:
            share = 1 / len(drawing.strata) if self.categories == "mean" else 1.0
            weight = share * by_unit["score"].count() / total
            value = share * by_unit["score"].sum() / total
        return value.to_numpy(float), weight.to_numpy(float), [str(name) for name in stratum]

    def aggregate(self, samples: pd.DataFrame) -> float:
        """What lmms-eval's own aggregate of the same samples is; not a number where none has a score."""
        return float(samples["score"].sum()) / self.points if self.points else self.units(samples).total

    def agrees(self, samples: pd.DataFrame, theirs: float) -> bool:
        """Whether a number is lmms-eval's aggregate of samples, but for rounding, or that times the scale."""
        own = self.aggregate(samples)
        return any(
            math.isclose(own * factor, theirs, rel_tol=1e-6, abs_tol=ROUNDING * factor)
            for factor in (1, self.scale)
        )


SCORERS = {
    scorer.name: scorer
    for scorer in (
        # the mean of the documents
        Scorer("mean", open=("scale",)),
        # the mean of the categories' means, each as heavy as another
        Scorer("category_mean", categories="mean", category="category", open=("scale", "category")),
        # MME (Fu et al.): accuracy and accuracy of pairs, summed over categories
        Scorer("mme", scale=1, digits=0, together="pairs", categories="sum", category="category"),
        # MMBench (Liu et al.): questions right in every rotation of their options, in percent already
        Scorer("mmbench", scale=1, together="rotations"),
        # OCRBench: points of 1000
        Scorer("ocrbench", scale=1000, digits=0, points=1000),
    )
}


def scorer_of(scoring: str, scale: float | None = None, category: str | None = None) -> Scorer:
    """The scorer that a task names, with what the task says of it.

    Args:
        scoring: its name.
        scale: see `Scorer`; None for the scorer's own.
        category: likewise.

    Raises:
        UserError: there is no such scorer, or it has a scale or category of its own.
    """
    if scoring not in SCORERS:
        raise UserError(f"task.scoring must be one of {', '.join(SCORERS)}, got {scoring!r}")
    kind = SCORERS[scoring]
    asked = replace(
        kind,
        scale=kind.scale if scale is None else scale,
        category=kind.category if category is None else category,
    )
    for option in ("scale", "category"):
        if option not in kind.open and getattr(asked, option) != getattr(kind, option):
            raise UserError(f"task.scoring={scoring} takes no task.{option}; leave it out")
    return asked


def scorer_for(benchmark: Benchmark) -> Scorer:
    """How the documents of a benchmark make its score.

    Raises:
        UserError: see `scorer_of`.
    """
    return scorer_of(benchmark.scoring, benchmark.scale, benchmark.category)


class UnboundedError(UserError):
    """A part of a benchmark says nothing about the rest of it."""


@dataclass(frozen=True)
class Part:
    """What is known of a part of a benchmark that was drawn at random.

    Attributes:
        drawing: the random order.
        points: what the bets of the interval are made for; None where the size was decided beforehand.
        grows: whether the run grew until its interval settled something.
    """

    drawing: Drawing
    points: float | None = None
    grows: bool = False


def score(runs: Sequence[pd.DataFrame], scorer: Scorer, seed: int = 0, part: Part | None = None) -> Estimate:
    """The printed score of a run with its 95 % interval; of several runs, the mean of theirs.

    Args:
        runs: samples, see `Scorer.units`; those of several runs differ in their seed alone, and count on the
            documents that all have a score of.
        scorer: that of a part, where a part was answered.
        seed: of the bootstrap.
        part: of samples drawn at random; their interval is that of the score of the whole benchmark.
    """
    frames = _on_common_documents(runs)
    found = statistics.estimate([scorer.units(samples) for samples in frames], seed)
    if part is not None and (ends := _ends([[samples] for samples in frames], scorer, part, found.seeds)):
        found = found.within(*ends)
    return found.scaled(scorer.scale)


def difference(
    pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    scorer: Scorer,
    seed: int = 0,
    part: Part | None = None,
) -> Difference | None:
    """The printed score of a run minus that of another, on the documents that both have a score of.

    Args:
        pairs: samples of a run and of the one it is compared with; of several seeds, a pair for each.
        scorer: see `score`.
        seed: of the bootstrap and the test.
        part: see `score`; of two parts in the same order the smaller one counts.

    Returns:
        With its 95 % interval and a paired test; None where the runs share no document.
    """
    frames = _on_common_documents([samples for pair in pairs for samples in pair])
    if frames[0].empty:
        return None
    units = [scorer.units(samples) for samples in frames]
    found = statistics.difference(list(zip(units[::2], units[1::2], strict=True)), seed)
    both = list(zip(frames[::2], frames[1::2], strict=True))
    if part is not None and (ends := _ends(both, scorer, part, found.seeds)):
        found = found.within(*ends)
    return found.scaled(scorer.scale)


def mean_share(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame, Scorer]]) -> Estimate | None:
    """The mean over benchmarks of a run's score as a share of another's, in percent.

    Args:
        pairs: samples of a run and of the other on each benchmark, and how they make its score.

    Returns:
        None where the runs share no document of a benchmark, or a score of the other run is 0.
    """
    units = []
    for ours, theirs, scorer in pairs:
        frames = _on_common_documents([ours, theirs])
        if frames[0].empty:
            return None
        own, other = (scorer.units(samples) for samples in frames)
        units.append((own, other))
    return statistics.mean_share(units)


def _ends(
    runs: Sequence[Sequence[pd.DataFrame]], scorer: Scorer, part: Part, seeds: Sequence[float]
) -> tuple[float, float] | None:
    """Ends of the interval of a part, before the factor to the printed score; None where it has none.

    Args:
        runs: of each seed the samples, or those of a run and of the one it is compared with.
        scorer: see `score`.
        part: likewise.
        seeds: score of each seed, where there are several: the interval also covers how far their mean may be
            off.
    """
    places = next((f[["unit", "stratum"]] for frames in runs for f in frames if "unit" in f), None)
    if places is None or places["unit"].nunique() < part.drawing.first:
        return None  # not drawn at random, or not every category has been seen
    try:
        drawn = [scorer.drawn([_placed(f, places) for f in frames], part.drawing) for frames in runs]
    except UnboundedError:
        return None
    mean = replace(drawn[0], values=np.mean([d.values for d in drawn], axis=0))
    offset = None if part.points is None else part.points / scorer.scale
    if part.grows and offset is None:
        offset = SMALL * float(mean.totals.sum()) * (scorer.bounds or (0.0, 1.0))[1]
    low, high = sequences.interval(mean, offset)
    if seeds:
        value = float(np.mean(seeds))
        spread = statistics.spread_of_seeds(seeds)
        low = value - float(np.hypot(max(0.0, value - low), spread))
        high = value + float(np.hypot(max(0.0, high - value), spread))
    return low, high


def _placed(samples: pd.DataFrame, places: pd.DataFrame) -> pd.DataFrame:
    """Samples with the units of the same documents in another run, which has all or a part of them."""
    return samples.assign(unit=places["unit"].to_numpy(), stratum=places["stratum"].to_numpy())


def _on_common_documents(runs: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The samples of the documents that every run has a score of; of a single run, all as they are."""
    if len(runs) == 1:
        return list(runs)
    common = set.intersection(*(set(samples.loc[samples["score"].notna(), "doc_id"]) for samples in runs))
    return [samples[samples["doc_id"].isin(common)].sort_values("doc_id") for samples in runs]
