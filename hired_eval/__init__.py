"""Evaluate visual-token dropping in LLaVA models: HiRED and its baselines on lmms-eval.

The class of every method in `configs/method/` can be imported from here, e.g. `HiRED`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hired_eval.method_configs import class_modules

if TYPE_CHECKING:
    from hired_eval.dropping import (
        KeptTokens,
        Layouts,
        PartitionLayout,
        TokenDropper,
        VisionEncoding,
        VisionStage,
    )

__version__ = "0.1.0"
__all__ = [
    "KeptTokens",
    "Layouts",
    "PartitionLayout",
    "TokenDropper",
    "VisionEncoding",
    "VisionStage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the methods once they are asked for: reports need no torch."""
    if name in __all__ or name in class_modules():
        return getattr(import_module("hired_eval.dropping"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What can be imported from here."""
    return sorted({*globals(), *__all__, *class_modules()})
