"""What is given to the lmms-eval model as text on lmms-eval's command line, and its types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hired_eval.errors import UserError
from hired_eval.lmms.local_data import BUNDLED
from hired_eval.method_configs import BUDGETS
from hired_eval.mini import checkpoint_path
from hired_eval.models.configs import config_of
from hired_eval.typed import Count, Natural, check_options, paths_as_text, read, types_of


@dataclass(frozen=True, kw_only=True)
class VLMOptions:
    """The options of `hired_eval.lmms.model.HiredVLM` beside those of the method.

    Attributes:
        pretrained: a folder, an id on the hub, or the name of a model config.
        batch_size: requests answered together; 'auto': as many as the free memory holds.
        device: 'auto' or a torch device.
        dtype: by default that of the model config with this name or hub id, then the checkpoint's own.
        prompt: template with {images} and {question}, or the name of a model config whose prompt is used; by
            default the prompt of the model config with this name or hub id, then the processor's chat
            template. The name of a folder decides nothing.
        revision, device_map, attention, quantization, feature_layer, min_pixels, max_pixels, square: see
            `load_checkpoint`.
        protocol: 'fixed_grid' puts every picture on one grid, 'paper' on its own.
        on_error: 'stop' at a sample that fails, or 'record' it and go on.
        share_prefix: prefill the prompt up to the question once for all questions about an image.
        workers: threads that read pictures ahead, see `count_workers`.
        pictures_per_pass: pictures that go through the vision tower together, see `Pictures`.
        decoding: see `DroppingVLM`.
    """

    pretrained: Path
    batch_size: Count | Literal["auto"] = 1
    device: str = "auto"
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    prompt: str | None = None
    revision: str | None = None
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    quantization: Literal["none", "8bit", "4bit"] = "none"
    feature_layer: int | None = None
    min_pixels: Count | None = None
    max_pixels: Count | None = None
    square: Count | None = None
    protocol: Literal["paper", "fixed_grid"] = "paper"
    on_error: Literal["stop", "record"] = "stop"
    share_prefix: bool = True
    workers: Natural | Literal["auto"] = "auto"
    pictures_per_pass: Count | Literal["auto"] = "auto"
    decoding: Literal["eager", "static"] = "eager"


def unquote(options: dict[str, Any]) -> dict[str, Any]:
    """The same options, texts without the quotes that lmms-eval leaves around what holds a comma.

    Raises:
        UserError: a quote that is not closed, behind which lmms-eval takes the other options for text too.
    """
    plain = dict(options)
    for name, value in options.items():
        if not isinstance(value, str):
            continue
        swallowed = re.search(r",\s*(\w+)=", value)
        if swallowed and swallowed[1] in {*types_of(VLMOptions), "method", *BUDGETS}:
            raise UserError(
                f"{name} swallows {swallowed[1]}=: lmms-eval takes all that follows an apostrophe or a quote "
                f"that is not closed for text; put {name} last, or take an apostrophe out"
            )
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            plain[name] = value[1:-1]
    return plain


def read_typed(declaration: type, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a declaration, of their types, a text read as its option's type says; paths as text.

    Raises:
        UserError: a value of another type.
    """
    known = types_of(declaration)
    read_options = {name: read(known[name], value) for name, value in unquote(options).items()}
    return paths_as_text(check_options(declaration, read_options))


def find_source(pretrained: str) -> str:
    """A folder or an id on the hub: of the model config with this name or hub id, or what is named itself.

    Raises:
        UserError: a path to nothing.
    """
    if Path(pretrained).is_absolute() and not Path(pretrained).is_dir():
        raise UserError(f"pretrained={pretrained} is not a folder")
    config = config_of(pretrained) or {}
    path = config.get("path") or ""
    if path.startswith(BUNDLED):
        return str(checkpoint_path(path.removeprefix(BUNDLED)))
    return config.get("hub_id") or pretrained
