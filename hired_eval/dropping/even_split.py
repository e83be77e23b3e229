"""Even split: HiRED with the same budget for every partition."""

from __future__ import annotations

from dataclasses import dataclass

from hired_eval.dropping.selection import CLSAttentionDropper


@dataclass(frozen=True, kw_only=True)
class EvenSplit(CLSAttentionDropper):
    """The tokens of highest CLS-attention of each partition, the same number in every partition."""
