"""Load a checkpoint: from the hub, a local folder, or with dummy weights of the real shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # in its __all__, for users like this
from loguru import logger
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from hired_eval.errors import HubError, UserError, first_line
from hired_eval.hub import explain_unreachable
from hired_eval.models.checkpoint_files import explain, refuse_pickles
from hired_eval.models.dummy import dummy_model, dummy_processor
from hired_eval.models.families import FAMILIES
from hired_eval.models.family import Family
from hired_eval.models.published import published_config
from hired_eval.processes import Processes

WEIGHTS = ("pretrained", "pickle", "dummy")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
QUANTIZATION = ("none", "8bit", "4bit")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LOCAL_COPIES = (
    "point to local copies with model.path=FOLDER (in lmms-eval pretrained=FOLDER) and data.path=FOLDER, or "
    "use the bundled ones with model=mini and data=bundled"
)
"""What to do where the hub cannot be reached."""
LOADER_ERRORS = (
    OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError, StrictDataclassError,
    httpx.HTTPError,
)  # fmt: skip
"""What loaders of transformers end with where a checkpoint's files are missing or damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A stock model and its stock processor.

    Attributes:
        model: stock model.
        processor: stock processor.
        square: pixels on a side of the square that every picture is put on; None: pictures stay as they are.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    square: int | None = None


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
    weights: Literal["pretrained", "pickle", "dummy"] = "pretrained",
    seed: int = 0,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    square: int | None = None,
    fixed_grid: bool = False,
) -> Checkpoint:
    """Load a checkpoint for evaluation.

    Args:
        source: a folder, or an id on the hub.
        revision: of the hub repository.
        dtype: float32, float16 or bfloat16.
        device: 'auto' (a GPU where there is one), or a torch device.
        device_map: spread the model over all devices: auto, balanced, balanced_low_0 or sequential; then
            `device` is not used.
        attention: attention backend of transformers: sdpa, eager or flash_attention_2.
        quantization: none, or 8bit or 4bit weights through bitsandbytes.
        feature_layer: vision feature layer, where it differs from the checkpoint's.
        weights: 'pretrained' reads safetensors alone; 'pickle' also reads *.bin files; 'dummy' builds the
            architecture with random weights: for efficiency only, never for scores.
        seed: of dummy weights.
        min_pixels, max_pixels, square: see `set_resolution`.
        fixed_grid: every picture on one grid, whatever its shape; see `Family.fix_grid`.

    Raises:
        UserError: nothing there, no network, another architecture or layout, damaged or missing weights, no
            safetensors, or an option that does not exist or cannot be had here.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if weights not in WEIGHTS:
        raise UserError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    if feature_layer is not None and not isinstance(feature_layer, int):
        raise UserError(f"feature_layer must be a whole number, e.g. -2, got {feature_layer!r}")
    check_placement(device_map, attention, quantization, weights)
    # a local folder's own config comes first; the published architectures need no hub
    published = published_config(source) if weights == "dummy" else None
    config = published or read_config(source, revision)
    if feature_layer is not None:
        config.vision_feature_layer = feature_layer
    family = FAMILIES[config.model_type]
    where = _device(device)
    processor: Any = (
        call_loader(source, AutoProcessor.from_pretrained, source, revision=revision)
        if published is None
        else dummy_processor(published)
    )
    processor.tokenizer.padding_side = "left"
    if not fixed_grid:
        set_resolution(config, processor.image_processor, min_pixels, max_pixels, square)
    else:
        if {min_pixels, max_pixels, square} != {None}:
            raise UserError(
                "protocol=fixed_grid sets the resolution of every picture; leave min_pixels, max_pixels and "
                "square out"
            )
        square = family.fix_grid(config, processor.image_processor)
    if weights == "dummy":
        model = dummy_model(config, DTYPES[dtype], where, attention, seed)
    else:
        refuse_pickles(Path(source), allowed=weights == "pickle")
        model, loading = call_loader(
            source,
            family.stock.from_pretrained,
            source,
            revision=revision,
            config=config,
            dtype=DTYPES[dtype],
            device_map=device_map or where,
            attn_implementation=attention,
            quantization_config=_quantization(quantization, DTYPES[dtype], not_quantized(family)),
            use_safetensors=None if weights == "pickle" else True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        # transformers fills such tensors with random numbers and goes on
        unfit = sorted({*loading["missing_keys"], *(key[0] for key in loading["mismatched_keys"])})
        if unfit:
            raise UserError(
                f"the weights in {source} do not fit its config.json: {len(unfit)} tensors are missing or of "
                f"another shape, e.g. {unfit[0]}; copy the checkpoint again"
            )
        refuse_offloading(getattr(model, "hf_device_map", {}))
    if where.type == "cpu" and dtype != "float32" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        logger.warning(
            f"{dtype} is slow on this CPU, which lacks AVX-512; float32 is several times as fast and takes "
            "twice the memory (model.dtype=float32, in lmms-eval dtype=float32; it is another run)"
        )
    return Checkpoint(model.eval(), processor, square)


def set_resolution(
    config: Any, image_processor: Any, min_pixels: int | None, max_pixels: int | None, square: int | None
) -> None:
    """Set how large the vision tower of a model of native resolution sees pictures.

    Args:
        config: of the model.
        image_processor: stock, changed in place.
        min_pixels: a smaller picture is enlarged; None: the checkpoint's own.
        max_pixels: a larger picture is shrunk; likewise.
        square: every picture, on a square with this many pixels a side; the protocol of papers that compare
            methods at a constant number of tokens (1008 for Qwen2.5-VL, so 36 x 36 tokens).

    Raises:
        UserError: the model has no resolution of its own, the options exclude each other, or the square is
            not one of whole tokens.
    """
    asked = {"min_pixels": min_pixels, "max_pixels": max_pixels, "square": square}
    given = [name for name, value in asked.items() if value is not None]
    if not given:
        return
    if not hasattr(image_processor, "merge_size"):
        raise UserError(
            f"{', '.join(given)}: models of type {config.model_type!r} see pictures at the resolutions that "
            "they were made for; leave it out"
        )
    token = image_processor.merge_size * image_processor.patch_size
    if square is not None:
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} exclude each other; leave square or the others out")
        if square % token:
            raise UserError(
                f"square={square} must be a multiple of {token}, the pixels on a side of a token; try "
                f"square={max(1, square // token) * token}"
            )
        min_pixels = max_pixels = square**2
    size = dict(image_processor.size)
    least, most = min_pixels or size["shortest_edge"], max_pixels or size["longest_edge"]
    if least > most:
        own = " (the one not set is the checkpoint's own)" * (len(given) == 1)
        raise UserError(f"min_pixels={least} is more than max_pixels={most}{own}; change one of them")
    image_processor.size = size | {"shortest_edge": least, "longest_edge": most}


def check_placement(device_map: str | None, attention: str, quantization: str, weights: str) -> None:
    """Refuse what cannot be placed or run here, before anything is loaded.

    Raises:
        UserError: a value that does not exist, a package that is not installed, or two options that exclude
            each other.
    """
    if device_map is not None and device_map not in DEVICE_MAPS:
        raise UserError(
            f"device_map must be one of {', '.join(DEVICE_MAPS)}, or null, got {device_map!r}; one device is "
            "chosen with device=cpu or device=cuda:0"
        )
    if device_map is not None and Processes().count > 1:
        raise UserError(
            "device_map spreads one model over all GPUs, and several processes each have a GPU of their own; "
            "leave device_map out, or start one process"
        )
    if attention not in ATTENTION:
        raise UserError(f"attention must be one of {', '.join(ATTENTION)}, got {attention!r}")
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError(
            "attention=flash_attention_2 needs the package flash-attn and a CUDA GPU; use attention=sdpa, "
            "which runs everywhere"
        )
    if quantization not in QUANTIZATION:
        raise UserError(f"quantization must be one of {', '.join(QUANTIZATION)}, got {quantization!r}")
    if quantization != "none" and not is_bitsandbytes_available():
        raise UserError(
            f"quantization={quantization} needs bitsandbytes: pip install bitsandbytes; or set "
            "quantization=none"
        )
    if weights == "dummy" and (device_map is not None or quantization != "none"):
        raise UserError(
            "weights=dummy goes onto one device unquantized; leave device_map and quantization out, and name "
            "it with device="
        )


def _device(name: str) -> torch.device:
    """The device of that name; 'auto' is this process's GPU where there is one, otherwise the CPU."""
    if name == "auto":
        own = Processes().device
        return own if own.type == "cuda" else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known to PyTorch; try auto, cpu or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: PyTorch finds no CUDA GPU here; try device=auto or device=cpu")
    return device


