"""Inputs of a stock model, as they are for a prompt with fewer visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hired_eval.dropping import TokenDropper
from hired_eval.errors import UserError
from hired_eval.models.families import family_of
from hired_eval.models.family import Family
from hired_eval.models.shortened_cache import ShortenedCache
from hired_eval.models.shortening import Shortening, nothing_dropped, shorten
from hired_eval.models.visual_tokens import VisualTokens, make_visual_tokens


def has_images(arguments: Mapping[str, Any]) -> bool:
    """Whether a call brings pixels."""
    pixel_values = arguments.get("pixel_values")
    return pixel_values is not None and len(pixel_values) > 0


def encode_images(
    model: Any, dropper: TokenDropper, arguments: Mapping[str, Any]
) -> tuple[Family, list[VisualTokens]]:
    """The model's family, and the images of a call in reading order over the batch.

    Args:
        model: stock model.
        dropper: the dropping method.
        arguments: of the call; those of the family's `vision_arguments` count.

    Raises:
        UserError: see `family_of` and `Family.pictures`.
    """
    family = family_of(model, arguments)
    return family, make_visual_tokens(family, family.pictures(arguments), dropper.vision)


def images_by_row(placeholders: Tensor, images: Sequence[VisualTokens]) -> list[list[VisualTokens]]:
    """Which images stand in which row of a batch.

    Args:
        placeholders: (B, L) bool.
        images: in reading order over the batch.

    Raises:
        UserError: the placeholders in the input are not those of the images.
    """
    places = placeholders.sum(dim=1).tolist()
    if sum(places) != sum(image.counts.full for image in images):
        raise UserError(
            f"the input has {sum(places)} image placeholders, and its {len(images)} images need "
            f"{sum(image.counts.full for image in images)}; make inputs with the model's own processor"
        )
    rows: list[list[VisualTokens]] = []
    image = 0
    for left in places:
        rows.append([])
        while left > 0:
            left -= images[image].counts.full
            if left < 0:
                raise UserError(f"the placeholders of image {image} are spread over two rows of the batch")
            rows[-1].append(images[image])
            image += 1
    return rows


@dataclass(frozen=True)
class Call:
    """One forward pass, counted in columns of the prompt as it was given.

    Attributes:
        input_ids: (B, n) token ids, of which the last `fresh` are not in the cache.
        fresh: number of new columns.
        cache: KV cache, if any.
        mask: attention mask (B, all columns), if any.
        positions: position ids (B, columns), or (planes, B, columns) of M-RoPE, if any.
    """

    input_ids: Tensor
    fresh: int
    cache: Any = None
    mask: Tensor | None = None
    positions: Tensor | None = None

    @property
    def seen(self) -> int:
        """Columns in the cache."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    @property
    def before(self) -> Shortening:
        """How the prompt in the cache was shortened."""
        if isinstance(self.cache, ShortenedCache):
            return self.cache.shortening
        return nothing_dropped(len(self.input_ids), self.input_ids.device)

    @property
    def cached(self) -> int:
        """Columns of the prompt as it was given that the cache stands for."""
        return columns_in(self.cache)

    @property
    def total(self) -> int:
        """Columns of the prompt as it was given, the new ones included."""
        return self.cached + self.fresh

    def counts_short(self, images: bool) -> bool:
        """Whether the caller counts the columns in the cache, not those of the prompt as it was given.

        Args:
            images: the new columns have images, so that only the prompt as it was given can be counted.

        Raises:
            UserError: the mask covers neither, or is no matrix; or no column is new.
        """
        mask, positions = self.mask, self.positions
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            raise UserError("attention_mask must be a tensor with a row a prompt and a column a token")
        if self.fresh < 1:
            raise UserError(
                f"input_ids hold {self.input_ids.shape[1]} tokens, and the KV cache {self.cached}; pass what "
                "follows them too"
            )
        width = self.total
        if mask is not None:
            width = mask.shape[1]
        elif positions is not None and positions.shape[-1] > self.fresh:
            width = positions.shape[-1]
        if width == self.total:
            return False
        if images or self.before.original or width != self.seen + self.fresh:
            raise UserError(
                f"attention_mask covers {width} tokens, and the prompt has {self.total}, with those in "
                "the KV cache"
            )
        return True

    def shortened(
        self, family: Family, images: Sequence[VisualTokens], batch: int
    ) -> tuple[Shortening, list[list[VisualTokens]], dict[str, Any]]:
        """How all columns are shortened, the images of each row, and the model's inputs for them.

        Args:
            family: of the model.
            images: of the new columns, in reading order over the batch.
            batch: rows before beams or several answers repeated them.

        Raises:
            UserError: see `images_by_row`, `shorten` and `refuse_positions`.
        """
        image_token = family.config.image_token_id
        shortening, embeddings = self.before, []
        rows: list[list[VisualTokens]] = [[] for _ in self.input_ids]
        if images:
            placeholders = self.input_ids[:, -self.fresh :] == image_token
            times = len(placeholders) // batch
            rows = [row for row in images_by_row(placeholders[::times], images) for _ in range(times)]
            mask = None if self.mask is None else self.mask[:, self.cached :]
            counts = [[image.counts for image in row] for row in rows]
            places = [[family.places(image).cpu() for image in row] for row in rows]
            original = any(image.positions == "original" for image in images)
            original &= self.positions is None or self.positions.dim() == 2
            new = shorten(placeholders, mask, counts, places, original=original)
            if new.changes and self.positions is not None and self.positions.dim() == 2:
                refuse_positions(self.positions, placeholders, mask)
            shortening = self.before.append(new, self.cached)
            embeddings = [image.embeddings for row in rows for image in row]
        inputs: dict[str, Any] = {
            # padding is whatever is no placeholder
            "input_ids": shortening.take(self.widen(self.input_ids), fill=int(image_token == 0)),
            "attention_mask": shortening.mask(self.mask, self.total),
        }
        positions = self.positions
        if positions is None and shortening.original:
            # as the stock model counts
            positions = torch.arange(self.total, device=self.input_ids.device).expand(len(self.input_ids), -1)
        if positions is not None:
            inputs["position_ids"] = shortening.positions(self.widen(positions))
        return shortening, rows, inputs | family.inputs(embeddings)

    def padded_behind(self) -> bool:
        """Whether a row ends with padding."""
        return self.mask is not None and bool((self.mask[:, -1] == 0).any())

    def widen(self, value: Tensor) -> Tensor:
        """A value for the last tokens alone, as wide as all columns."""
        return pad(value, (self.total - value.shape[-1], 0))


def refuse_positions(positions: Tensor, placeholders: Tensor, mask: Tensor | None) -> None:
    """Refuse positions of which nobody could say what they are without some tokens of an image.

    Args:
        positions: (B, L) or (1, L), the last of them for `placeholders`.
        placeholders: (B, n) bool.
        mask: (B, n); None for all ones.

    Raises:
        UserError: neighbouring placeholders that can be seen are not one apart.
    """
    seen = placeholders if mask is None else placeholders & (mask != 0)
    steps = positions[:, -placeholders.shape[1] :].diff(dim=1)
    if bool(((steps != 1) & seen[:, 1:] & seen[:, :-1]).any()):
        raise UserError("position_ids must count the tokens of an image one by one, or be left out")


def columns_in(cache: Any) -> int:
    """Columns of the prompt as it was given that a KV cache stands for."""
    if cache is None:
        return 0
    seen = int(cache.get_seq_length())
    if isinstance(cache, ShortenedCache):
        return seen + cache.shortening.length - cache.shortening.short
    return seen
