"""Evaluate visual-token dropping in LLaVA models: HiRED and its baselines on lmms-eval."""

from hired_eval.dropping import (
    Full,
    HiRED,
    KeptTokens,
    PartitionLayout,
    TokenDropper,
    VisionEncoding,
)

__version__ = "0.1.0"
__all__ = ["Full", "HiRED", "KeptTokens", "PartitionLayout", "TokenDropper", "VisionEncoding", "__version__"]