def device_type(name: str) -> str:
    """The kind of device that a name stands for, e.g. cuda for auto where there is a GPU.

    Raises:
        UserError: PyTorch does not know it, or it is not here.
    """
    return _device(name).type


def feature_layer_of(source: str, feature_layer: int | None) -> int | None:
    """The layer of the vision tower that feeds the projector, counted from 0.

    None where it is not known before the checkpoint is loaded: of one on the hub that is not the paper's, or
    of a damaged one.

    Args:
        source: a folder, or an id on the hub.
        feature_layer: as the model config has it; None: the checkpoint's own.
    """
    config: Any = published_config(source)
    if config is None and Path(source).is_dir():
        try:
            config = read_config(source, None)
        except UserError:
            return None  # whoever loads it is told
    vision = getattr(config, "vision_config", None)
    layer = getattr(config, "vision_feature_layer", None) if feature_layer is None else feature_layer
    if vision is None or not isinstance(layer, int):
        return None
    return layer - 1 if layer >= 0 else int(vision.num_hidden_layers) + layer


def refuse_offloading(placed: Mapping[str, int | str | torch.device]) -> None:
    """Refuse a model of which a part waits in main memory or on disk to be copied in at every step.

    Args:
        placed: device of each part of the model.

    Raises:
        UserError: the model does not fit.
    """
    waiting = [part for part, device in placed.items() if str(device) in ("cpu", "disk")]
    if waiting and (len(waiting) < len(placed) or "disk" in map(str, placed.values())):
        raise UserError(
            f"the model does not fit: {len(waiting)} of its {len(placed)} parts would be copied in from "
            "memory or disk at every step; use more GPUs, quantization=8bit or 4bit, or a smaller model"
        )


