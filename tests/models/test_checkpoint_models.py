"""How a checkpoint is loaded: dtype, devices, attention backend, quantization, layouts."""

import json
from pathlib import Path

import pytest
import torch
from loguru import logger
from transformers.quantizers.quantizers_utils import should_convert_module

from hired_eval.dropping import HiRED
from hired_eval.errors import UserError
from hired_eval.mini import checkpoint_path
from hired_eval.models import checkpoint as loading
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import load_checkpoint, not_quantized
from hired_eval.models.configs import model_configs
from hired_eval.models.families import FAMILIES
from tests import tiny


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype(tiny_checkpoint: Path, dtype: str) -> None:
    model = load_checkpoint(str(tiny_checkpoint), dtype=dtype, device="cpu").model
    assert {p.dtype for p in model.parameters()} == {loading.DTYPES[dtype]}
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(("capability", "slow"), [("AVX2", True), ("AVX512", False)])
def test_16_bit_is_said_to_be_slow_where_it_is(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capability: str, slow: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING")
    load_checkpoint(str(tiny_checkpoint), dtype="float32", device="cpu")
    assert said == []
    load_checkpoint(str(tiny_checkpoint), dtype="float16", device="cpu")
    logger.remove(sink)
    assert len(said) == slow
    assert all("float16 is slow on this CPU, which lacks AVX-512; float32" in line for line in said)


def answer(checkpoint: loading.Checkpoint) -> tuple[str, float]:
    llava = DroppingVLM(checkpoint, HiRED(budget=0.5), "{images}{question}:")
    question = Question("What?", (tiny.picture(100, 60),))
    (said,) = llava.answer([llava.prepare(question)], {"max_new_tokens": 6})
    (scored,) = llava.likelihood([llava.prepare(question, "abc")])
    return said.text, scored.loss


@pytest.mark.parametrize(
    "options", [{"attention": "eager"}, {"device_map": "auto"}, {"device_map": "sequential"}]
)
def test_same_answer_with_other_backend_or_placement(tiny_checkpoint: Path, options: dict[str, str]) -> None:
    text, loss = answer(load_checkpoint(str(tiny_checkpoint), dtype="float32", device="cpu"))
    other = load_checkpoint(str(tiny_checkpoint), dtype="float32", **options)
    if "attention" in options:
        assert other.model.config._attn_implementation == options["attention"]
    other_text, other_loss = answer(other)
    assert other_text == text
    assert other_loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"device": "gpu"}, "device 'gpu' is not known"),
        ({"device_map": "cuda:0"}, "one device is chosen with device="),
        ({"device_map": "every"}, "device_map must be one of auto"),
        ({"attention": "fast"}, "attention must be one of sdpa, eager, flash_attention_2"),
        ({"quantization": "2bit"}, "quantization must be one of none, 8bit, 4bit"),
    ],
)
def test_bad_option_is_refused_by_name(tiny_checkpoint: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_checkpoint(str(tiny_checkpoint), **options)


@pytest.mark.skipif(loading.is_flash_attn_2_available(), reason="flash-attn is installed")
def test_flash_attention_not_installed(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="needs the package flash-attn"):
        load_checkpoint(str(tiny_checkpoint), attention="flash_attention_2")


@pytest.mark.skipif(loading.is_bitsandbytes_available(), reason="bitsandbytes is installed")
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_bitsandbytes_not_installed(tiny_checkpoint: Path, kind: str) -> None:
    with pytest.raises(UserError, match=f"quantization={kind} needs bitsandbytes: pip install bitsandbytes"):
        load_checkpoint(str(tiny_checkpoint), quantization=kind)


def test_only_the_language_model_is_quantized() -> None:
    model, _ = tiny.llava_next()
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    quantized = [
        name for name in linear if should_convert_module(name, not_quantized(FAMILIES["llava_next"]))
    ]
    assert quantized
    assert all(name.startswith("model.language_model.") for name in quantized)
    assert len(quantized) == sum(name.startswith("model.language_model.") for name in linear)


def test_original_llava_layout_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "share4v", "mm_vision_tower": "tower"}))
    with pytest.raises(UserError, match=r"original LLaVA layout; convert .*convert_sharegpt4v\.py"):
        load_checkpoint(str(tmp_path))


def test_every_model_config_has_the_same_options() -> None:
    configs = model_configs()
    for name, config in configs.items():
        # of the families that read pictures at their own resolution
        own = {"min_pixels", "max_pixels", "square"} if "_vl_" in name else set()
        assert config.keys() == configs["mini"].keys() | own
        assert config["name"] == name
        assert (config["hub_id"] is None) == str(config["path"]).startswith("bundled:")


def test_bundled_single_partition_model() -> None:
    name = model_configs()["mini_1_5"]["path"].removeprefix("bundled:")
    checkpoint = load_checkpoint(str(checkpoint_path(name)), dtype="float32", device="cpu")
    llava = DroppingVLM(checkpoint, HiRED(budget=0.25), model_configs()["mini_1_5"]["prompt"])
    prepared = llava.prepare(Question("What is shown?", (tiny.picture(224, 112),)))
    (answered,) = llava.answer([prepared], {"max_new_tokens": 4})
    full = checkpoint.model.config.image_seq_length
    assert (answered.counts[0].full, answered.counts[0].kept) == (full, full // 4)
