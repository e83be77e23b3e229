"""Checkpoints: loaded whole from safetensors, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from hired_eval import Full
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM
from hired_eval.models.checkpoint import load_checkpoint
from tests import tiny

WEIGHTS = "model.safetensors"


def load(folder: Path, **options: Any) -> DroppingVLM:
    checkpoint = load_checkpoint(str(folder), dtype="float32", **options)
    return DroppingVLM(checkpoint, Full(), "{images}\n{question}")


def write_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def flip_header(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[8:60] = b"\xff" * 52
    (folder / WEIGHTS).write_bytes(content)


def without_projector(folder: Path) -> None:
    kept = {k: v for k, v in load_file(folder / WEIGHTS).items() if "multi_modal" not in k}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def without_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def with_siglip(folder: Path) -> None:
    parts = tiny._parts()
    parts["vision_config"] = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=tiny.SIZE,
        patch_size=tiny.PATCH,
    )
    LlavaForConditionalGeneration(LlavaConfig(**parts)).save_pretrained(folder)


def with_code(folder: Path) -> None:
    write_config(folder, model_type="llava_llama", auto_map={"AutoConfig": "code.Config"})
    (folder / "code.py").write_text("raise SystemExit('this code must not run')")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, "its weights are damaged .*; copy them again"),
    "empty": (lambda d: (d / WEIGHTS).write_bytes(b""), "its weights are damaged"),
    "corrupt": (flip_header, "its weights are damaged"),
    "incomplete": (
        without_projector,
        "do not fit its config.json: 4 tensors are missing .*multi_modal_projector",
    ),
    "another shape": (
        lambda d: write_config(d, vision_feature_layer=[-2, -1]),
        "do not fit its config.json: 1 tensors .*multi_modal_projector.linear_1.weight",
    ),
    "no weights": (
        lambda d: (d / WEIGHTS).unlink(),
        "that can be loaded: it has no weights",
    ),
    "pickle": (
        as_pickle,
        "which can run code when it is loaded; convert them to safetensors, or, in .* model.weights=",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "it has no config .config.json.; copy"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read .*; copy"),
    "a list for a config": (
        lambda d: (d / "config.json").write_text("[]"),
        "cannot be read .not a JSON",
    ),
    "no model type": (
        lambda d: (d / "config.json").write_text("{}"),
        "that names a model_type",
    ),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer.json cannot be read"),
    "another tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "files do not fit together"),
    "pointer": (
        lambda d: (d / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        f"{WEIGHTS} is a pointer of Git LFS, not the file; fetch it with git lfs pull",
    ),
    "no shard": (without_shard, "index.json names model-2.safetensors, which is not there; copy"),
    "not LLaVA": (
        lambda d: write_config(d, model_type="bert"),
        "holds a 'bert' model; supported are llava, llava_next",
    ),
    "unknown": (lambda d: write_config(d, model_type="foo"), "holds a 'foo' model; supported are llava"),
    "own code": (with_code, "holds a 'llava_llama' model; supported are llava"),
    "SigLIP": (
        with_siglip,
        "the vision tower is SiglipVisionModel, and token dropping in LlavaForConditionalGeneration",
    ),
    "CLS kept": (
        lambda d: write_config(d, vision_feature_select_strategy="full"),
        "vision_feature_select_strategy='full' is not supported",
    ),
    "no tokenizer": (
        lambda d: [file.unlink() for file in d.glob("tokenizer*")],
        "it has no tokenizer .tokenizer.json or",
    ),
    "no processor": (
        lambda d: [file.unlink() for file in d.glob("*processor*")],
        "it has no image processor .preprocessor_config.json or",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_loaded_is_named(damage: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(UserError, match=message) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_pickle_is_read_where_it_is_asked_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    as_pickle(folder)
    found, original = (
        load(folder, weights="pickle").model.state_dict(),
        load(tiny_checkpoint).model.state_dict(),
    )
    assert found.keys() == original.keys()
    assert all(found[name].equal(original[name]) for name in found)


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hired_eval.models.checkpoint.explain_unreachable", lambda: "HF_HUB_OFFLINE is set")
    with pytest.raises(
        UserError, match=r"could not fetch nobody/nothing from the hub \(HF_HUB_OFFLINE is set\)"
    ):
        load(Path("nobody/nothing"))
