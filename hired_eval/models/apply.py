"""Apply a dropping method to a stock model of transformers, and undo it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from hired_eval.dropping import TokenDropper
from hired_eval.errors import UserError
from hired_eval.models.families import family_of
from hired_eval.models.family import Family
from hired_eval.models.inside import Stages
from hired_eval.models.patching import Contexts, close_context, open_context
from hired_eval.models.shortened_cache import ShortenedCache, allow_adding_to, mark
from hired_eval.models.shortened_inputs import Call, columns_in, encode_images, has_images
from hired_eval.models.shortening import Shortening
from hired_eval.models.visual_tokens import TokenCounts, VisualTokens

FORWARD = frozenset(
    "input_ids attention_mask position_ids past_key_values labels use_cache logits_to_keep output_attentions "
    "output_hidden_states return_dict num_items_in_batch".split()
)
"""Arguments of `forward` that do what they do on the stock model, as do those of its vision side; all others
are refused."""
REFUSED_SETTINGS: Mapping[str, Any] = {
    "assistant_early_exit": None,
    "constraints": None,
    "custom_generate": None,
    "dola_layers": None,
    "force_words_ids": None,
    "is_assistant": False,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "prefill_chunk_size": None,
    "speculation_type": None,
    "token_healing": False,
    "use_mtp": False,
}
"""Settings of `generate` that are refused, and what else than None counts as not set.

