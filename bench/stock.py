"""lmms-eval's own `llava_hf`, unchanged."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

from lmms_eval.api.instance import Instance

VIDEO_READER = "decord"


def llava_hf(checkpoint: str, device: str, dtype: str) -> Any:
    """The model class of lmms-eval at its batch size of 1.

    Its module imports `decord`, a video reader, which pictures never use; where it is not installed, an empty
    module stands in for it.
    """
    if importlib.util.find_spec(VIDEO_READER) is None:
        print(f"{VIDEO_READER} is not installed: an empty module stands in, llava_hf reads no video here")
        stand_in: Any = ModuleType(VIDEO_READER)
        stand_in.VideoReader = stand_in.cpu = None
        sys.modules[VIDEO_READER] = stand_in
    from lmms_eval.models.simple.llava_hf import LlavaHf

    return LlavaHf(pretrained=checkpoint, device=device, dtype=dtype, batch_size=1, device_map=device)


def fresh(requests: list[Instance]) -> list[Instance]:
    """Copies with generation options of their own: llava_hf changes those it is given."""
    return [replace(r, arguments=(r.args[0], dict(r.args[1]), *r.args[2:]), resps=[]) for r in requests]
