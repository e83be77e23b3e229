"""DART (Wen et al., EMNLP 2025): of tokens that say the same, one is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval.dropping.layer_stage import LayerSignal, LayerSignals, ShareStage, highest, ranked
from hired_eval.typed import Count, Natural, Share


@dataclass(frozen=True, kw_only=True)
class DART(ShareStage):
    """Pivots are the tokens of largest keys; for each in turn, the visual tokens least like it stay.

    Of T = floor(keep * N) tokens each of the p pivots takes floor(T / p), so that with the visual pivots
    pivot_image + p * floor(T / p) stay: 132 for T = 128.
    """

    reads: ClassVar[frozenset[LayerSignal]] = frozenset({"key_norms", "normed_states"})

    layer: Count = 2
    """The layer before which tokens leave, counted from 0; as many layers see all of them."""
    keep: Share = 0.2223
    """T as a share of the visual tokens, above 0 and at most 1, where no budget is set: 128 of 576."""
    pivot_image: Count = 4
    """Pivots among the visual tokens."""
    pivot_text: Natural = 4
    """Pivots among the text tokens behind them; where there are fewer, the first pivot takes their share."""
    order: Literal["norm", "ascending"] = "norm"
    """In which order pivots take tokens: visual ones by falling norm, then text likewise; or by position."""

    def shares(self, depth: int) -> Mapping[int, float]:
        """The one layer and its share."""
        return {self.layer: self.keep}

    def rounded(self, count: int, visual: int) -> int:
        """What stays for T = count; all of them where T is all."""
        if count >= visual:
            return visual
        pivots = self.pivot_image + self.pivot_text
        return self.pivot_image + count // pivots * pivots

    def flops_of_choice(self, columns: int, leaving: int, width: int) -> int:
        """The similarity of the pivots to all columns."""
        return 2 * (self.pivot_image + self.pivot_text) * columns * width

    def score(self, signals: LayerSignals) -> Tensor:
        """L1 norm of the keys, which makes pivots."""
        return signals["key_norms"]

    def kept(self, scores: Tensor, signals: LayerSignals, counts: Tensor) -> Tensor:
        """Visual pivots, and for each pivot the tokens of lowest cosine similarity to it."""
        visual_pivots = highest(scores, signals.visual, counts.clamp(max=self.pivot_image))
        text_pivots = highest(scores, signals.text, torch.full_like(counts, self.pivot_text))
        columns = torch.cat(
            [
                ranked(scores, visual_pivots)[:, : self.pivot_image],
                ranked(scores, text_pivots)[:, : self.pivot_text],
            ],
            dim=1,
        )
        there = (visual_pivots | text_pivots).gather(1, columns)
        if self.order == "ascending":
            order = columns.masked_fill(~there, scores.shape[1]).argsort(dim=1, stable=True)
            columns, there = columns.gather(1, order), there.gather(1, order)
        states = normalize(signals["normed_states"].float(), dim=-1)
        of_pivots = states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))
        each = (counts - self.pivot_image).clamp(min=0) // (self.pivot_image + self.pivot_text)
        return take_in_turn(
            of_pivots @ states.transpose(1, 2), there, visual_pivots, signals.visual, each, counts
        )


def take_in_turn(
    similarity: Tensor, there: Tensor, kept: Tensor, visual: Tensor, each: Tensor, counts: Tensor
) -> Tensor:
    """For each pivot in turn, the visual tokens not taken yet that are least like it; (B, n) bool.

    Args:
        similarity: (B, p, n) of each pivot to each column.
        there: (B, p) bool; False where a row has fewer pivots.
        kept: (B, n) bool, which columns are taken from the start.
        visual: (B, n) bool.
        each: (B,) how many a pivot takes.
        counts: (B,) how many are kept in the end; the first pivot takes what the others leave over.
    """
    for pivot in range(similarity.shape[1]):
        takes = each * there[:, pivot]
        kept = kept | highest(-similarity[:, pivot], visual & ~kept, takes)
    return kept | highest(-similarity[:, 0], visual & ~kept, counts - kept.sum(dim=1))
