"""Flips: documents that two runs answer otherwise, which a difference of scores adds up and hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

Kind = Literal["right to wrong", "wrong to right", "other text"]
KINDS: tuple[Kind, ...] = ("right to wrong", "wrong to right", "other text")


@dataclass(frozen=True)
class Flips:
    """What has become of the answers of a run in another one.

    Attributes:
        compared: number of documents that both runs answered.
        documents: one row a flipped document, in order: `doc_id`, `kind`, `question`, `target`, and of each
            run `prediction`, `score` and `kept` with `_before` and `_after`. A score that is lower counts as
            right to wrong, one that is higher as wrong to right, and other words of the same score as other
            text.
    """

    compared: int
    documents: pd.DataFrame

    def count(self, kind: Kind) -> int:
        """Number of documents."""
        return int((self.documents["kind"] == kind).sum())

    def percent(self, kind: Kind) -> float:
        """Share of the documents compared, in percent."""
        return 100 * self.count(kind) / self.compared if self.compared else 0.0


def find_flips(before: pd.DataFrame, after: pd.DataFrame) -> Flips:
    """The documents that one run answers otherwise than another.

    Args:
        before: samples of a run, one row a document, see docs/records.md.
        after: of the run that it is compared with.
    """
    of_run = ["doc_id", "prediction", "score", "kept"]
    both = before[[*of_run, "question", "target"]].merge(
        after[of_run], on="doc_id", suffixes=("_before", "_after")
    )
    both = both.sort_values("doc_id", ignore_index=True)
    change = (both["score_after"] - both["score_before"]).fillna(0.0)
    reworded = (change == 0) & (both["prediction_before"] != both["prediction_after"])
    kind = pd.Series("", index=both.index, dtype=object)
    for name, found in zip(KINDS, (change < 0, change > 0, reworded), strict=True):
        kind[found] = name
    flipped = both.assign(kind=kind)[kind != ""]
    return Flips(len(both), flipped.reset_index(drop=True))
