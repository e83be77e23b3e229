"""Evaluate visual-token dropping in LLaVA models: HiRED and its baselines on lmms-eval."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hired_eval.dropping import (
        DivPrune,
        Downsample,
        EvenSplit,
        FasterVLM,
        Full,
        HiRED,
        HiREDReleased,
        KeptTokens,
        PartitionLayout,
        PruMerge,
        PruMergeBudget,
        PruMergePlus,
        Random,
        Spatial,
        TokenDropper,
        TopKCLS,
        VisionEncoding,
        VisionStage,
        VisionZip,
    )

__version__ = "0.1.0"
__all__ = [
    "DivPrune",
    "Downsample",
    "EvenSplit",
    "FasterVLM",
    "Full",
    "HiRED",
    "HiREDReleased",
    "KeptTokens",
    "PartitionLayout",
    "PruMerge",
    "PruMergeBudget",
    "PruMergePlus",
    "Random",
    "Spatial",
    "TokenDropper",
    "TopKCLS",
    "VisionEncoding",
    "VisionStage",
    "VisionZip",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the methods once they are asked for: reports need no torch."""
    if name in __all__:
        return getattr(import_module("hired_eval.dropping"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
