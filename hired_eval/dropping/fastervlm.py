"""FasterVLM (Zhang et al., 2024): CLS-attention of the vision tower ranks the tokens."""

from __future__ import annotations

from dataclasses import dataclass

from hired_eval.dropping.even_split import EvenSplit


@dataclass(frozen=True, kw_only=True)
class FasterVLM(EvenSplit):
    """FasterVLM (Zhang et al., 2024): rank tokens by CLS-attention, drop before the language model.

    Adapted to LLaVA-Next partition by partition with the same number each, as it prunes a batch of pictures.
    The mean over heads ranks as the sum does, and attention is that of the layer whose output feeds the
    projector. So it keeps what `EvenSplit` keeps; it has a name of its own because users look for it.
    """
