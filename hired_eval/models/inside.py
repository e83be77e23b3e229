"""Stages inside a language model: hooks by which visual tokens leave before a layer of a stock model runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from hired_eval.dropping.layer_stage import (
    LayerSignal,
    LayerSignals,
    LayerStage,
    Step,
    acting,
)
from hired_eval.dropping.types import holds_nan, require_scores
from hired_eval.errors import UserError
from hired_eval.models.layer_signals import attention_of, keys_of, take
from hired_eval.models.own_methods import explained_faults
from hired_eval.models.segments import Merged, Prompts, Segment, ask_raters, read_prompts

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
        UserError: the language model's layers are not known, too few, or attend within a window; its
            positions cannot be numbered anew as a stage asks; or two stages act at the same layer.
    """
    with Stages(model.get_decoder(), stages).hook_layers() as found:
        yield found


class Stages:
    """The stages inside a language model, between `expect` and the end of an answer.

    Outputs keep the columns of the input: after the last layer a column that left is one of zeros. So the
    logits of a text token are where they are without stages, and mean nothing for a token that left.

    Args:
        decoder: the language model without its head.
        stages: what leaves where.
        selecting: entered around each part of the selection, e.g. to time it.

    Raises:
        UserError: see `inside`.
    """

    def __init__(
        self,
        decoder: Any,
        stages: Sequence[LayerStage],
        selecting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.decoder, self.stages, self.selecting = decoder, tuple(stages), selecting
        self._check()
        self.at = acting(stages, len(decoder.layers))
        self._expected: tuple[Tensor, Tensor, list[tuple[int, int]] | None] | None = None
        self._prompts: Prompts
        self._behind = self._last_position = torch.empty(0)
        self._segments: list[Segment] = []
        self._prefill = False
        self._replaced: dict[int, dict[str, Any]] = {}
        """Arguments of the layers of each segment in the forward pass that runs."""
        self._noted: dict[LayerSignal, Tensor] = {}
        self._mistakes: list[tuple[UserError, Tensor]] = []
        """What a stage may have done wrong, and () bool whether it has: looked at once, in `_spread`."""
        self._names = list(inspect.signature(decoder.forward).parameters)

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
        rotary = getattr(config, "rope_parameters", None) or {}
        fixed = "mrope_section" not in rotary and rotary.get("rope_type") not in ("dynamic", "longrope")
        for stage in self.stages:
            if stage.positions == "compact" and not fixed:
                raise UserError(
                    f"{type(stage).__name__} numbers positions anew, which the rotary embedding of this "
                    f"{kind} does not allow; set positions=original"
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
            yield before.register_forward_pre_hook(partial(self._note, layer), with_kwargs=True)
        for layer in range(min(self.at, default=len(layers)), len(layers)):
            yield layers[layer].register_forward_pre_hook(partial(self._enter, layer), with_kwargs=True)
        yield self.decoder.norm.register_forward_hook(self._spread)

    def expect(
        self,
        visual: Tensor,
        asking: Tensor | None = None,
        totals: Sequence[int] | None = None,
        pictures: Sequence[int] | None = None,
    ) -> None:
        """Tell of the next batch of prompts, each time before the language model reads one.

        It may get several rows for each prompt, one after another, as beams are: they keep the same tokens.

        Args:
            visual: (B, L) bool, which columns of the batch, padding included, are visual tokens.
            asking: (B,) the column of each prompt's last token, whose attention is read; by default the last
                column, which is right where prompts are padded on the left and no answer is behind them.
            totals: P * N of each prompt, summed over its pictures, of which a budget is a share; by default
                its visual tokens.
            pictures: how many each prompt has; by default one.
        """
        last = torch.full((len(visual),), visual.shape[1] - 1) if asking is None else asking
        sizes = None if totals is None else list(zip(totals, pictures or [1] * len(totals), strict=True))
        self._expected = visual.bool(), last, sizes

    @property
    def counts(self) -> list[list[int]]:
        """Visual tokens of each prompt of the last batch that each layer saw, (B, layers)."""
        by_layer = [self._segments[self._index(i)].counts for i in range(len(self.decoder.layers))]
        return [list(row) for row in zip(*by_layer, strict=True)]

    def _index(self, layer: int) -> int:
        """In which segment a layer is."""
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
        self._noted.clear()
        self._mistakes.clear()
        seen = 0 if cache is None else cache.get_seq_length()
        if mask is None:
            mask = torch.ones(len(inputs), seen + inputs.shape[1], device=inputs.device)
        self._prefill = cache is None or seen == 0
        if self._prefill:
            additions = len(given.get("deepstack_visual_embeds") or ())
            self._start(mask.to(inputs.device).bool(), inputs, additions)
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

    def _start(self, shown: Tensor, inputs: Tensor, additions: int) -> None:
        """Prompts begin.

        Args:
            shown: (R, n) bool, False for padding.
            inputs: (R, n) ids or (R, n, C) embeddings.
            additions: how many of the first layers DeepStack adds to the visual tokens behind.
        """
        told, self._expected = self._expected, None
        self._segments.clear()
        if told is None:
            raise UserError("where visual tokens are is not known; call expect(visual) before each batch")
        visual, asking = (tensor.to(shown.device) for tensor in told[:2])
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
        prompts = read_prompts(visual, asking, told[2], shown, self.stages, len(self.decoder.layers))
        self._prompts = ask_raters(prompts, self.stages, self.decoder.embed_tokens, prompts.once(inputs))
        self._segments.append(prompts.whole)

    def _attention(
        self, stage: LayerStage, attention: Any, hidden: Tensor, positions: Sequence[Tensor]
    ) -> Tensor:
        """(B, heads, n) attention of the tokens that a stage asks, in the segment that came last."""
        segment, once = self._segments[-1], self._prompts.once
        rows = (*self._prompts.rows_asked(stage, segment), once(segment.columns), once(segment.shown))
        return attention_of(attention, hidden, positions, *(t.to(hidden.device) for t in rows))

    def _of_prompts(self, hidden: Tensor, positions: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Hidden states and position embeddings with one row for each prompt: its rows are alike."""
        once = self._prompts.once
        rotary = [once(t.expand(len(hidden), *t.shape[1:])).to(hidden.device) for t in positions]
        return once(hidden), rotary

    @torch.no_grad()
    def _note(self, layer: int, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The layer before a stage attends: note what the stage reads of that."""
        stage = self.at[layer]
        if not self._prefill or not stage.reads & {"attention", "key_norms"}:
            return
        with self.selecting():
            hidden, rotary = self._of_prompts(kwargs["hidden_states"], kwargs["position_embeddings"])
            if "attention" in stage.reads:
                self._noted["attention"] = self._attention(stage, attention, hidden, rotary)
            if "key_norms" in stage.reads:
                keys = keys_of(attention, hidden, rotary)
                self._noted["key_norms"] = keys.float().abs().sum(dim=(1, 3))

    @torch.no_grad()
    def _choose(self, layer: int, module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Segment:
        """A layer at which tokens leave begins: choose what stays."""
        segment, stage = self._segments[-1], self.at[layer]
        positions = kwargs["position_embeddings"]
        index = len(self._segments) - 1
        if index:
            positions = self._replaced[index]["position_embeddings"]
        states, rotary = self._of_prompts(hidden, positions)
        values, self._noted = self._noted, {}
        if "own_attention" in stage.reads:
            normed = module.input_layernorm(states)
            values["own_attention"] = self._attention(stage, module.self_attn, normed, rotary)
        if "states" in stage.reads:
            values["states"] = states
        if "normed_states" in stage.reads:
            # not called as a module, behind which `_spread` would act
            values["normed_states"] = self.decoder.norm.forward(states)
        text, visual = self._prompts.text_of(segment), self._prompts.once(segment.visual)
        text, visual, shown = (t.to(states.device) for t in (text, visual, self._prompts.once(segment.shown)))
        values = {name: value.to(states.device) for name, value in values.items()}
        signals = LayerSignals(visual, text, values)
        name, steps = type(stage).__name__, [steps[layer] for steps in self._prompts.steps]
        counts = torch.tensor([s.stays for s in steps], device=states.device)
        with explained_faults(stage):
            scores = stage.score(signals)
            require_scores(stage, scores, visual.shape, "column, (B, n)")
            kept = stage.kept(scores, signals, counts)
            _require_mask(stage, kept, visual.shape)
            merged = _merge(stage, steps, scores, states, visual & ~kept)
        miscounted = ((kept & visual).sum(1) != counts).any() | (kept & ~visual).any()
        wrong = UserError(f"{name}.kept must keep visual tokens alone, in each row as many as `counts` says")
        not_numbers = holds_nan(f"the score of {name}"), (scores.isnan() & visual).any()
        self._mistakes += [not_numbers, (wrong, miscounted)]
        stays = kept | (shown & ~visual)
        return self._prompts.shorten(segment, layer, stays, merged, kwargs["position_ids"])

    def _enter(self, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer behind a stage begins: it gets the columns that are left, and what belongs to them."""
        index, hidden = self._index(layer), args[0]
        if self._prefill and layer in self.at:
            with self.selecting():
                segment = self._choose(layer, module, hidden, kwargs)
                self._segments.append(segment)
                if segment.merged is not None:
                    hidden = torch.cat([hidden, segment.merged.to(hidden)], dim=1)
                hidden = take(hidden, segment.taken)
        segment = self._segments[index]
        if index not in self._replaced:
            self._replaced[index] = self._arguments(segment, layer, hidden, kwargs)
        return (hidden, *args[1:]), kwargs | self._replaced[index]

    def _arguments(
        self, segment: Segment, layer: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """What the layers of a segment get in place of what the language model gives them."""
        shown, replaced, ids = segment.shown, dict[str, Any](), segment.positions
        if not self._prefill:
            shown = torch.cat([shown, self._behind.to(shown.device)], dim=1)
            if ids is not None:
                # as many fewer as the prompt's last token has
                ids = kwargs["position_ids"].to(ids.device) + ids[:, -1:] - self._last_position
        else:
            if ids is not None:
                self._last_position = kwargs["position_ids"][:, -1:].to(ids.device)
            cos_and_sin = (t.expand(len(shown), -1, -1) for t in kwargs["position_embeddings"])
            replaced["position_embeddings"] = tuple(take(t, segment.columns) for t in cos_and_sin)
            # read by flash attention alone, which would take gaps for the seams of packed sequences
            replaced["position_ids"] = None
        if ids is not None:
            replaced["position_embeddings"] = self.decoder.rotary_emb(hidden, ids.to(hidden.device))
        replaced["attention_mask"] = create_causal_mask(
            config=self.decoder.config,
            inputs_embeds=hidden,
            attention_mask=shown,
            past_key_values=kwargs.get("past_key_values"),
            layer_idx=layer,
        )
        return replaced

    def _spread(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The last layer is done: put its columns where they are in the prompt.

        Raises:
            UserError: a stage gave a visual token a score that is no number, or kept another number of them.
        """
        if not self._prefill or len(self._segments) == 1:
            return None
        # looked at here, where the language model waits for its first answer anyway
        flags = torch.stack([flag.to(output.device) for _, flag in self._mistakes]).tolist()
        for (error, _), made in zip(self._mistakes, flags, strict=True):
            if made:
                raise error
        whole, last = self._segments[0], self._segments[-1]
        output = output.masked_fill(~last.given[..., None].to(output.device), 0)
        columns = last.columns[..., None].to(output.device).expand_as(output)
        spread = output.new_zeros(*whole.columns.shape, output.shape[-1])
        return spread.scatter(1, columns, output)


def _require_mask(stage: LayerStage, kept: object, shape: Sequence[int]) -> None:
    """Refuse what a stage's `kept` gave where it is not a bool for each column."""
    if isinstance(kept, Tensor) and kept.dtype is torch.bool and kept.shape == tuple(shape):
        return
    gave = f"{kept.dtype} {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
    raise UserError(
        f"{type(stage).__name__}.kept must give a bool for each column, (B, n) = {tuple(shape)}; "
        f"it gave {gave}"
    )


def _merge(
    stage: LayerStage, steps: Sequence[Step], scores: Tensor, states: Tensor, leaving: Tensor
) -> Merged | None:
    """What a stage makes of the tokens that leave; None for nothing."""
    most = max(step.merged for step in steps)
    if not most:
        return None
    centres = torch.zeros(len(steps), most, dtype=torch.long, device=states.device)
    there = torch.zeros(len(steps), most, dtype=torch.bool, device=states.device)
    made = states.new_zeros(len(steps), most, states.shape[-1])
    for row, step in enumerate(steps):
        if step.merged:
            of_row = stage.merge(scores[row], states[row], leaving[row], step.leaves)
            centres[row, : step.merged], made[row, : step.merged] = of_row
            there[row, : step.merged] = True
    return Merged(centres, there, made)


def _size(batch: Tensor) -> str:
    return f"{batch.shape[0]} rows of {batch.shape[1]} columns"
