"""The geometry of the images of one pass, as tensors on their device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce

import torch
from torch import Tensor

from hired_eval.dropping.layout import PartitionLayout

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layouts:
    """The geometry of the B images of a pass: a sequence of layouts, and what follows from it on the device.

    The S partitions of a pass are those of the first image, then those of the second, and so on; P is the
    most that an image has. Nothing here waits for the device.

    Attributes:
        images: layouts of the images; their partitions have the same number of tokens N.
        device: where the tensors are.

    Raises:
        ValueError: no image, or partitions of several sizes.
    """

    images: tuple[PartitionLayout, ...]
    device: torch.device = CPU

    def __post_init__(self) -> None:
        sizes = {layout.tokens_per_partition for layout in self.images}
        if len(sizes) != 1:
            raise ValueError(f"the partitions of a pass must have one number of tokens, got {sorted(sizes)}")

    def __iter__(self) -> Iterator[PartitionLayout]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, image: int) -> PartitionLayout:
        return self.images[image]

    @property
    def partitions(self) -> int:
        """Number of partitions S of all images."""
        return sum(layout.partitions for layout in self)

    @property
    def tokens_per_partition(self) -> int:
        """Number of tokens per partition N."""
        return self[0].tokens_per_partition

    @property
    def most_partitions(self) -> int:
        """Number of partitions P of the image that has the most."""
        return max(layout.partitions for layout in self)

    def tensor(
        self, numbers: Sequence[float] | Sequence[Sequence[float]], dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """Numbers that the host knows, (n,) or (m, n), on the device."""
        return torch.tensor(numbers, dtype=dtype).to(self.device, non_blocking=True)

    @cached_property
    def _table(self) -> tuple[Tensor, ...]:
        """What is known of each partition, a tensor (S,) a column, copied at once."""
        rows, start = [], 0
        for image, layout in enumerate(self):
            for place in range(layout.partitions):
                sub_image = place if layout.full_image_last else place - 1
                sub_image = -1 if place == layout.full_image else sub_image
                # one partition has a grid of its own, where no token is a sub-image's
                grid = (*layout.tile, max(layout.cols, 1), *layout.unpadded())
                rows.append((image, place, sub_image, start + layout.full_image, *grid))
            start += layout.partitions
        return torch.tensor(rows).T.contiguous().to(self.device, non_blocking=True).unbind()

    @property
    def image(self) -> Tensor:
        """(S,) the image of each partition."""
        return self._table[0]

    @property
    def place(self) -> Tensor:
        """(S,) each partition's number in its image."""
        return self._table[1]

    @property
    def sub_image(self) -> Tensor:
        """(S,) each partition's number in its grid of sub-images, -1 for a full-image."""
        return self._table[2]

    @property
    def full_image(self) -> Tensor:
        """(S,) which of the S partitions is the full-image of each one's image."""
        return self._table[3]

    @property
    def grid_width(self) -> Tensor:
        """(S,) tokens in a row of the assembled grid of each one's image."""
        return self._table[5] * self._table[6]

    @cached_property
    def is_full_image(self) -> Tensor:
        """(S,) bool."""
        return self.sub_image < 0

    @cached_property
    def _slot(self) -> Tensor:
        return self.image * self.most_partitions + self.place

    def by_image(self, values: Tensor, fill: float) -> Tensor:
        """(S, ...) -> (B, P, ...): images with fewer partitions are filled up."""
        padded = values.new_full((len(self) * self.most_partitions, *values.shape[1:]), fill)
        padded = padded.index_copy(0, self._slot, values)
        return padded.view(len(self), self.most_partitions, *values.shape[1:])

    def by_partition(self, values: Tensor) -> Tensor:
        """(B, P, ...) -> (S, ...): what `by_image` filled up is left out."""
        return values.flatten(0, 1).index_select(0, self._slot)

    def total(self, values: Tensor) -> Tensor:
        """(S,) -> (S,): for each partition, the sum over its image, always added up in the same order."""
        return reduce(torch.add, self.by_image(values, 0).unbind(dim=1)).index_select(0, self.image)

    def places_in_grid(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where tokens are in their image's assembled grid of sub-images.

        Args:
            indices: (S, K) positions in the partition.

        Returns:
            Rows (S, K), columns (S, K), and (S, K) bool whether they are there when padding is removed; for
            tokens of a full-image the numbers have no meaning.
        """
        tile_rows, tile_cols, cols, top, bottom, left, right = (n[:, None] for n in self._table[4:])
        sub_image = self.sub_image.clamp(min=0)[:, None]
        row = torch.div(sub_image, cols, rounding_mode="floor") * tile_rows
        row = row + torch.div(indices, tile_cols, rounding_mode="floor")
        column = sub_image % cols * tile_cols + indices % tile_cols
        return row, column, (row >= top) & (row < bottom) & (column >= left) & (column < right)

    @cached_property
    def unpadded(self) -> Tensor:
        """(S, N) bool: the tokens that are left when padding is removed; all of a full-image."""
        everything = torch.arange(self.tokens_per_partition, device=self.device)[None]
        inside: Tensor = self.places_in_grid(everything)[2]
        return inside | self.is_full_image[:, None]

    @cached_property
    def regions(self) -> Tensor:
        """(S, N) float64: `PartitionLayout.regions` of each partition; nothing for a full-image."""
        return torch.cat([_regions(layout, self.device) for layout in self])


@lru_cache(maxsize=256)
def _regions(layout: PartitionLayout, device: torch.device) -> Tensor:
    """(P, N) on the device."""
    # what outlives a pass must also serve one in which gradients are wanted
    with torch.inference_mode(False):
        regions = layout.regions()
        nothing = torch.zeros(1, layout.tokens_per_partition, dtype=regions.dtype)
        parts = [regions, nothing] if layout.full_image_last else [nothing, regions]
        return torch.cat(parts).to(device, non_blocking=True)
