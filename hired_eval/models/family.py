"""The contract of a model family: what is done with a picture, from pixels to the language model's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hired_eval.dropping import PackedTokens, PartitionLayout, VisionEncoding, VisionStage
from hired_eval.dropping.registry import methods_that_read
from hired_eval.errors import UserError
from hired_eval.models.signals import Projections, run_tower

if TYPE_CHECKING:
    from hired_eval.models.visual_tokens import VisualTokens


@dataclass(frozen=True)
class Picture:
    """A picture as the vision tower gets it.

    Attributes:
        pixels: (P, 3, S, S) its partitions, the full-image first.
        layout: their geometry.
    """

    pixels: Tensor
    layout: PartitionLayout


class Family(ABC):
    """A stock model of one family, seen by a dropping method.

    A subclass says how pictures become partitions and kept tokens become embeddings; it knows no method. With
    every token kept, the language model gets what the stock model gives it, token for token.

    Args:
        model: stock model.
        arguments: of a call on it; those that name another feature layer or selection than its configuration
            count.

    Raises:
        UserError: the vision tower is not the family's, or its features come from several layers.
    """

    stock: ClassVar[type[PreTrainedModel]]
    """The stock class."""
    tower_class: ClassVar[type[PreTrainedModel]]
    """The class of its vision tower."""
    class_token: ClassVar[bool]
    """Whether the tower has a CLS token, in front of its patches."""
    vision_arguments: ClassVar[tuple[str, ...]]
    """Arguments of the stock model's forward that belong to its vision side."""

    def __init__(self, model: PreTrainedModel, arguments: Mapping[str, Any] | None = None) -> None:
        given = {name: value for name, value in (arguments or {}).items() if value is not None}
        self.model: Any = model
        self.config: Any = model.config
        self.tower: Any = self.model.model.vision_tower
        if not isinstance(self.tower, self.tower_class):
            raise UserError(
                f"the vision tower is {type(self.tower).__name__}, and token dropping in "
                f"{self.stock.__name__} needs {self.tower_class.__name__}"
            )
        layer = given.get("vision_feature_layer", self.config.vision_feature_layer)
        if not isinstance(layer, int):
            raise UserError(
                f"vision_feature_layer={layer}: features of several layers are "
                "not supported; set one layer, e.g. model.feature_layer=-2"
            )
        selected = given.get("vision_feature_select_strategy", self.config.vision_feature_select_strategy)
        if selected != ("default" if self.class_token else "full"):
            raise UserError(
                f"vision_feature_select_strategy={selected!r} is not supported: visual tokens are the "
                "patches, without the CLS token"
            )
        count = len(self.layers)
        self.feature_layer = count + layer if layer < 0 else layer - 1
        if not 0 <= self.feature_layer < count:
            raise UserError(
                f"vision_feature_layer={layer} is outside the vision tower, which has {count} layers"
            )

    @property
    def layers(self) -> nn.ModuleList:
        """The vision tower's layers."""
        layers: nn.ModuleList = self.tower.encoder.layers
        return layers

    @abstractmethod
    def layout(self, image_size: tuple[int, int], among: int = 1) -> PartitionLayout:
        """The geometry of a picture.

        Args:
            image_size: (height, width) in pixels.
            among: number of pictures in its prompt.
        """

    @abstractmethod
    def pictures(self, arguments: Mapping[str, Any]) -> list[Picture]:
        """The pictures of a call on the stock model, in reading order over the batch.

        Args:
            arguments: as the stock processor makes them; those of `vision_arguments` count.

        Raises:
            UserError: they do not fit together.
        """

    def read(self, image: Image.Image, image_processor: Any, among: int = 1) -> Picture:
        """A picture as the stock image processor makes it.

        Args:
            image: upright, RGB.
            image_processor: of the stock processor.
            among: number of pictures in its prompt.
        """
        return self.pictures(image_processor(images=[image], return_tensors="pt"))[0]

    def layers_read(self, stage: VisionStage) -> frozenset[int]:
        """Layers whose CLS-attention a stage gets: those it asks for, and with them the feature layer."""
        asked = stage.attention_layers(self.feature_layer)
        return asked | {self.feature_layer} if asked else asked

    def encode(
        self, pixels: Tensor, stage: VisionStage, *, also: frozenset[int] = frozenset()
    ) -> VisionEncoding:
        """Partitions through the vision tower, no deeper than a stage of a method needs.

        Args:
            pixels: (P, 3, S, S).
            stage: says what is recorded.
            also: further layers whose CLS-attention is recorded; the feature layer's is, wherever the stage
                asks for any, since None as a layer means that one.

        Raises:
            UserError: the stage asks for a layer or a signal that the vision tower lacks.
        """
        rows = self.layers_read(stage) | also
        self._refuse_what_is_not_there(stage, rows)
        last = len(self.layers) - 1
        key_layer = last if stage.key_layer == "last" else self.feature_layer
        needs_keys = "keys" in stage.reads
        heads = self.tower.config.num_attention_heads
        recorded = {
            i: Projections(heads, row=i in rows, keep=needs_keys and i == key_layer)
            for i in sorted(rows | ({key_layer} if needs_keys else set()))
        }
        pixels = pixels.to(self.tower.device, self.tower.dtype)
        features = run_tower(self.tower, self.layers, pixels, self.feature_layer, recorded)
        # a device map may put the tower's layers on several devices
        here = features.device
        source = recorded[key_layer] if needs_keys else None
        return VisionEncoding(
            # contiguous, as an encoding from the cache is: a method may ask for a view
            features=features[:, int(self.class_token) :].contiguous(),
            cls_attention={i: recorded[i].cls_attention.to(here).contiguous() for i in sorted(rows)},
            keys=source.keys.to(here).contiguous() if source else None,
            cls_query=source.query.to(here) if source else None,
            feature_layer=self.feature_layer,
        )

    def _refuse_what_is_not_there(self, stage: VisionStage, rows: frozenset[int]) -> None:
        last = len(self.layers) - 1
        for layer in rows:
            if not 0 <= layer <= last:
                raise UserError(
                    f"{type(stage).__name__} asks for CLS-attention of layer {layer}, and the vision tower "
                    f"has layers 0 to {last}"
                )
        if not self.class_token and (rows or stage.reads):
            raise UserError(
                f"{type(stage).__name__} needs the CLS token, which {self.tower_class.__name__} of "
                f"{self.stock.__name__} does not have; methods that need none: "
                f"{', '.join(methods_that_read(frozenset()))}"
            )

    def embed(self, packed: PackedTokens, layout: PartitionLayout) -> tuple[PackedTokens, Tensor]:
        """Kept tokens through the projector, newline tokens put in.

        Args:
            packed: n tokens, m newline tokens.
            layout: geometry of the picture.

        Returns:
            The tokens as they are given to the language model, and their embeddings (n + m, D).
        """
        return packed, self.put_newlines(packed, self.model.model.multi_modal_projector(packed.features))

    def put_newlines(self, packed: PackedTokens, embeddings: Tensor) -> Tensor:
        """(n + m, D): newline tokens put among projected tokens (n, D)."""
        newlines = packed.length - len(embeddings)
        if newlines == 0:
            return embeddings
        places = torch.arange(len(embeddings), device=embeddings.device)
        behind = packed.newlines_after.to(places.device)
        places = places + torch.cumsum(behind, 0) - behind
        newline: Tensor = self.model.model.image_newline.to(embeddings)
        with_newlines = newline.repeat(len(embeddings) + newlines, 1)
        return with_newlines.index_copy(0, places, embeddings)

    def places(self, image: VisualTokens) -> Tensor:
        """(kept,) which of the stock model's placeholders of an image its kept tokens stand for."""
        # a method may keep more tokens than the stock model has, whose padding is removed
        return torch.arange(image.counts.kept).clamp(max=image.counts.full - 1)

    def find_positions(self, input_ids: Sequence[int], images: Sequence[VisualTokens]) -> Tensor | None:
        """Positions of a prompt with kept tokens, where they are not those of a count; None where they are.

        Args:
            input_ids: of the prompt, one placeholder an image.
            images: of the prompt.

        Returns:
            (planes, n), kept tokens in place of placeholders.
        """
        return None

    def find_given_positions(self, input_ids: Tensor, arguments: Mapping[str, Any]) -> Tensor | None:
        """Positions of a prompt as it was given, as the stock model counts them; None: one after the other.

        Args:
            input_ids: (B, L).
            arguments: of the call on the stock model.

        Returns:
            (planes, B, L).
        """
        return None

    def inputs(self, embeddings: Sequence[Tensor]) -> dict[str, Any]:
        """The stock model's argument for pictures that are encoded already; none for no picture.

        Args:
            embeddings: (n_i, D) of each picture, in reading order over the batch.
        """
        if not embeddings:
            return {}
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=list(embeddings))}}
