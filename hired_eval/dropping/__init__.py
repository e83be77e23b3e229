"""Visual-token dropping methods: pure tensor code, one small file each."""

from hired_eval.dropping.base import BudgetedDropper, TokenDropper, VisionStage
from hired_eval.dropping.divprune import DivPrune
from hired_eval.dropping.downsample import Downsample
from hired_eval.dropping.even_split import EvenSplit
from hired_eval.dropping.fastervlm import FasterVLM
from hired_eval.dropping.full import Full
from hired_eval.dropping.hired import HiRED
from hired_eval.dropping.hired_released import HiREDReleased
from hired_eval.dropping.layout import PartitionLayout
from hired_eval.dropping.packing import PackedTokens
from hired_eval.dropping.prumerge import PruMerge, PruMergeBudget, PruMergePlus
from hired_eval.dropping.random_tokens import Random
from hired_eval.dropping.selection import CLSAttentionDropper, SelectingDropper
from hired_eval.dropping.spatial import Spatial
from hired_eval.dropping.topk_cls import TopKCLS
from hired_eval.dropping.types import KeptTokens, VisionEncoding
from hired_eval.dropping.visionzip import VisionZip

__all__ = [
    "BudgetedDropper",
    "CLSAttentionDropper",
    "DivPrune",
    "Downsample",
    "EvenSplit",
    "FasterVLM",
    "Full",
    "HiRED",
    "HiREDReleased",
    "KeptTokens",
    "PackedTokens",
    "PartitionLayout",
    "PruMerge",
    "PruMergeBudget",
    "PruMergePlus",
    "Random",
    "SelectingDropper",
    "Spatial",
    "TokenDropper",
    "TopKCLS",
    "VisionEncoding",
    "VisionStage",
    "VisionZip",
]
