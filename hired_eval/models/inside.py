"""Stages inside a language model: hooks by which visual tokens leave before a layer of a stock model runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from hired_eval.dropping.layer_stage import LayerSignals, LayerStage, acting
from hired_eval.errors import UserError

LAYERS = (
    "LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer",
    "Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer", "Qwen3VLTextDecoderLayer",
)  # fmt: skip
"""Layers that are known: q_proj and k_proj, with norms or without, and `apply_rotary_pos_emb` behind them."""


@contextmanager
def inside(model: Any, stages: Sequence[LayerStage]) -> Iterator[Stages]:
    """Let visual tokens leave inside a stock model of transformers, for the length of a `with` block.

    Before each batch of prompts, `expect` says where the visual tokens are; then `forward` and `generate` do
    what they do without the block, on fewer tokens in later layers and in their KV cache.

    Args:
        model: a language model, or a model that has one.
        stages: what leaves where; several act together where one block is given all of them.

    Raises:
        UserError: the language model's layers are not known, too few, or attend within a window; or two
            stages act at the same layer.
    """
    with Stages(model.get_decoder(), stages).hook_layers() as found:
        yield found


@dataclass(frozen=True)
class _Segment:
    """What the layers from one stage to the next see of a batch of R rows: n columns.

    Attributes:
        taken: (R, n) where each column stands in the segment before.
        columns: (R, n) where it stands in the prompt.
        shown: (R, n) bool; False for padding.
        visual: (R, n) bool.
        counts: visual tokens of each prompt.
    """

    taken: Tensor
    columns: Tensor
    shown: Tensor
    visual: Tensor
    counts: tuple[int, ...]


class Stages:
    """The stages inside a language model, between `expect` and the end of an answer.

    Outputs keep the columns of the input: after the last layer a column that left is one of zeros. So the
    logits of a text token stand where they do without stages, and mean nothing for a token that left.

    Args:
        decoder: the language model without its head.
        stages: what leaves where.

    Raises:
        UserError: see `inside`.
    """

    def __init__(self, decoder: Any, stages: Sequence[LayerStage]) -> None:
        self.decoder, self.at = decoder, acting(stages)
        self._expected: tuple[Tensor, Tensor] | None = None
        self._group = 1
        """Rows of the model for each prompt, as beams are."""
        self._asking = self._behind = torch.empty(0)
        self._texts: list[int] = []
        self._segments: list[_Segment] = []
        self._prefill = False
        self._replaced: dict[int, dict[str, Any]] = {}
        """Arguments of the layers of each segment in the forward pass that runs."""
        self._names = list(inspect.signature(decoder.forward).parameters)
        self._check()

    def _check(self) -> None:
        """Refuse what is not known to come out right."""
        kind, layers = type(self.decoder).__name__, getattr(self.decoder, "layers", ())
        unknown = {type(layer).__name__ for layer in layers} - set(LAYERS)
        if unknown or not layers:
            raise UserError(
                f"visual tokens cannot leave inside {kind}, whose layers are "
                f"{', '.join(sorted(unknown)) or 'not told'}; known are {', '.join(LAYERS)}"
            )
        config = self.decoder.config
        full = set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        if not full or getattr(config, "sliding_window", None) is not None:
            raise UserError(
                f"visual tokens cannot leave inside this {kind}, which attends within a window; take a model "
                "of full attention (no sliding_window)"
            )
        for layer, stage in self.at.items():
            if layer >= len(layers):
                raise UserError(
                    f"{type(stage).__name__} acts at layer {layer}, and the language model has "
                    f"{len(layers)}; choose one from 1 to {len(layers) - 1}"
                )

    @contextmanager
    def hook_layers(self) -> Iterator[Stages]:
        """Act on the language model for the length of a `with` block, several of which may share a prompt."""
        with ExitStack() as undo:
            for handle in self._hooks():
                undo.enter_context(handle)
            yield self

    def _hooks(self) -> Iterator[Any]:
        """Put the hooks in place, giving the handle of each."""
        layers = self.decoder.layers
        yield self.decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        for layer in self.at:
            before = layers[layer - 1].self_attn
            yield before.register_forward_pre_hook(partial(self._choose, layer), with_kwargs=True)
        for layer in range(min(self.at, default=len(layers)), len(layers)):
            yield layers[layer].register_forward_pre_hook(partial(self._enter, layer), with_kwargs=True)
        yield self.decoder.norm.register_forward_hook(self._spread)

    def expect(self, visual: Tensor, asking: Tensor | None = None) -> None:
        """Tell of the next batch of prompts, each time before the language model reads one.

        It may get several rows for each prompt, one after another, as beams are: they keep the same tokens.

        Args:
            visual: (B, L) bool, which columns of the batch, padding included, are visual tokens.
            asking: (B,) the column of each prompt's last token, whose attention is read; by default the last
                column, which is right where prompts are padded on the left and no answer stands behind them.
        """
        last = torch.full((len(visual),), visual.shape[1] - 1) if asking is None else asking
        self._expected = visual.bool(), last

    @property
    def counts(self) -> list[list[int]]:
        """Visual tokens of each prompt of the last batch that each layer saw, (B, layers)."""
        by_layer = [self._segments[self._index(i)].counts for i in range(len(self.decoder.layers))]
        return [list(row) for row in zip(*by_layer, strict=True)]

    def _index(self, layer: int) -> int:
        """In which segment a layer lies."""
        return sum(layer >= at for at in self.at)

    def _begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pass of the language model begins: of prompts, or of what follows them."""
        given = dict(zip(self._names, args, strict=False)) | kwargs
        cache: Any = given.get("past_key_values")
        mask = given.get("attention_mask")
        inputs = given["input_ids"] if given.get("inputs_embeds") is None else given["inputs_embeds"]
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise UserError(
                "attention_mask must be (rows, columns) where visual tokens leave inside the language model"
            )
        if cache is not None and (cache.is_compileable or any(cache.is_sliding)):
            raise UserError(
                "visual tokens cannot leave a KV cache of fixed size; take the default one (no "
                "cache_implementation)"
            )
        self._replaced.clear()
        seen = 0 if cache is None else cache.get_seq_length()
        if mask is None:
            mask = torch.ones(len(inputs), seen + inputs.shape[1], device=inputs.device)
        self._prefill = cache is None or seen == 0
        if self._prefill:
            self._start(mask.to(inputs.device).bool(), len(given.get("deepstack_visual_embeds") or ()))
            return
        sizes = [segment.columns.shape for segment in self._segments]
        behind = seen - sizes[0][1] if sizes else -1
        deepest = cache.get_seq_length(len(self.decoder.layers) - 1)
        if behind < 0 or (len(inputs), deepest - behind) != tuple(sizes[-1]):
            raise UserError(
                "this KV cache is not of the prompts that the language model read last in this `with` block; "
                "start again without it"
            )
        self._behind = mask[:, sizes[0][1] :].bool()

    def _start(self, shown: Tensor, additions: int) -> None:
        """Prompts begin.

        Args:
            shown: (R, n) bool, False for padding.
            additions: how many of the first layers DeepStack adds to the visual tokens behind.
        """
        told, self._expected = self._expected, None
        self._segments.clear()
        if told is None:
            raise UserError("where visual tokens are is not known; call expect(visual) before each batch")
        visual, asking = (tensor.to(shown.device) for tensor in told)
        if len(shown) % len(visual) or visual.shape[1] != shown.shape[1]:
            raise UserError(
                f"expect was told of a batch of {_size(visual)}, and the language model got {_size(shown)}; "
                "tell it of each batch as the model gets it, padding included and in one piece"
            )
        if additions > min(self.at, default=additions):
            raise UserError(
                f"this language model adds to its visual tokens behind each of the first {additions} layers; "
                f"let them leave at layer {additions} or later"
            )
        self._asking, self._group = asking, len(shown) // len(visual)
        rows = shown[:: self._group]
        visual = visual & rows
        numbers = [visual.sum(1), rows.sum(1), visual.gather(1, asking[:, None]).squeeze(1)]
        counts, lengths, wrong = torch.stack([n.long() for n in numbers]).tolist()
        if any(wrong):
            raise UserError(
                "a prompt ends with a visual token, so that nothing asks for what stays; put the question "
                "behind the image"
            )
        self._texts = [length - count for length, count in zip(lengths, counts, strict=True)]
        columns = torch.arange(shown.shape[1], device=shown.device).expand(len(shown), -1)
        visual = visual.repeat_interleave(self._group, dim=0)
        self._segments.append(_Segment(columns, columns, shown, visual, tuple(counts)))

    @torch.no_grad()
    def _choose(self, layer: int, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The layer before a stage attends: choose what stays from what it sees."""
        if not self._prefill:
            return
        segment, stage, hidden = self._segments[-1], self.at[layer], kwargs["hidden_states"]
        # rows of one prompt are alike, and must stay so
        columns, shown, visual, hidden, cos, sin = (
            tensor.expand(len(hidden), *tensor.shape[1:])[:: self._group].to(hidden.device)
            for tensor in (
                segment.columns,
                segment.shown,
                segment.visual,
                hidden,
                *kwargs["position_embeddings"],
            )
        )
        asking = self._asking.to(hidden.device)[:, None]
        here = (columns == asking).int().argmax(dim=1)
        attended = attention_of(attention, hidden, (cos, sin), here, shown & (columns <= asking))
        given = self._segments[0].counts
        counts = [min(stage.left(layer, n), there) for n, there in zip(given, segment.counts, strict=True)]
        kept = stage.kept(LayerSignals(attended, visual), torch.tensor(counts, device=hidden.device))
        stays = (kept | (shown & ~visual)).repeat_interleave(self._group, dim=0).to(segment.shown.device)
        length = max(text + count for text, count in zip(self._texts, counts, strict=True))
        taken = stays.int().argsort(dim=1, stable=True)[:, -length:]
        columns, visual, shown = (
            t.gather(1, taken) for t in (segment.columns, segment.visual & stays, stays)
        )
        self._segments.append(_Segment(taken, columns, shown, visual, tuple(counts)))

    def _enter(self, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer behind a stage begins: it gets the columns that are left, and what belongs to them."""
        index, hidden = self._index(layer), args[0]
        segment = self._segments[index]
        if self._prefill and layer in self.at:
            hidden = _columns(hidden, segment.taken)
        if index not in self._replaced:
            shown = segment.shown
            replaced: dict[str, Any] = {}
            if self._prefill:
                cos_and_sin = (t.expand(len(shown), -1, -1) for t in kwargs["position_embeddings"])
                replaced["position_embeddings"] = tuple(_columns(t, segment.columns) for t in cos_and_sin)
                # read by flash attention alone, which would take gaps for the seams of packed sequences
                replaced["position_ids"] = None
            else:
                shown = torch.cat([shown, self._behind.to(shown.device)], dim=1)
            replaced["attention_mask"] = create_causal_mask(
                config=self.decoder.config,
                inputs_embeds=hidden,
                attention_mask=shown,
                past_key_values=kwargs.get("past_key_values"),
                layer_idx=layer,
            )
            self._replaced[index] = replaced
        return (hidden, *args[1:]), kwargs | self._replaced[index]

    def _spread(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The last layer is done: put its columns where they stand in the prompt."""
        if not self._prefill or len(self._segments) == 1:
            return None
        whole, last = self._segments[0], self._segments[-1]
        output = output.masked_fill(~last.shown[..., None].to(output.device), 0)
        columns = last.columns[..., None].to(output.device).expand_as(output)
        spread = output.new_zeros(*whole.columns.shape, output.shape[-1])
        return spread.scatter(1, columns, output)


def attention_of(
    attention: Any, hidden: Tensor, position_embeddings: Sequence[Tensor], asking: Tensor, seen: Tensor
) -> Tensor:
    """Attention of one token of each row to all of them, made of the layer's own projections.

    Args:
        attention: the attention module of a layer.
        hidden: (B, n, C) what it gets.
        position_embeddings: cosines and sines, (B, n, d) each.
        asking: (B,) column of the token whose attention it is.
        seen: (B, n) bool, the columns it attends to.

    Returns:
        (B, heads, n), float32; a row sums to 1.
    """
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb

    def project(name: str, states: Tensor, positions: Sequence[Tensor]) -> Tensor:
        heads = getattr(attention, f"{name}_proj")(states).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{name}_norm", None)
        heads = (heads if norm is None else norm(heads)).transpose(1, 2)
        rotated: Tensor = rotate(heads, heads, *positions)[0]
        return rotated

    one = asking[:, None]
    query = project("q", _columns(hidden, one), [_columns(t, one) for t in position_embeddings])
    keys = project("k", hidden, position_embeddings)
    # heads that share a key are neighbours
    query = query.reshape(len(query), keys.shape[1], -1, query.shape[-1])
    logits = (query @ keys.transpose(2, 3)).float() * attention.scaling
    row: Tensor = logits.masked_fill(~seen[:, None, None], -torch.inf).softmax(dim=-1).flatten(1, 2)
    return row


def _columns(values: Tensor, columns: Tensor) -> Tensor:
    """Some columns (B, m, C) of values (B, n, C), told by their index (B, m)."""
    columns = columns.to(values.device)
    return values.gather(1, columns[..., None].expand(-1, -1, values.shape[-1]))


def _size(batch: Tensor) -> str:
    return f"{batch.shape[0]} rows of {batch.shape[1]} columns"
