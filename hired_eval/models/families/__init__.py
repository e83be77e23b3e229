"""The model families, one file each; a further one is a file and a row here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hired_eval.errors import UserError
from hired_eval.models.families.internvl import InternVL
from hired_eval.models.families.llava import Llava
from hired_eval.models.families.llava_next import LlavaNext
from hired_eval.models.families.llava_onevision import LlavaOnevision
from hired_eval.models.families.qwen_vl import Qwen3VL, Qwen25VL
from hired_eval.models.family import Family

FAMILIES: dict[str, type[Family]] = {
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_onevision": LlavaOnevision,
    "internvl": InternVL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
}
"""By the `model_type` of their configuration."""


def family_of(
    model: nn.Module, arguments: Mapping[str, Any] | None = None, image_processor: Any = None
) -> Family:
    """The family of a stock model, around that model.

    Args:
        model: stock model.
        arguments: of a call on it, see `Family`.
        image_processor: see `Family`.

    Raises:
        UserError: it is of no family that is known here, or see `Family`.
    """
    for family in FAMILIES.values():
        if isinstance(model, family.stock):
            return family(model, arguments, image_processor)
    names = ", ".join(family.stock.__name__ for family in FAMILIES.values())
    if any(isinstance(module, family.stock) for family in FAMILIES.values() for module in model.modules()):
        raise UserError(
            f"{type(model).__name__} holds a model that token dropping works on; apply it to that one, then "
            f"call the {type(model).__name__}"
        )
    raise UserError(f"token dropping does not work on {type(model).__name__}; it works on {names}")
