"""Apply a dropping method to a stock model of transformers, and undo it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hired_eval.dropping import TokenDropper
from hired_eval.errors import UserError
from hired_eval.llava.encoder import VisionEncoder


@contextmanager
def applied(dropper: TokenDropper, model: nn.Module) -> Iterator[nn.Module]:
    """Drop visual tokens in `model.generate` and `model(...)` while the block runs.

    Inputs are those of the stock processor. `generate` returns what the stock model would: the prompt as it
    was given, then the new tokens. A plain forward pass returns logits over the shortened sequence, in which
    each image has as many placeholders as kept tokens and which is padded afresh on the input's side;
    `labels` and other per-token inputs are shortened alike.

    Raises:
        UserError: see `VisionEncoder`; or the inputs' placeholders do not match their images.
    """
    encoder = VisionEncoder(model)
    forward: Callable[..., Any] = model.forward
    generate: Callable[..., Any] = encoder.model.generate

    @wraps(forward)
    def forward_dropped(*args: Any, **kwargs: Any) -> Any:
        arguments = _named(forward, args, kwargs)
        if arguments.get("pixel_values") is None:
            return forward(**arguments)
        return forward(**_shortened(arguments, encoder, dropper))

    @wraps(generate)
    def generate_dropped(inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if kwargs.get("pixel_values") is None:
            return generate(*([None, *args] if args else []), **kwargs)
        prompt = kwargs["input_ids"]
        short = _shortened(kwargs, encoder, dropper)
        if kwargs.get("max_length") is not None:
            short["max_length"] = kwargs["max_length"] + short["input_ids"].shape[1] - prompt.shape[1]
        output = generate(*([None, *args] if args else []), **short)
        sequences = output if isinstance(output, Tensor) else output.sequences
        answers = sequences[:, short["input_ids"].shape[1] :]
        prompts = prompt.to(answers.device).repeat_interleave(len(answers) // len(prompt), dim=0)
        restored = torch.cat([prompts, answers], dim=1)
        if isinstance(output, Tensor):
            return restored
        output.sequences = restored
        return output

    with ExitStack() as stack:
        stack.enter_context(_overridden(model, "forward", forward_dropped))
        stack.enter_context(_overridden(model, "generate", generate_dropped))
        yield model


@contextmanager
def _overridden(model: nn.Module, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Set an attribute on this instance alone; afterwards it is as before."""
    before = vars(model).get(name)
    setattr(model, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(model, name)
        else:
            setattr(model, name, before)


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    positional = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return {**dict(zip(positional, args, strict=False)), **kwargs}


def _shortened(arguments: Mapping[str, Any], encoder: VisionEncoder, dropper: TokenDropper) -> dict[str, Any]:
    """The model's inputs with encoded, dropped images in place of pixels, and placeholders to match."""
    short = dict(arguments)
    pixel_values = short.pop("pixel_values")
    image_sizes = short.pop("image_sizes", None)
    if short.get("input_ids") is None:
        raise UserError("token dropping needs input_ids beside pixel_values, not inputs_embeds")
    input_ids: Tensor = short["input_ids"]
    if image_sizes is None:
        sizes = [(int(p.shape[-2]), int(p.shape[-1])) for p in pixel_values]
    else:
        sizes = [(int(height), int(width)) for height, width in image_sizes]
    if pixel_values.dim() == 4:
        layouts = [encoder.layout(size) for size in sizes]
        pixels = list(pixel_values.split([layout.partitions for layout in layouts]))
    else:
        pixels = list(pixel_values)
    images = [encoder.visual_tokens(p, size, dropper) for p, size in zip(pixels, sizes, strict=True)]

    rows = _gather_indices(
        input_ids == encoder.config.image_token_id,
        stock=[image.counts.full for image in images],
        kept=[image.counts.kept for image in images],
    )
    mask = short.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask
    right_padded = bool((mask[:, -1] == 0).any()) and not bool((mask[:, 0] == 0).any())
    rows = [row[mask[i, row].bool()] for i, row in enumerate(rows)]
    length = max(len(row) for row in rows)
    for name, value in {**short, "attention_mask": mask}.items():
        if isinstance(value, Tensor) and value.shape == input_ids.shape:
            fill = -100 if name == "labels" else 0
            short[name] = _regathered(value, rows, length, fill, right_padded)
    short["mm_encoder_outputs"] = {
        "image": BaseModelOutputWithPooling(pooler_output=[image.embeddings for image in images])
    }
    return short


def _gather_indices(placeholders: Tensor, stock: list[int], kept: list[int]) -> list[Tensor]:
    """For each row of a batch, which positions to take so that image j has kept[j] placeholders.

    Args:
        placeholders: (B, L) bool.
        stock: placeholders of each image in the input, images in reading order over the batch.
        kept: placeholders wanted.

    Raises:
        UserError: the placeholders in the input are not those of the images.
    """
    if int(placeholders.sum()) != sum(stock):
        raise UserError(
            f"the input has {int(placeholders.sum())} image placeholders, and its {len(stock)} images need "
            f"{sum(stock)}; make inputs with the model's own processor"
        )
    rows = []
    image = 0
    for row in placeholders:
        positions = row.nonzero().squeeze(1)
        pieces, start, used = [], 0, 0
        while used < len(positions):
            first = int(positions[used])
            used += stock[image]
            if used > len(positions):
                raise UserError(f"the placeholders of image {image} are spread over two rows of the batch")
            pieces.append(torch.arange(start, first, device=row.device))
            pieces.append(torch.full((kept[image],), first, device=row.device))
            start = int(positions[used - 1]) + 1
            image += 1
        pieces.append(torch.arange(start, len(row), device=row.device))
        rows.append(torch.cat(pieces))
    return rows


def _regathered(value: Tensor, rows: list[Tensor], length: int, fill: int, right_padded: bool) -> Tensor:
    """(B, L) -> (B, length): each row's positions taken, padded on the side where the input is padded."""
    result = value.new_full((len(rows), length), fill)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if right_padded else slice(length - len(row), length)
        result[i, place] = value[i, row]
    return result
