"""The geometry of one image: its sub-image grid, its padding, and where sub-images are on the full-image."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from hired_eval.errors import UserError


@dataclass(frozen=True)
class PartitionLayout:
    """The geometry of one image.

    Attributes:
        rows: rows of the sub-image grid; rows = cols = 0 for an image with one partition.
        cols: columns of the sub-image grid.
        tile: (rows, columns) of tokens of a partition; N is their product.
        image_size: original (height, width) in pixels; the sub-images tile the image scaled into the
            grid and padded on both sides.
        shrunk: (rows, columns) of LLM tokens that the stock model makes of the unpadded grid, where that is
            too large for it; None where it gives the grid as it is.
        newline_behind: the only partition is followed by a newline token.
        full_image_last: the full-image is the last partition and not the first; the language model then gets
            one partition after the other, each in raster order, and not the assembled grid.
        grid_known: whether rows and columns are those of the picture; False where only their product is.
        newlines: the stock model puts a newline token behind each row of the assembled grid.
        unpads: the stock model removes padding; where it does not, tokens over padding are visual tokens.

    Raises:
        ValueError: a negative or half-empty grid, or a size that is not positive.
    """

    rows: int
    cols: int
    tile: tuple[int, int]
    image_size: tuple[int, int]
    shrunk: tuple[int, int] | None = None
    newline_behind: bool = False
    full_image_last: bool = False
    newlines: bool = True
    unpads: bool = True
    grid_known: bool = True

    def __post_init__(self) -> None:
        if min(self.rows, self.cols) < 0 or (self.rows == 0) != (self.cols == 0):
            raise ValueError(f"a grid of {self.rows} x {self.cols} sub-images is not possible")
        if min(self.tile) < 1 or min(self.image_size) < 1:
            raise ValueError(f"tile and image size must be positive, got {self.tile} and {self.image_size}")

    @property
    def sub_images(self) -> int:
        """Number of sub-images k."""
        return self.rows * self.cols

    @property
    def partitions(self) -> int:
        """Number of partitions P = 1 + k."""
        return 1 + self.sub_images

    @property
    def full_image(self) -> int:
        """Which partition is the full-image."""
        return self.sub_images if self.full_image_last else 0

    @property
    def tokens_per_partition(self) -> int:
        """Number of tokens per partition N."""
        return self.tile[0] * self.tile[1]

    @property
    def total_tokens(self) -> int:
        """What a token budget is a share of: P * N; with a shrunk grid, the tokens that it has then."""
        if self.shrunk is not None:
            return self.tokens_per_partition + self.shrunk[0] * self.shrunk[1]
        return self.partitions * self.tokens_per_partition

    @property
    def stock_tokens(self) -> int:
        """Visual tokens that the stock model gives to the LLM: full-image, unpadded grid, newline tokens."""
        top, bottom, left, right = self.unpadded()
        height, width = self.shrunk or (bottom - top, right - left)
        return self.tokens_per_partition + height * (width + self.newlines) + self.newline_behind

    def unpadded(self) -> tuple[int, int, int, int]:
        """The part of the assembled sub-image grid that is left after padding is removed.

        Returns:
            (top, bottom, left, right) in tokens of the assembled grid, half-open; the rounding is that of
            LLaVA-Next in transformers, so that the kept part is the stock model's.
        """
        height, width = self.rows * self.tile[0], self.cols * self.tile[1]
        if self.sub_images == 0:
            return 0, 0, 0, 0
        if not self.unpads:
            return 0, height, 0, width
        image_height, image_width = self.image_size
        if image_width / image_height > width / height:
            used = int(round(image_height * (width / image_width), 7))
            padding = (height - used) // 2
            return padding, height - padding, 0, width
        used = int(round(image_width * (height / image_height), 7))
        padding = (width - used) // 2
        return 0, height, padding, width - padding

    def places(self, partition: Tensor, index: Tensor) -> Tensor:
        """Where tokens are among the visual tokens that the stock model gives to the LLM.

        A token over padding, which the stock model leaves out, is where its nearest neighbour is; one made of
        many is where the middle of its partition is.

        Args:
            partition: (n,) int64 partition of each token.
            index: (n,) int64 position in its partition, -1 for a token made of many.

        Returns:
            (n,) int64, newline tokens of the stock model counted.
        """
        rows, cols = self.tile
        index = torch.where(index < 0, rows // 2 * cols + cols // 2, index)
        if self.full_image_last or self.sub_images == 0:
            return partition * self.tokens_per_partition + index
        top, bottom, left, right = self.unpadded()
        height, width = bottom - top, right - left
        sub_image = partition - 1
        y = sub_image // self.cols * rows + index // cols - top
        x = sub_image % self.cols * cols + index % cols - left
        y, x = y.clamp(max=height - 1).clamp(min=0), x.clamp(max=width - 1).clamp(min=0)
        if self.shrunk is not None:
            y, x = y * self.shrunk[0] // height, x * self.shrunk[1] // width
            width = self.shrunk[1]
        in_grid = self.tokens_per_partition + y * (width + self.newlines) + x
        return torch.where(partition == self.full_image, index, in_grid)

    def require_grid(self) -> None:
        """Refuse to go on where the method reads the grid and it is not known.

        Raises:
            UserError: the grid is not known.
        """
        if not self.grid_known:
            raise UserError(
                f"a picture of {self.partitions} tiles may have several grids, and this method reads where "
                "its tiles are; pass image_sizes=[(height, width), ...] of the pictures too"
            )

    def regions(self) -> Tensor:
        """How much of each full-image patch is in the region that each sub-image covers.

        The full-image is the whole picture squashed to one partition, while the sub-images tile the padded
        picture; so each sub-image's picture area, without padding, is mapped back to the full-image.
        A patch cut by a border counts by the fraction covered. Without padding and with a tile that the
        grid divides, this is the plain block of patches.

        Returns:
            (k, N) float64 weights in [0, 1].

        Raises:
            UserError: the grid is not known.
        """
        self.require_grid()
        if self.sub_images == 0:
            return torch.zeros(0, self.tokens_per_partition, dtype=torch.float64)
        (height, width), (tile_rows, tile_cols) = self.image_size, self.tile
        # the picture is scaled to touch the grid's border on one axis and is centred on the other
        scale = min(Fraction(self.rows * tile_rows, height), Fraction(self.cols * tile_cols, width))
        down = torch.tensor(_coverage(self.rows, tile_rows, height * scale), dtype=torch.float64)
        across = torch.tensor(_coverage(self.cols, tile_cols, width * scale), dtype=torch.float64)
        return torch.einsum("ry,cx->rcyx", down, across).reshape(self.sub_images, self.tokens_per_partition)


@lru_cache(maxsize=4096)
def _coverage(count: int, side: int, used: Fraction) -> list[list[float]]:
    """Along one axis: for each of `count` sub-images, the covered fraction of each of `side` patches.

    The picture takes up `used` tokens of the assembled grid. Exact in fractions, so that borders that
    coincide give exactly 0 and 1.
    """
    start = (count * side - used) / 2
    covered: list[list[float]] = []
    for i in range(count):
        low = (max(Fraction(i * side), start) - start) / used * side
        high = (min(Fraction((i + 1) * side), start + used) - start) / used * side
        covered.append(
            [float(max(Fraction(0), min(high, Fraction(j + 1)) - max(low, Fraction(j)))) for j in range(side)]
        )
    return covered
