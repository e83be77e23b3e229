"""Load a LLaVA checkpoint: from the hub, a local folder, or with dummy weights of the real shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
)

from hired_eval.errors import UserError
from hired_eval.hub import unreachable

ARCHITECTURES = {"llava": LlavaForConditionalGeneration, "llava_next": LlavaNextForConditionalGeneration}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """A stock model and its stock processor."""

    model: PreTrainedModel
    processor: ProcessorMixin


def load_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    device_map: str | None = None,
    attention: str = "sdpa",
    quantization: str = "none",
    feature_layer: int | None = None,
    weights: Literal["pretrained", "dummy"] = "pretrained",
    seed: int = 0,
) -> Checkpoint:
    """Load a checkpoint for evaluation.

    Args:
        source: a folder, or an id on the hub.
        revision: of the hub repository.
        dtype: float32, float16 or bfloat16.
        device: 'auto' (a GPU where there is one), or a torch device.
        device_map: spread the model over devices, e.g. 'auto'; then `device` is not used.
        attention: attention backend of transformers: sdpa, eager or flash_attention_2.
        quantization: none, or 8bit or 4bit weights through bitsandbytes.
        feature_layer: vision feature layer, where it differs from the checkpoint's.
        weights: 'dummy' builds the architecture with random weights: for efficiency only, never for scores.
        seed: of dummy weights.

    Raises:
        UserError: nothing there, no network, another architecture, damaged weights, no safetensors.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    config = _explained(source, AutoConfig.from_pretrained, source, revision=revision)
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"{source} holds a {config.model_type!r} model; supported are {', '.join(ARCHITECTURES)} "
            "(LLaVA-1.5, ShareGPT4V and LLaVA-Next checkpoints in the layout of transformers)"
        )
    if feature_layer is not None:
        config.vision_feature_layer = feature_layer
    architecture = ARCHITECTURES[config.model_type]
    where = _device(device)
    processor = _explained(source, AutoProcessor.from_pretrained, source, revision=revision)
    processor.tokenizer.padding_side = "left"
    if weights == "dummy":
        model = _dummy(architecture, config, DTYPES[dtype], where, attention, seed)
    else:
        model = _explained(
            source,
            architecture.from_pretrained,
            source,
            revision=revision,
            config=config,
            dtype=DTYPES[dtype],
            device_map=device_map or where,
            attn_implementation=attention,
            quantization_config=_quantization(quantization, DTYPES[dtype]),
            use_safetensors=True,
        )
    return Checkpoint(model.eval(), processor)


def _device(name: str) -> torch.device:
    """The device of that name; 'auto' is a GPU where there is one, otherwise the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known to PyTorch; try auto, cpu or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: PyTorch finds no CUDA GPU here; try device=auto or device=cpu")
    return device


def _dummy(
    architecture: Any, config: Any, dtype: torch.dtype, device: torch.device, attention: str, seed: int
) -> PreTrainedModel:
    torch.manual_seed(seed)
    with device:
        return architecture._from_config(config, dtype=dtype, attn_implementation=attention)


def _quantization(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if kind == "none":
        return None
    if kind not in ("8bit", "4bit"):
        raise UserError(f"quantization must be none, 8bit or 4bit, got {kind!r}")
    try:
        return BitsAndBytesConfig(
            load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit", bnb_4bit_compute_dtype=dtype
        )
    except ImportError as error:
        raise UserError(f"{kind} weights need bitsandbytes: pip install bitsandbytes") from error


def _explained(source: str, load: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a loader of transformers; say in one line what could not be loaded and what to do."""
    local = Path(source).is_dir()
    # without this, transformers tries an unreachable hub for half a minute before it looks at its cache
    no_hub = None if local else unreachable()
    try:
        return load(*args, local_files_only=local or no_hub is not None, **kwargs)
    except SafetensorError as error:
        raise UserError(f"the weights in {source} are damaged ({error}); copy them again") from error
    except (OSError, ValueError, KeyError) as error:
        reason = no_hub or (str(error).strip() or type(error).__name__).splitlines()[0]
        if local:
            raise UserError(f"{source} is not a checkpoint that can be loaded: {reason}") from error
        raise UserError(
            f"could not fetch {source} from the hub ({reason}); point to a local copy with "
            "model.path=FOLDER, or use the bundled model with model=mini"
        ) from error
