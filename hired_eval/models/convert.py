"""ShareGPT4V and LLaVA-1.5 from the original LLaVA layout to the stock layout of transformers."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import (
    AddedToken,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.clip import CLIPImageProcessor
from transformers.models.llava.image_processing_llava import LlavaImageProcessor

from hired_eval.errors import UserError, first_line
from hired_eval.models.published import clip_large

Renaming = tuple[tuple[str, str], ...]
"""Pairs of a pattern for the start of a name and what replaces it; the first match counts."""

IMAGE, PAD = "<image>", "<pad>"
MODEL_TYPES = ("share4v", "llava", "llava_llama")
EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
# rows of the embeddings are a multiple of this, as in the LLaVA-1.5 checkpoints on the hub
ROWS = 64
NAMED = 8

FROM_LLAVA: Renaming = (
    (r"model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),
    (r"model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
    (r"model\.vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?", "vision_tower."),
    (r"model\.(?=embed_tokens|layers|norm)", "language_model.model."),
    (r"lm_head\.", "language_model.lm_head."),
)
FROM_TOWER: Renaming = ((r"vision_model\.", "vision_tower."),)
# what a model in memory calls its tensors -> what a stock checkpoint does
SAVED: Renaming = (
    (r"model\.language_model\.", "language_model.model."),
    (r"lm_head\.", "language_model.lm_head."),
    (r"model\.", ""),
)
# buffers that older versions saved, and the text side of a whole CLIP
LEFT_OUT = re.compile(
    r".*\.rotary_emb\.inv_freq|.*\.embeddings\.position_ids"
    r"|text_model\..*|logit_scale|text_projection\.weight|visual_projection\.weight"
)
TEXT_OPTIONS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "hidden_act max_position_embeddings rms_norm_eps rope_theta rope_scaling attention_bias bos_token_id "
    "eos_token_id"
).split()


@dataclass(frozen=True)
class Shard:
    """One file of weights: *.safetensors, or *.bin."""

    file: Path
    renaming: Renaming

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, by its own name, without reading the tensors.

        Raises:
            UserError: the file is missing or damaged, or holds more than tensors.
        """
        with _explained(self.file):
            if self.file.suffix == ".bin":
                state = torch.load(self.file, map_location="meta", weights_only=True, mmap=True)
                return {name: tuple(tensor.shape) for name, tensor in state.items()}
            with safe_open(self.file, "pt") as reader:
                return {name: tuple(reader.get_slice(name).get_shape()) for name in reader.keys()}  # noqa: SIM118

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that a stock model has, by their stock names.

        Raises:
            UserError: see `shapes`.
        """
        with _explained(self.file):
            if self.file.suffix == ".bin":
                state = torch.load(self.file, map_location="cpu", weights_only=True, mmap=True)
                for name, tensor in state.items():
                    if not LEFT_OUT.fullmatch(name):
                        yield _renamed(name, self.renaming), tensor
                return
            with safe_open(self.file, "pt") as reader:
                for name in reader.keys():  # noqa: SIM118
                    if not LEFT_OUT.fullmatch(name):
                        yield _renamed(name, self.renaming), reader.get_tensor(name)


def convert(
    source: Path,
    target: Path,
    *,
    vision_tower: Path | None = None,
    allow_pickle: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write a checkpoint in the original LLaVA layout as a stock LlavaForConditionalGeneration.

    Its processor is written beside it. Memory: at most twice the largest shard. Weights keep their dtype and
    bits; the embeddings get rows for the tokens added, each the mean of the others. The target appears when
    all is written, or not at all.

    Args:
        source: folder with config.json, the tokenizer, and the weights.
        target: folder to write; it must not exist.
        vision_tower: folder of the CLIP vision tower; by default the folder inside or beside `source` with
            the name of the config's mm_vision_tower, else CLIP-L/14-336 with its weights in the checkpoint.
        allow_pickle: also read *.bin files; PyTorch then unpickles tensors alone (`weights_only`).
        say: called with one line about what is being done.

    Raises:
        UserError: a file is missing or damaged, the layout is another, tensors are unknown, missing or of
            another shape, or the target cannot be written.
    """
    if target.exists():
        raise UserError(f"{target} exists already; choose another folder")
    original = _original_config(source)
    tower = vision_tower or _tower_beside(source, original)
    tokenizer = _tokenizer(source)
    config = _stock_config(original, tower, tokenizer)
    shards = _shards(source, tower, allow_pickle)
    _check(shards, config, original["vocab_size"])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            _write_weights(shards, part, config.text_config.vocab_size, say)
            config.save_pretrained(part)
            _processor(original, config, tokenizer).save_pretrained(part)
            text = config.text_config
            GenerationConfig(
                bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
            ).save_pretrained(part)
            part.chmod(0o755)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {target}: {error}") from error