They put another loop in place of stock's, or cut the prompt into pieces.
"""


@dataclass(frozen=True)
class EncodedImages:
    """The images of a call of `generate`, on their way through it.

    Attributes:
        family: of the model, as the call has it.
        images: in reading order over the batch.
        batch: rows of the batch, before `generate` repeats them for beams or several answers.
    """

    family: Family
    images: list[VisualTokens]
    batch: int


class ShortenedInputs(dict[str, Any]):
    """The argument `mm_encoder_outputs` of a forward pass whose inputs are shortened already."""

    shortening: Shortening | None = None
    visual: Tensor | None = None
    """(B, columns) bool, which columns of the shortened inputs are visual tokens; None for none."""
    images: list[list[VisualTokens]] | None = None
    """Those of each row."""


class Applied(AbstractContextManager[nn.Module]):
    """Drop visual tokens in `model.generate` and `model(...)` while the block runs.

    Inputs are those of the stock processor. `generate` does and returns what it does on the stock model:
    whatever counts the prompt or reads it gets the prompt as it was given, and only the language model gets
    fewer tokens. A plain forward pass returns logits over the shortened sequence, in which each image has as
    many tokens as were kept; labels, masks and positions are shortened alike. To go on with a KV cache, masks
    and positions count the prompt as it was given.

    The model is patched on the instance, for all who call it. Blocks may be nested, entered again, and left
    in any order; the open one that was entered last holds.

    Args:
        dropper: the dropping method.
        model: stock model of one of the families.

    Attributes:
        token_counts: visual tokens of each image of the last call that had images, in reading order: kept
            before the language model, allowed by the budget, and of full execution.

    Raises:
        UserError: on entering: see `family_of`, the vision tower lacks what the method reads, or another
            thread is inside such a block; on a call: an argument is not supported, or the inputs do not fit
            together.
    """

    def __init__(self, dropper: TokenDropper, model: nn.Module) -> None:
        self.dropper = dropper
        self.model: Any = model
        self.family: Family
        self.token_counts: list[TokenCounts] = []
        self._entered: list[Contexts] = []
        self._stages: Stages | None = None

    def __enter__(self) -> nn.Module:
        self.family = family_of(self.model)
        self.family.refuse_what_is_not_there(self.dropper.vision)
        model: nn.Module = self.family.model
        self._entered.append(open_context(self, self._targets()))
        return model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close_context(self, self._entered.pop(), self._targets())

    def _targets(self) -> dict[tuple[Any, str], Callable[..., Any]]:
        return {
            (self.model, "forward"): Applied._forward,
            (self.model, "generate"): Applied._generate,
            (self.model, "prepare_inputs_for_generation"): Applied._prepare,
            (self.model.model, "get_image_features"): Applied._refuse_features,
        }

    def _refuse_features(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of the inner model's `get_image_features`, which the stock methods then need no more."""
        raise UserError(
            "get_image_features and model.model(...) would drop nothing; inside the block, images go through "
            "model(...) or model.generate(...)"
        )

    def _generate(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of `generate`: stock's, with encoded images in place of pixels."""
        arguments = _named(stock, args, kwargs)
        images = has_images(arguments)
        encoded = (arguments.get("mm_encoder_outputs") or {}).values()
        if not all(output is None or isinstance(output, EncodedImages) for output in encoded):
            raise _refusal("mm_encoder_outputs")
        if images or isinstance(arguments.get("past_key_values"), ShortenedCache):
            self._refuse_settings(arguments)
        if not images:
            return stock(**arguments)
        given = [arguments[name] for name in ("inputs", "input_ids") if arguments.get(name) is not None]
        if not given or arguments.get("inputs_embeds") is not None:
            raise _without_ids()
        with torch.no_grad():
            family, visual = encode_images(self.model, self.dropper, arguments)
        self.token_counts = [image.counts for image in visual]
        if arguments.get("position_ids") is None:
            cached = columns_in(arguments.get("past_key_values"))
            arguments["position_ids"] = family.find_given_positions(given[0], arguments, cached)
        for name in family.vision_arguments:
            arguments.pop(name, None)
        arguments["mm_encoder_outputs"] = {"image": EncodedImages(family, visual, len(given[0]))}
        return stock(**arguments)

    def _refuse_settings(self, arguments: Mapping[str, Any]) -> None:
        """Refuse settings of `generate`, whether given in the call, its configuration, or the model's."""
        configs = (arguments.get("generation_config"), self.model.generation_config)

        def setting(name: str) -> Any:
            values = (arguments.get(name), *(getattr(config, name, None) for config in configs))
            return next((value for value in values if value is not None), None)

        for name, unset in REFUSED_SETTINGS.items():
            if setting(name) not in (None, unset):
                raise _refusal(name)
        if setting("cache_implementation") == "paged":
            raise _refusal("cache_implementation='paged'")
        if setting("prompt_lookup_num_tokens") or arguments.get("assistant_model") is not None:
            for name in ("output_attentions", "output_hidden_states"):
                if setting(name):
                    raise _refusal(f"{name} of assisted decoding")

    def _refuse_unknown(self, arguments: Mapping[str, Any]) -> None:
        known = FORWARD | {"inputs_embeds", *self.family.vision_arguments}
        for name in arguments.keys() - known:
            if arguments[name] is not None and not (name == "mm_encoder_outputs" and not arguments[name]):
                raise _refusal(name)

    def _prepare(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of `prepare_inputs_for_generation`, through which each forward pass of `generate` goes."""
        arguments = _named(stock, args, kwargs)
        cache = arguments.get("past_key_values")
        first = bool(arguments.get("is_first_iteration"))
        encoded = (arguments.get("mm_encoder_outputs") or {}).get("image")
        family, images = self.family, list[VisualTokens]()
        batch = len(arguments["input_ids"])
        if isinstance(encoded, EncodedImages):
            arguments["mm_encoder_outputs"] = {}
            # stock, too, reads images in the first pass alone, if there is a cache to keep them in
            if first or not arguments.get("use_cache", True):
                family, images, batch = encoded.family, encoded.images, encoded.batch
        if images and self.dropper.inside and not arguments.get("use_cache", True):
            # each pass would choose anew, by the last token of the answer so far
            raise _refusal("use_cache=False of generate")
        if not images and not isinstance(cache, ShortenedCache):
            return stock(**arguments)
        input_ids: Tensor = arguments["input_ids"]
        fresh = arguments.get("next_sequence_length") or input_ids.shape[1]
        if first and arguments.get("next_sequence_length") is not None:
            fresh = input_ids.shape[1] - columns_in(cache)
        call = Call(input_ids, fresh, cache, arguments.get("attention_mask"), arguments.get("position_ids"))
        ready = ShortenedInputs()
        if not call.counts_short(images=bool(images)):
            ready.shortening, ready.images, short = call.shortened(family, images, batch)
            ready.visual = short["input_ids"] == family.config.image_token_id if images else None
            if images and ready.shortening.changes and call.padded_behind():
                raise UserError("generate goes on behind the last column; pad the prompts on the left")
            arguments.update(short)
            if cache is not None:
                arguments["next_sequence_length"] = short["input_ids"].shape[1] - call.seen
        inputs = stock(**arguments)
        ready.update(inputs.get("mm_encoder_outputs") or {})
        return {**inputs, "mm_encoder_outputs": ready}

    def _forward(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of `forward`."""
        arguments = _named(stock, args, kwargs)
        cache = arguments.get("past_key_values")
        ready = arguments.get("mm_encoder_outputs")
        if isinstance(ready, ShortenedInputs):
            self._refuse_unknown({**arguments, "mm_encoder_outputs": None})
        elif ready or has_images(arguments) or isinstance(cache, ShortenedCache):
            ready = self._make_ready(arguments)
        else:
            with self._dropping_inside(arguments, ShortenedInputs()):
                return stock(**arguments)
        with allow_adding_to(cache), self._dropping_inside(arguments, ready):
            output = stock(**arguments)
        if ready.shortening is not None and ready.shortening.changes:
            for value in output if isinstance(output, tuple) else output.values():
                if isinstance(value, Cache):
                    mark(value, ready.shortening)
        return output

    @contextmanager
    def _dropping_inside(self, arguments: Mapping[str, Any], ready: ShortenedInputs) -> Iterator[None]:
        """The stages inside the language model, for one forward pass: of prompts, or of what follows them.

        Raises:
            UserError: a prompt with images continues a KV cache.
        """
        if not self.dropper.inside:
            yield
            return
        if columns_in(arguments.get("past_key_values")) == 0 or self._stages is None:
            self._stages = Stages(self.model.get_decoder(), self.dropper.inside)
            ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
            nothing = torch.zeros_like(arguments["inputs_embeds"][..., 0] if ids is None else ids)
            shown = nothing == 0 if mask is None else mask.to(nothing.device) != 0
            # of several equal numbers the first counts: the last column that is shown
            visual = nothing if ready.visual is None else ready.visual
            rows = ready.images or [[] for _ in nothing]
            totals = [sum(image.layout.total_tokens for image in row) for row in rows]
            self._stages.expect(visual, shown.cumsum(1).argmax(1), totals, [len(row) for row in rows])
        elif ready.visual is not None:
            raise UserError(
                f"{type(self.dropper).__name__} drops tokens inside the language model, and this prompt with "
                "images continues a KV cache; give the whole conversation without it"
            )
        with self._stages.hook_layers():
            yield

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _make_ready(self, arguments: dict[str, Any]) -> ShortenedInputs:
        """Shorten the arguments of a caller's own forward pass, in place."""
        self._refuse_unknown(arguments)
        if arguments.get("input_ids") is None or arguments.get("inputs_embeds") is not None:
            raise _without_ids()
        if isinstance(arguments.get("logits_to_keep"), Tensor):
            raise _refusal("logits_to_keep as a tensor")
        input_ids, cache = arguments["input_ids"], arguments.get("past_key_values")
        positions = arguments.get("position_ids")
        for name in ("position_ids", "labels"):
            value = arguments.get(name)
            if value is not None and value.shape[-2:] not in (input_ids.shape, (1, input_ids.shape[1])):
                raise UserError(
                    f"{name} of shape {tuple(value.shape)} do not fit input_ids of shape "
                    f"{tuple(input_ids.shape)}"
                )
        call = Call(input_ids, input_ids.shape[1], cache, arguments.get("attention_mask"), positions)
        images = has_images(arguments)
        ready = ShortenedInputs()
        if not call.counts_short(images):
            last = call.seen + call.fresh - 1
            if call.seen < call.cached and positions is not None and bool((positions[..., -1] == last).all()):
                raise UserError(
                    "position_ids count what is in the KV cache, not the prompt as it was given; leave them "
                    "out"
                )
            family, visual = self.family, list[VisualTokens]()
            if images:
                family, visual = encode_images(self.model, self.dropper, arguments)
                self.token_counts = [image.counts for image in visual]
            if positions is None:
                call = replace(call, positions=family.find_given_positions(input_ids, arguments, call.cached))
            for name in family.vision_arguments:
                arguments.pop(name, None)
            ready.shortening, ready.images, short = call.shortened(family, visual, len(input_ids))
            ready.visual = short["input_ids"] == family.config.image_token_id if images else None
            ready.update(short.pop("mm_encoder_outputs", {}))
            mask = short.pop("attention_mask")
            labels = arguments.get("labels")
            if labels is not None:
                short["labels"] = ready.shortening.take(call.widen(labels), fill=-100)
            arguments.update({name: value[..., call.seen :] for name, value in short.items()})
            arguments["attention_mask"] = mask
        arguments["mm_encoder_outputs"] = ready
        return ready


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    signature = inspect.signature(function)
    arguments = signature.bind_partial(*args, **kwargs).arguments
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(parameter.name, {}))
    return arguments


def _without_ids() -> UserError:
    return UserError("token dropping needs input_ids with pixel_values, not inputs_embeds")


def _refusal(name: str) -> UserError:
    return UserError(f"{name} is not supported with token dropping; leave it out")
