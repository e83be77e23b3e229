"""CDPruner (Zhang et al., NeurIPS 2025): tokens that are diverse, and relevant to the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval.dropping.base import BudgetedDropper, even_split
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.selection import keep_first
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.typed import Range

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class CDPruner(BudgetedDropper):
    """CDPruner: a determinantal point process whose kernel is the tokens' cosine similarity times relevance.

    Relevance is the cosine similarity of a patch's CLIP image embedding to the CLIP text embedding of the
    question, scaled to 0 to 1 over the image. Each partition keeps the same number, give or take one. Without
    a text tower all tokens are equally relevant, and the choice is by diversity alone. The authors' kernel is
    of projected features; here it is of those before the projector. Kept tokens are put in raster order.
    """

    text_tower: str | None = None
    """The CLIP that the vision tower is from, as a hub id or a folder: it reads the question. None: no
    relevance."""
    sign: Literal["positive", "negative"] = "positive"
    """Whether tokens like the question are relevant, or those unlike it, as in the authors' code."""
    theta: Annotated[float, Range("from 0 to 0.999", 0, 0.999)] | None = 0.5
    """Weight of relevance against diversity: relevance r weighs exp(theta / (2 - 2 theta) * r). None: it
    weighs r, as in the authors' code."""

    @property
    def question_tower(self) -> str | None:
        """The text tower."""
        return self.text_tower

    def keep(self, encoding: VisionEncoding, layouts: Layouts, budgets: list[int]) -> KeptTokens:
        """The same number of tokens in each partition, give or take one.

        Raises:
            UserError: there is a text tower, and the encoding has no relevance.
        """
        features = encoding.features
        encoding.forbid_nan("the output of the vision tower", features)
        directions = normalize(features.float(), dim=-1)
        kernel = directions @ directions.transpose(1, 2)
        if self.question_tower is not None:
            weight = self._weigh(encoding.relevance, layouts)
            kernel = weight[:, :, None] * kernel * weight[:, None]
        counts = even_split(layouts, budgets)
        order = order_by_determinant(kernel, max(counts))
        return keep_first(order, layouts.tensor(counts), features)

    def _weigh(self, similarity: Tensor, layouts: Layouts) -> Tensor:
        """(S, N) weights of tokens, from their similarity (S, N) to the question."""
        turned = similarity if self.sign == "positive" else -similarity
        lowest = layouts.by_image(turned, torch.inf).flatten(1).amin(dim=1)
        highest = layouts.by_image(turned, -torch.inf).flatten(1).amax(dim=1)
        low, high = torch.stack([lowest, highest])[:, layouts.image, None]
        relevance: Tensor = (turned - low + EPSILON) / (high - low).clamp(min=EPSILON)
        return relevance if self.theta is None else (self.theta / (2 - 2 * self.theta) * relevance).exp()


def order_by_determinant(kernel: Tensor, count: int) -> Tensor:
    """Positions (S, count) in the order in which a determinantal point process chooses them greedily.

    Each token is the one that makes the determinant of the kernel of the chosen ones largest, found by a
    Cholesky factorisation that grows by a row a token (Chen et al., NeurIPS 2018). Where no token adds to
    the determinant any more, as beyond the rank of the features, what is left of rounding decides.

    Args:
        kernel: (S, N, N), symmetric and positive semi-definite.
        count: at most N.
    """
    partitions = torch.arange(len(kernel), device=kernel.device)
    gain = kernel.diagonal(dim1=1, dim2=2).clone()
    factor = kernel.new_zeros(len(kernel), count, kernel.shape[1])
    chosen = torch.zeros(len(kernel), count, dtype=torch.int64, device=kernel.device)
    for i in range(count):
        chosen[:, i] = gain.argmax(dim=1)
        best = chosen[:, i : i + 1]
        pivot = gain.gather(1, best)
        before = factor[:, :i]
        there = before.gather(2, best[:, None].expand(-1, i, 1))
        row = kernel[partitions, best[:, 0]] - (there * before).sum(dim=1)
        row = torch.where(pivot > EPSILON**2, row / pivot.clamp(min=EPSILON**2).sqrt(), 0)
        factor[:, i] = row
        gain = (gain - row**2).scatter(1, chosen[:, : i + 1], -torch.inf)
    return chosen