def _original_config(source: Path) -> dict[str, Any]:
    """config.json of the original layout.

    Raises:
        UserError: not there, or of a model that has another layout.
    """
    original = _json(source / "config.json")
    wanted = {"mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False}
    if "mm_vision_tower" not in original or original.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{source} is not in the original LLaVA layout: its config.json must name mm_vision_tower and "
            f"one of the model types {', '.join(MODEL_TYPES)}; its type is {original.get('model_type')!r}"
        )
    for option, value in wanted.items():
        if original.get(option, value) != value:
            raise UserError(f"{source}: {option}={original[option]!r} is not supported, only {value!r} is")
    return original


def _tower_beside(source: Path, original: dict[str, Any]) -> Path | None:
    """The vision tower's folder, inside or beside the checkpoint; None where there is none."""
    name = Path(original["mm_vision_tower"])
    places = (source / name, source / name.name, source.parent / name.name)
    return next((place for place in places if (place / "config.json").is_file()), None)


def _tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer with an image token and a padding token added.

    Raises:
        UserError: there is no tokenizer.
    """
    if (source / "tokenizer.json").is_file():
        tokenizer: PreTrainedTokenizerBase = LlamaTokenizer.from_pretrained(
            source, local_files_only=True, padding_side="left"
        )
    elif (source / "tokenizer.model").is_file():
        tokenizer = _from_sentencepiece(source / "tokenizer.model")
    else:
        raise UserError(f"{source} has no tokenizer: neither tokenizer.json nor tokenizer.model")
    tokenizer.add_tokens([AddedToken(IMAGE, normalized=False, special=True)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken(PAD, normalized=False, special=True)})
    return tokenizer


def _from_sentencepiece(file: Path) -> PreTrainedTokenizerBase:
    """LLaMA's tokenizer from its sentencepiece model.

    Read through sentencepiece itself: transformers reads such files through protobuf, of which sentencepiece
    and other packages want versions that exclude each other.
    """
    with _explained(file):
        pieces = SentencePieceProcessor(model_file=str(file))
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    merges = sorted(
        (i, cut, piece)
        for piece, i in vocabulary.items()
        if not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i))
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    )
    # legacy: a space before the text's start and after special tokens, as the original tokenizer puts it
    return LlamaTokenizer(
        vocab=vocabulary,
        merges=[(piece[:cut], piece[cut:]) for _, cut, piece in merges],
        legacy=True,
        add_bos_token=True,
        padding_side="left",
    )


def _stock_config(
    original: dict[str, Any], tower: Path | None, tokenizer: PreTrainedTokenizerBase
) -> LlavaConfig:
    vision = clip_large()
    if tower is not None:
        raw = _json(tower / "config.json")
        vision = CLIPVisionConfig.from_dict(raw.get("vision_config", raw))
    text = LlamaConfig(**{k: original[k] for k in TEXT_OPTIONS if original.get(k) is not None})
    text.vocab_size = ceil(max(len(tokenizer), text.vocab_size) / ROWS) * ROWS
    text.pad_token_id = tokenizer.convert_tokens_to_ids(PAD)
    return LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=original.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full"
        if original.get("mm_vision_select_feature") == "cls_patch"
        else "default",
        dtype=original.get("torch_dtype", "float16"),
    )


def _processor(
    original: dict[str, Any], config: LlavaConfig, tokenizer: PreTrainedTokenizerBase
) -> LlavaProcessor:
    """The stock processor; pictures are padded to a square where the checkpoint was trained so."""
    side = config.vision_config.image_size
    size: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    padded = original.get("image_aspect_ratio") == "pad"
    return LlavaProcessor(
        image_processor=LlavaImageProcessor(do_pad=True, **size) if padded else CLIPImageProcessor(**size),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token=IMAGE,
    )


def _shards(source: Path, tower: Path | None, allow_pickle: bool) -> list[Shard]:
    """The files of the checkpoint, and of the vision tower where the checkpoint does not hold it."""
    shards = [Shard(file, FROM_LLAVA) for file in _files(source, allow_pickle)]
    inside = any(
        _renamed(name, FROM_LLAVA).startswith("vision_tower.") for shard in shards for name in shard.shapes()
    )
    if tower is not None and not inside:
        shards += [Shard(file, FROM_TOWER) for file in _files(tower, allow_pickle)]
    return shards


def _files(folder: Path, allow_pickle: bool) -> list[Path]:
    """The weights in a folder: safetensors where there are any, otherwise *.bin if allowed.

    Raises:
        UserError: no weights, or pickle without permission.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{suffix}.index.json"
        files = sorted(folder.glob(f"{stem}*.{suffix}"))
        if index.is_file():
            files = sorted({folder / name for name in _json(index)["weight_map"].values()})
        if files and suffix == "bin" and not allow_pickle:
            raise UserError(
                f"{folder} holds its weights as pickle ({files[0].name}); add --allow-pickle to read "
                "tensors, and nothing but tensors, from it"
            )
        if files:
            return files
    raise UserError(f"{folder} holds no weights (model*.safetensors or pytorch_model*.bin)")


