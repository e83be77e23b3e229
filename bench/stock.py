"""lmms-eval's own `llava_hf`, unchanged."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import Instance

from hired_eval.models.checkpoint import Checkpoint

VIDEO_READER = "decord"


def llava_hf(checkpoint: str, device: str, dtype: str) -> Any:
    """The model of lmms-eval at its batch size of 1."""
    return _model_class()(pretrained=checkpoint, device=device, dtype=dtype, batch_size=1, device_map=device)


def llava_hf_around(checkpoint: Checkpoint) -> Any:
    """The model of lmms-eval around a checkpoint that is loaded already, with all that answering reads of it.

    Its own constructor can load trained weights alone.
    """
    kind = _model_class()
    model = kind.__new__(kind)
    super(kind, model).__init__()
    model._model, model._image_processor = checkpoint.model, checkpoint.processor
    model._tokenizer, model._config = model._image_processor.tokenizer, checkpoint.model.config
    model._device, model._rank, model._world_size = checkpoint.model.device, 0, 1
    model.batch_size_per_gpu, model.chat_template, model.use_cache = 1, None, True
    model.accelerator = Accelerator()
    return model


def _model_class() -> Any:
    """The class, whose module imports `decord`, a video reader, which pictures never use.

    Where it is not installed, an empty module stands in for it.
    """
    if VIDEO_READER not in sys.modules and importlib.util.find_spec(VIDEO_READER) is None:
        print(f"{VIDEO_READER} is not installed: an empty module stands in, llava_hf reads no video here")
        stand_in: Any = ModuleType(VIDEO_READER)
        stand_in.VideoReader = stand_in.cpu = None
        sys.modules[VIDEO_READER] = stand_in
    from lmms_eval.models.simple.llava_hf import LlavaHf

    return LlavaHf


def fresh(requests: list[Instance]) -> list[Instance]:
    """Copies with generation options of their own: llava_hf changes those it is given."""
    return [replace(r, arguments=(r.args[0], dict(r.args[1]), *r.args[2:]), resps=[]) for r in requests]
