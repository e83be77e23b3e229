"""SparseVLM (Zhang et al., ICML 2025): the words that fit the picture rate its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hired_eval.dropping.layer_stage import LayerSignal, LayerSignals, ShareStage, shares_at
from hired_eval.typed import Count, Share

PAPER = 32
"""Layers of the language model that the published layers are for."""


@dataclass(frozen=True, kw_only=True)
class SparseVLM(ShareStage):
    """Visual tokens leave that the raters among the words look at least; the best of them are merged.

    Merged tokens follow the ones that stay, and are visual tokens like them at the next layer. Nothing random
    breaks ties between densities, unlike in the released code.

    Raises:
        UserError: not as many ratios as layers.
    """

    reads: ClassVar[frozenset[LayerSignal]] = frozenset({"attention", "states"})

    at: tuple[Count, ...] | None = None
    """Layers before which tokens leave, counted from 0; null: (2, 6, 15) of 32 layers, and the same depths in
    other language models."""
    ratios: tuple[Share, ...] = (0.5209, 0.3473, 0.191)
    """Share of the original visual tokens that stays at each of them; a budget scales them. Of 576 tokens
    these are the published 300, 200 and 110."""
    recycle: bool = True
    """Whether some of those that leave are merged."""
    positions: Literal["original", "compact"] = "compact"

    def __post_init__(self) -> None:
        """See that each layer has its ratio."""
        super().__post_init__()
        self.shares(1)

    def shares(self, depth: int) -> Mapping[int, float]:
        """The ratios; where layers of a small model coincide, the later one's."""
        published = [max(1, round(depth * layer / PAPER)) for layer in (2, 6, 15)]
        return shares_at(self, self.at or published, self.ratios)

    def raters(self, embeddings: Tensor, visual: Tensor, words: Tensor, shown: Tensor) -> Tensor:
        """Words whose mean softmax over words, of products with the visual tokens, is above average."""
        embeddings = embeddings.float()
        of_words = embeddings.gather(1, words[..., None].expand(-1, -1, embeddings.shape[-1]))
        fit = (embeddings @ of_words.transpose(1, 2)).masked_fill(~shown[:, None], -torch.inf).softmax(dim=2)
        fit = (fit * visual[..., None]).sum(dim=1) / visual.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (fit * shown).sum(dim=1, keepdim=True) / shown.sum(dim=1, keepdim=True)
        above = (fit > mean) & shown
        # of a single word, or of words that all fit alike, none is above average
        return torch.where(above.any(dim=1, keepdim=True), above, shown)

    def flops_of_raters(self, columns: int, words: int, width: int) -> int:
        """Every column with every word."""
        return 2 * columns * words * width

    def flops_of_choice(self, columns: int, leaving: int, width: int) -> int:
        """The means of the clusters; distances are no products."""
        merged = self.merged(leaving) if leaving else 0
        return 2 * merged * recycled(leaving) * width

    def score(self, signals: LayerSignals) -> Tensor:
        """Attention of the raters, mean over heads and raters."""
        return signals["attention"].mean(dim=1)

    def merged(self, leaving: int) -> int:
        """int(q / 10) + 1 for the q of them that are recycled."""
        return int(recycled(leaving) / 10) + 1 if self.recycle else 0

    def merge(self, scores: Tensor, states: Tensor, leaving: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The best of those that leave, clustered around density peaks, each cluster its mean."""
        order = scores.masked_fill(~leaving, -torch.inf).argsort(descending=True, stable=True)
        candidates = order[: recycled(count)]
        centres, means = cluster(states[candidates].float(), self.merged(count))
        return candidates[centres], means.to(states.dtype)


def recycled(leaving: int) -> int:
    """How many of those that leave are merged: int(0.3 d) + 1."""
    return leaving * 3 // 10 + 1


def cluster(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density-peak clustering with nearest neighbours (Du et al., 2016).

    Args:
        states: (q, C) float32.
        count: of clusters, which is also that of neighbours.

    Returns:
        Which of them are centres (count,), the highest peak first, and the mean of each cluster (count, C).
    """
    distances = torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances / sqrt(states.shape[1])
    density = (-distances.sort(dim=1).values[:, :count].square().mean(dim=1)).exp()
    denser = density[None] > density[:, None]
    peak = torch.where(
        denser.any(dim=1), distances.masked_fill(~denser, torch.inf).amin(dim=1), distances.max()
    )
    centres = (peak * density).argsort(descending=True, stable=True)[:count]
    nearest = distances[:, centres].argmin(dim=1)
    nearest = nearest.scatter(0, centres, torch.arange(count, device=centres.device))
    of_cluster = torch.nn.functional.one_hot(nearest, count).to(states.dtype).T
    return centres, of_cluster @ states / (of_cluster.sum(dim=1, keepdim=True) + 1e-6)
