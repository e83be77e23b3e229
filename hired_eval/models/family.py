"""The contract of a model family: what is done with a picture, from pixels to the language model's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hired_eval.dropping import PackedTokens, PartitionLayout, VisionEncoding, VisionStage
from hired_eval.dropping.registry import methods_that_read
from hired_eval.dropping.types import Signal
from hired_eval.errors import UserError
from hired_eval.models.signals import Projections, run_tower

if TYPE_CHECKING:
    from hired_eval.models.visual_tokens import VisualTokens


@dataclass(frozen=True)
class Picture:
    """A picture as the vision tower gets it.

    Attributes:
        pixels: (P, ...) its partitions, in the order of the layout; (P, 3, S, S) where they are squares.
        layout: their geometry.
    """

    pixels: Tensor
    layout: PartitionLayout


class Family(ABC):
    """A stock model of one family, seen by a dropping method.

    A subclass says how pictures become partitions, where the vision tower and its projections are, which
    patches make up a token, and how kept tokens become embeddings; it knows no method. With every token kept,
    the language model gets what the stock model gives it, token for token.

    Args:
        model: stock model.
        arguments: of a call on it; those that name another feature layer or selection than its configuration
            count.
        image_processor: stock, where its settings decide on the geometry of a picture; by default its own
            defaults hold.

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
    vision_modules: ClassVar[tuple[str, ...]] = ("model.vision_tower", "model.multi_modal_projector")
    """Names of the modules of its vision side, which are never quantized."""

    processor_options: ClassVar[Mapping[str, Any]] = {}
    """What the stock processor passes to its image processor."""

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: Mapping[str, Any] | None = None,
        image_processor: Any = None,
    ) -> None:
        given = {name: value for name, value in (arguments or {}).items() if value is not None}
        self.model: Any = model
        self.config: Any = model.config
        self.image_processor = image_processor
        if not isinstance(self.tower, self.tower_class):
            raise UserError(
                f"the vision tower is {type(self.tower).__name__}, and token dropping in "
                f"{self.stock.__name__} needs {self.tower_class.__name__}"
            )
        self.feature_layer = self.find_feature_layer(given)

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return self.model.model.vision_tower

    @property
    def layers(self) -> nn.ModuleList:
        """The vision tower's layers."""
        layers: nn.ModuleList = self.tower.encoder.layers
        return layers

    @property
    def after_layers(self) -> nn.Module | None:
        """The part of the tower behind its layers that works on what is not dropped; None for none."""
        return None

    @property
    def heads(self) -> int:
        """Attention heads in a layer of the vision tower."""
        return int(self.tower.config.num_attention_heads)

    @property
    def merge(self) -> int:
        """Patches on each side of a token of the language model."""
        return 1

    def count_parts(self, layout: PartitionLayout) -> dict[str, Any]:
        """What `Tower` of the efficiency measurement does not read off the configuration.

        Args:
            layout: of a picture.
        """
        return {}

    @classmethod
    def fix_grid(cls, config: Any, image_processor: Any) -> int | None:
        """Put every picture on one grid, where all have as many visual tokens, those over padding too.

        Of a family whose pictures are one square partition that is so anyway.

        Args:
            config: of the model, changed in place.
            image_processor: stock, changed in place.

        Returns:
            Pixels on a side of the square that every picture is put on first; None for none.
        """
        return None

    def find_feature_layer(self, given: Mapping[str, Any]) -> int:
        """The layer whose output feeds the projector, counted from 0.

        Args:
            given: arguments of a call, which count before the configuration.

        Raises:
            UserError: there are several, it is outside the tower, or the CLS token is used as a visual token.
        """
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
        found = count + layer if layer < 0 else layer - 1
        if not 0 <= found < count:
            raise UserError(
                f"vision_feature_layer={layer} is outside the vision tower, which has {count} layers"
            )
        return found

    def watch(self, layer: int, projections: Projections) -> list[RemovableHandle]:
        """Hooks that record the queries and keys of a layer of the vision tower while it runs.

        Args:
            layer: counted from 0.
            projections: take them, queries first: (P, T, C), as they are before they are split into heads.
        """
        attention: Any = self.layers[layer].self_attn
        return [
            attention.q_proj.register_forward_hook(projections.record_query),
            attention.k_proj.register_forward_hook(projections.record_keys),
        ]

    def run(self, pixels: Tensor) -> Any:
        """The vision tower's own forward.

        Args:
            pixels: of a picture, or of several with partitions of one shape, on the tower's device.
        """
        return self.tower(pixels)

    def group(self, patches: Tensor) -> Tensor:
        """The patches of each token of the language model; a patch is a token unless patches are merged.

        Args:
            patches: (P, patches, ...) in the tower's order, without CLS.

        Returns:
            (P, N, m, ...): the m patches of each token, in the order in which the projector gets them.
        """
        return patches.unsqueeze(2)

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
        made = image_processor(images=[image], return_tensors="pt", **self.processor_options)
        return self.pictures(made)[0]

    def placeholder(self, processor: Any) -> str:
        """What stands for a picture in the text that the stock processor gets."""
        return str(processor.image_token)

    def layers_read(self, stage: VisionStage) -> frozenset[int]:
        """Layers whose CLS-attention a stage gets: those it asks for, and with them the feature layer."""
        asked = stage.attention_layers(self.feature_layer)
        if stage.takes_either and not self.class_token:
            return frozenset()
        return asked | {self.feature_layer} if asked else asked

    def received_read(self, stage: VisionStage) -> frozenset[int]:
        """Layers whose attention received a stage gets; none where CLS-attention serves instead."""
        if stage.takes_either and self.class_token:
            return frozenset()
        return stage.received_layers(self.feature_layer)

    def encode(
        self, pixels: Tensor, stage: VisionStage, *, also: frozenset[int] = frozenset()
    ) -> VisionEncoding:
        """Partitions through the vision tower, no deeper than a stage of a method needs.

        Args:
            pixels: (P, 3, S, S) partitions of one picture or of several, one picture after the other.
            stage: says what is recorded.
            also: further layers whose CLS-attention is recorded; the feature layer's is, wherever the stage
                asks for any, since None as a layer means that one.

        Raises:
            UserError: the stage asks for a layer or a signal that the vision tower lacks.
        """
        return self.look(pixels, [stage], also=also)(stage)

    def look(
        self, pixels: Tensor, stages: Sequence[VisionStage], *, also: frozenset[int] = frozenset()
    ) -> Callable[[VisionStage], VisionEncoding]:
        """Partitions through the vision tower once, for the stages of several methods.

        Args:
            pixels, also: as of `encode`.
            stages: say what is recorded.

        Returns:
            What gives each of the stages its encoding, in tensors of its own: just what it asks for.

        Raises:
            UserError: a stage asks for a layer or a signal that the vision tower lacks.
        """
        for stage in stages:
            self.refuse_what_is_not_there(stage, also)
        rows = also.union(*map(self.layers_read, stages))
        received = frozenset[int]().union(*map(self.received_read, stages))
        kept = {self._key_layer(stage) for stage in stages if "keys" in stage.reads}
        recorded = {
            i: Projections(self.heads, row=i in rows, keep=i in kept, received=i in received)
            for i in sorted(rows | received | kept)
        }
        pixels = pixels.to(self.tower.device, self.tower.dtype)
        parts = [*self.layers] if self.after_layers is None else [*self.layers, self.after_layers]
        features = run_tower(lambda: self.run(pixels), parts, self.feature_layer, recorded, self.watch)
        features = features.reshape(len(pixels), -1, features.shape[-1])
        # a device map may put the tower's layers on several devices
        here, first = features.device, int(self.class_token)

        def show(stage: VisionStage) -> VisionEncoding:
            source = recorded[self._key_layer(stage)] if "keys" in stage.reads else None
            shown, got = self.layers_read(stage) | also, self.received_read(stage)
            return VisionEncoding(
                # contiguous: a method may ask for a view
                features=self._own(self.group(features[:, first:]).flatten(2), stages),
                cls_attention={i: self._of_tokens(recorded[i].cls_attention.to(here)) for i in sorted(shown)},
                recorded_keys=self._keys_of_tokens(source.keys.to(here)) if source else None,
                recorded_query=self._own(source.query.to(here), stages) if source and first else None,
                feature_layer=self.feature_layer,
                received_attention={
                    i: self._of_tokens(recorded[i].received_attention[:, first:].to(here))
                    for i in sorted(got)
                },
                heads=self.heads,
            )

        return show

    def _key_layer(self, stage: VisionStage) -> int:
        """The layer whose keys a stage reads."""
        return len(self.layers) - 1 if stage.key_layer == "last" else self.feature_layer

    @staticmethod
    def _own(values: Tensor, stages: Sequence[VisionStage]) -> Tensor:
        """Values in order in memory; a copy where several stages get them, and one may write into them."""
        return values.clone(memory_format=torch.contiguous_format) if len(stages) > 1 else values.contiguous()

    def _of_tokens(self, attention: Tensor) -> Tensor:
        """Attention of tokens (P, ..., N): the sum of what each of a token's patches gets."""
        return self.group(attention.movedim(-1, 1)).sum(dim=2).movedim(1, -1).contiguous()

    def _keys_of_tokens(self, keys: Tensor) -> Tensor:
        """Keys of CLS, where there is one, and of the tokens: the mean over a token's patches."""
        first = int(self.class_token)
        patches = self.group(keys[:, first:])
        return torch.cat([keys[:, :first], patches.mean(dim=2)], dim=1)

    def refuse_what_is_not_there(self, stage: VisionStage, also: frozenset[int] = frozenset()) -> None:
        """Refuse a stage that asks for what the vision tower lacks.

        Args:
            stage, also: as of `encode`.

        Raises:
            UserError: naming the layer or the signal.
        """
        last = len(self.layers) - 1
        for layer in self.layers_read(stage) | self.received_read(stage) | also:
            if not 0 <= layer <= last:
                raise UserError(
                    f"{type(stage).__name__} asks for attention of layer {layer}, and the vision tower "
                    f"has layers 0 to {last}"
                )
        if not self.class_token and stage.needs_cls:
            without_cls: frozenset[Signal] = frozenset({"received_attention"})
            ways = f"methods that need none: {', '.join(methods_that_read(without_cls))}"
            if hasattr(stage, "signal"):
                ways = f"set signal=received, for the attention that each token receives; {ways}"
            raise UserError(
                f"{type(stage).__name__} needs the CLS token, which {self.tower_class.__name__} of "
                f"{self.stock.__name__} does not have; {ways}"
            )

    def embed(
        self, packed: PackedTokens, layout: PartitionLayout, added: Tensor | None = None
    ) -> tuple[PackedTokens, Tensor]:
        """Kept tokens through the projector, newline tokens put in.

        Args:
            packed: n tokens, m newline tokens.
            layout: geometry of the picture.
            added: `VisionEncoding.added` of its partitions.

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
        if image.positions == "original":
            return self.find_places(image)
        # a method may keep more tokens than the stock model has, whose padding is removed
        return torch.arange(image.counts.kept).clamp(max=image.counts.full - 1)

    def find_places(self, image: VisualTokens) -> Tensor:
        """(kept,) where kept tokens and newline tokens are among those that the stock model gives."""
        packed, layout = image.packed, image.layout
        return _with_newlines(packed, layout, layout.places(packed.partition, packed.index))

    def columns(self, input_ids: Sequence[int], images: Sequence[VisualTokens]) -> tuple[list[int], Tensor]:
        """The prompt with all placeholders of the stock model, and which of its columns are left.

        Args:
            input_ids: of the prompt, one placeholder an image.
            images: of the prompt.

        Returns:
            Ids of the whole prompt, and (n,) columns, kept tokens in place of placeholders.
        """
        token, device = self.config.image_token_id, self.tower.device
        whole: list[int] = []
        left: list[Tensor] = []
        following = iter(images)
        for is_image, given in groupby(input_ids, lambda i: i == token):
            run = list(given)
            if not is_image:
                left.append(torch.arange(len(whole), len(whole) + len(run), device=device))
                whole += run
                continue
            for image in islice(following, len(run)):
                left.append(len(whole) + self.places(image).to(device))
                whole += [token] * image.counts.full
        return whole, torch.cat(left)

    def find_positions(self, input_ids: Sequence[int], images: Sequence[VisualTokens]) -> Tensor | None:
        """Positions of a prompt with kept tokens, where they are not those of a count; None where they are.

        Kept tokens with original positions have those of the stock model, and text behind them goes on from
        there.

        Args:
            input_ids: of the prompt, one placeholder an image.
            images: of the prompt.

        Returns:
            (planes, n), kept tokens in place of placeholders.
        """
        if all(image.positions == "compact" for image in images):
            return None
        return self.columns(input_ids, images)[1][None]

    def find_given_positions(
        self, input_ids: Tensor, arguments: Mapping[str, Any], cached: int
    ) -> Tensor | None:
        """Positions of a prompt as it was given, as the stock model counts them; None: one after the other.

        Args:
            input_ids: (B, L).
            arguments: of the call on the stock model.
            cached: columns before these, for which there is a KV cache.

        Returns:
            (planes, B, L), or (planes, B, cached + L).
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


def _with_newlines(packed: PackedTokens, layout: PartitionLayout, places: Tensor) -> Tensor:
    """Places (n + m,) of tokens, of which (n,) are given, and of the newline tokens behind them."""
    behind = packed.newlines_after.to(places.device)
    if not bool(behind.any()):
        return places
    first, width = layout.tokens_per_partition, layout.unpadded()[3] - layout.unpadded()[2]
    width = layout.shrunk[1] if layout.shrunk else width
    row_ends = places - (places - first) % (width + 1) + width
    ends = torch.where(places < first, first, row_ends)
    source = torch.arange(len(places), device=places.device).repeat_interleave(1 + behind)
    nth = torch.arange(len(source), device=places.device)
    nth = nth - torch.searchsorted(source, source)
    return torch.where(nth == 0, places[source], ends[source] + nth - 1)
