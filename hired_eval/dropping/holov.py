"""HoloV (Zou et al., NeurIPS 2025): a budget for each band of the picture, by attention and variety."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hired_eval.dropping.attention import RankingByAttention
from hired_eval.dropping.base import BudgetedDropper
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_highest
from hired_eval.dropping.types import KeptTokens, VisionEncoding, take_tokens
from hired_eval.typed import Count

ATTENTION_SCALE, VARIETY_SHARE, EPSILON = 1000, 0.09, 1e-6


@dataclass(frozen=True, kw_only=True)
class HoloV(RankingByAttention, BudgetedDropper):
    """HoloV: bands of the picture share the budget by what their tokens score, and spend it on the best.

    The image is one sequence: the full-image, then the assembled grid of sub-images without its padding, row
    by row. It is cut into bands of equal length. A token scores by its CLS-attention, mean over heads in the
    layer that feeds the projector, and by the variance of its cosine similarity to the others of its band.
    Bands share the image's budget by their mean scores; what floors leave goes to the highest, one token
    each. What a band has no room for is not spent (the authors put vectors of zeros there). The authors
    score projected features; here they are those before the projector. Kept tokens are put in raster order
    (the authors' are in order of attention within a band).
    """

    bands: Count = 16
    """Number of bands."""
    within: Literal["combined", "attention"] = "combined"
    """What chooses within a band: the combined score (the paper's Eq. 5), or attention alone (its code)."""

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """Cut each image into bands, share its budget among them, and keep the best of each band.

        Raises:
            UserError: the encoding lacks the attention.
        """
        attention, features = self.attention(encoding, None).float().mean(dim=1), encoding.features
        encoding.forbid_nan("the output of the vision tower", features)
        token, is_token = cut_into_bands(layouts, self.bands)
        shape, place = token.shape, token.flatten(1)
        of_images = layouts.by_image(features, 0).flatten(1, 2)
        in_bands = take_tokens(of_images, place).view(*shape, -1)
        attention = layouts.by_image(attention, 0).flatten(1).gather(1, place).view(shape)
        combined, of_bands = score_in_bands(in_bands, attention, is_token)
        counts = share_budget(of_bands, layouts.tensor(budgets))
        scores = (combined if self.within == "combined" else attention).masked_fill(~is_token, -torch.inf)
        rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        kept = (rank < counts[..., None]) & is_token
        marked = torch.zeros(of_images.shape[:2], dtype=torch.int64, device=features.device)
        marked = marked.scatter_add(1, place, kept.long().flatten(1)).view(
            len(layouts), -1, features.shape[1]
        )
        marked = layouts.by_partition(marked)
        return keep_highest(marked, marked.sum(dim=1), features, max(budgets))


def cut_into_bands(layouts: Layouts, bands: int) -> tuple[Tensor, Tensor]:
    """The bands of each image, the longer ones first, filled up to the length W of the longest.

    Returns:
        (B, bands, W) int64 partition * N + position of each token, and (B, bands, W) bool whether it is one.
    """
    tokens, most = layouts.tokens_per_partition, torch.iinfo(torch.int64).max
    place = torch.arange(tokens, device=layouts.device)[None]
    row, column, inside = layouts.places_in_grid(place)
    last = layouts.tensor([layout.full_image_last for layout in layouts], torch.bool)
    # where the full-image comes last, the language model gets one partition after the other, as here
    behind = layouts.most_partitions * tokens
    key = torch.where(layouts.is_full_image[:, None], place, (1 + row) * behind + column)
    key = torch.where(
        last.index_select(0, layouts.image)[:, None], layouts.place[:, None] * tokens + place, key
    )
    key = key.masked_fill(~(inside | layouts.is_full_image[:, None]), most)
    sequence = layouts.by_image(key, most).flatten(1).argsort(dim=1, stable=True)

    sizes = []
    for layout in layouts:
        top, bottom, left, right = layout.unpadded()
        short, longer = divmod(tokens + (bottom - top) * (right - left), bands)
        sizes.append([short + (i < longer) for i in range(bands)])
    slot = torch.arange(max(map(max, sizes)), device=layouts.device)
    size = layouts.tensor(sizes)[..., None]
    index = (size.cumsum(dim=1) - size + slot).clamp(max=sequence.shape[1] - 1).flatten(1)
    return sequence.gather(1, index).view(*size.shape[:2], -1), slot < size


def score_in_bands(features: Tensor, attention: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
    """What tokens and bands score.

    Args:
        features: (B, bands, W, C), W the length of the longest band.
        attention: (B, bands, W).
        is_token: (B, bands, W) bool: false for what fills up shorter bands.

    Returns:
        Combined scores of tokens (B, bands, W), and mean scores of bands (B, bands).
    """
    size = is_token.sum(dim=-1, keepdim=True)
    others = (size - 1).clamp(min=1)
    features, scaled = features.float(), ATTENTION_SCALE * attention.float()
    directions = features / (features.norm(dim=-1, keepdim=True) + EPSILON) * is_token[..., None]
    similarity = directions @ directions.transpose(-1, -2)
    similarity.diagonal(dim1=-2, dim2=-1).zero_()
    mean = similarity.sum(dim=-1) / others
    # the zero on the diagonal counts among the deviations, as in the authors' code
    variety = ((similarity - mean[..., None]) ** 2 * is_token[..., None, :]).sum(dim=-1) / others

    def band_mean(values: Tensor) -> Tensor:
        return (values * is_token).sum(dim=-1, keepdim=True) / size.clamp(min=1)

    scale = band_mean(scaled) / (band_mean(variety) + EPSILON)
    combined = torch.where(size > 1, scaled + VARIETY_SHARE * scale * variety, attention.float())
    return combined, band_mean(combined)[..., 0]


def share_budget(scores: Tensor, budgets: Tensor) -> Tensor:
    """(B, bands) int64 tokens of each band, in proportion to its score.

    Args:
        scores: (B, bands) mean scores.
        budgets: (B,) int64 tokens of each image.
    """
    share = scores / (scores.sum(dim=1, keepdim=True) + EPSILON)
    counts = (share * budgets[:, None]).floor().long()
    left = budgets[:, None] - counts.sum(dim=1, keepdim=True)
    rank = share.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return counts + (rank < left)
