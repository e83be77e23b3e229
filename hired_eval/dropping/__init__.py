"""Visual-token dropping methods: pure tensor code, one small file each.

The class of every method in `configs/method/` can be imported from here, e.g. `HiRED`.
"""

from importlib import import_module
from typing import Any

from hired_eval.dropping.base import BudgetedDropper, TokenDropper, VisionStage
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.layouts import Layouts
from hired_eval.dropping.packing import PackedTokens
from hired_eval.dropping.selection import CLSAttentionDropper, SelectingDropper
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.method_configs import class_modules

__all__ = [
    "BudgetedDropper",
    "CLSAttentionDropper",
    "KeptTokens",
    "Layouts",
    "PackedTokens",
    "PartitionLayout",
    "SelectingDropper",
    "TokenDropper",
    "VisionEncoding",
    "VisionStage",
]


def __getattr__(name: str) -> Any:
    """The class of a built-in method, from the module that its config names."""
    module = class_modules().get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    """What can be imported from here."""
    return sorted([*globals(), *class_modules()])