def not_quantized(family: type[Family]) -> list[str]:
    """Modules that stay as they are: vision side and head, by their names from the start of the model on."""
    return [*family.vision_modules, "lm_head"]


def _quantization(kind: str, dtype: torch.dtype, as_they_are: list[str]) -> BitsAndBytesConfig | None:
    """The options of bitsandbytes."""
    if kind == "none":
        return None
    return BitsAndBytesConfig(
        load_in_8bit=kind == "8bit",
        load_in_4bit=kind == "4bit",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=as_they_are,
    )


def read_config(source: str, revision: str | None) -> Any:
    """The config of a checkpoint in the layout of transformers.

    Args:
        source: a folder, or an id on the hub.
        revision: of the hub repository.

    Raises:
        UserError: nothing there, a family that is not here, or the original layout of LLaVA or InternVL.
    """
    raw = call_loader(source, _raw_config, source, revision=revision)
    if "mm_vision_tower" in raw:
        raise UserError(
            f"{source} is in the original LLaVA layout; convert a local copy with python "
            "scripts/convert_sharegpt4v.py FOLDER TARGET, and set model.path=TARGET"
        )
    if (kind := raw["model_type"]) == "internvl_chat":
        raise UserError(
            f"{source} brings code of its own, which is not run; take the same model in the layout of "
            "transformers, e.g. OpenGVLab/InternVL3-1B-hf or OpenGVLab/InternVL3_5-1B-HF"
        )
    if kind not in [*FAMILIES]:
        raise UserError(
            f"{source} holds a {kind!r} model; supported are {', '.join(FAMILIES)} (checkpoints in the "
            "layout of transformers)"
        )
    return call_loader(source, AutoConfig.from_pretrained, source, revision=revision)


def _raw_config(source: str, **options: Any) -> dict[str, Any]:
    raw: dict[str, Any] = PreTrainedConfig.get_config_dict(source, **options)[0]
    if "model_type" not in raw:
        raise ValueError("no config.json that names a model_type")
    return raw


def call_loader(source: str, load: Any, *args: Any, remedy: str = LOCAL_COPIES, **kwargs: Any) -> Any:
    """Call a loader of transformers, which must run no code of the checkpoint.

    Args:
        source: a folder, or an id on the hub.
        load: of transformers.
        args: of `load`, with `kwargs`.
        remedy: what to do where the hub cannot be reached.

    Raises:
        UserError: one line that says what could not be loaded and what to do.
    """
    local = Path(source).is_dir()
    # without this, transformers tries an unreachable hub for half a minute before it looks at its cache
    no_hub = None if local else explain_unreachable()
    try:
        return load(*args, local_files_only=local or no_hub is not None, trust_remote_code=False, **kwargs)
    except ImportError as error:
        raise UserError(f"{source} cannot be loaded here: {first_line(error)}") from error
    except (UnpicklingError, EOFError) as error:
        raise UserError(
            f"the weights in {source} are damaged, or hold more than tensors, which could run code; take "
            "safetensors"
        ) from error
    except LOADER_ERRORS as error:
        if local:
            reason = explain(Path(source), error)
            raise UserError(f"{source} is not a checkpoint that can be loaded: {reason}") from error
        if isinstance(error, SafetensorError):
            raise UserError(f"the weights of {source} are damaged ({error}); fetch them again") from error
        said = f"could not fetch {source} from the hub ({no_hub or first_line(error)}); {remedy}"
        raise HubError(said, no_hub is None) from error
