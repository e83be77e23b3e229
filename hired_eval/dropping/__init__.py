"""Visual-token dropping methods: pure tensor code, one small file each."""

from hired_eval.dropping.base import BudgetedDropper, TokenDropper
from hired_eval.dropping.full import Full
from hired_eval.dropping.hired import HiRED
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.packing import PackedTokens
from hired_eval.dropping.types import KeptTokens, VisionEncoding

__all__ = [
    "BudgetedDropper",
    "Full",
    "HiRED",
    "KeptTokens",
    "PackedTokens",
    "PartitionLayout",
    "TokenDropper",
    "VisionEncoding",
]