def _check(shards: list[Shard], config: LlavaConfig, vocabulary: int) -> None:
    """Compare names and shapes with those of the stock model, before anything is written.

    Raises:
        UserError: naming the tensors that are unknown, there twice, missing, or of another shape.
    """
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    expected = {_renamed(name, SAVED): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in EMBEDDINGS:
        expected[name] = (vocabulary, *expected[name][1:])
    found: set[str] = set()
    problems: dict[str, list[str]] = {"unknown": [], "there twice": [], "of another shape": [], "missing": []}
    for shard in shards:
        for own_name, shape in shard.shapes().items():
            name = _renamed(own_name, shard.renaming)
            if LEFT_OUT.fullmatch(own_name):
                continue
            if name not in expected:
                problems["unknown"].append(own_name)
            elif name in found:
                problems["there twice"].append(own_name)
            elif shape != expected[name]:
                problems["of another shape"].append(f"{own_name} {shape}, not {expected[name]}")
            found.add(name)
    problems["missing"] = sorted(expected.keys() - found)
    lines = [
        f"{len(names)} tensors are {what}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
        for what, names in problems.items()
        if names
    ]
    if lines:
        raise UserError("the weights are not those of a LLaVA-1.5 or ShareGPT4V; " + "; ".join(lines))


def _write_weights(shards: list[Shard], folder: Path, rows: int, say: Callable[[str], None]) -> None:
    """One stock shard for each original one, and their index."""
    weight_map: dict[str, str] = {}
    size = 0
    for i, shard in enumerate(shards, start=1):
        say(f"{i} of {len(shards)}: {shard.file.name}")
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            name: (_with_rows(tensor, rows) if name in EMBEDDINGS else tensor).contiguous()
            for name, tensor in shard.tensors()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _with_rows(embeddings: Tensor, rows: int) -> Tensor:
    """(V, D) -> (rows, D): the rows added are the mean of the others."""
    mean = embeddings.mean(0, dtype=torch.float32).to(embeddings.dtype)
    return torch.cat([embeddings, mean.expand(rows - len(embeddings), -1)])


def _renamed(name: str, renaming: Renaming) -> str:
    for pattern, replacement in renaming:
        if match := re.match(pattern, name):
            return replacement + name[match.end() :]
    return name


def _json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return content


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn what a damaged or missing file of weights raises into one clear line."""
    try:
        yield
    except UnpicklingError as error:
        raise UserError(f"{file} holds more than tensors, and is not read: it could run code") from error
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise UserError(f"{file} cannot be read: {reason}") from error
