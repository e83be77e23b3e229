"""What a method keeps of one image, partition by partition, for tests to look at."""

from dataclasses import dataclass

from torch import Tensor

from hired_eval.dropping import Layouts, PackedTokens, PartitionLayout, VisionEncoding, VisionStage
from hired_eval.dropping.testing import unpad


@dataclass(frozen=True)
class Kept:
    """Positions (n_i,) and features (n_i, C) of each partition."""

    indices: list[Tensor]
    features: list[Tensor]


def drop(method: VisionStage, encoding: VisionEncoding, layout: PartitionLayout) -> Kept:
    return Kept(*unpad(method.drop(encoding, Layouts((layout,)))))


def select(method: VisionStage, encoding: VisionEncoding, layout: PartitionLayout) -> PackedTokens:
    (packed,) = method.select(encoding, Layouts((layout,)))
    return packed
