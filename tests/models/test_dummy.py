"""Dummy weights: the published shapes, without the hub."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hired_eval.dropping import HiRED
from hired_eval.errors import UserError
from hired_eval.models import checkpoint as loading
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import load_checkpoint
from hired_eval.models.configs import model_configs
from hired_eval.models.dummy import dummy_model, dummy_processor
from hired_eval.models.families import FAMILIES
from hired_eval.models.published import published_config
from tests import tiny

# parameters of the published checkpoints, in millions
PARAMETERS = {
    "llava_1_5_7b": 7063,
    "llava_1_5_13b": 13351,
    "sharegpt4v_7b": 7063,
    "llava_next_7b": 7063,
    "llava_next_13b": 13351,
    "llava_next_mistral_7b": 7567,
    "llama3_llava_next_8b": 8355,
    "llava_next_34b": 34752,
    "llava_next_72b": 72667,
    "llava_onevision_0_5b": 894,
    "llava_onevision_7b": 8031,
    "internvl3_1b": 938,
    "internvl3_2b": 2089,
    "internvl3_8b": 7944,
    "internvl3_14b": 15117,
    "qwen2_5_vl_3b": 3755,
    "qwen2_5_vl_7b": 8292,
    "qwen3_vl_4b": 4438,
    "qwen3_vl_8b": 8767,
}


def test_every_hub_model_has_its_published_shape() -> None:
    hub_ids = {
        name: config["hub_id"] for name, config in model_configs().items() if config["weights"] != "dummy"
    }
    hub_ids = {name: hub_id for name, hub_id in hub_ids.items() if hub_id}
    assert set(PARAMETERS) == set(hub_ids)
    for name, hub_id in hub_ids.items():
        config = published_config(hub_id)
        assert config is not None
        with torch.device("meta"):
            model = FAMILIES[config.model_type].stock(config)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6) == PARAMETERS[name]


def test_another_hub_id_has_no_published_shape() -> None:
    assert published_config("someone/else") is None


def small(hub_id: str) -> Any:
    """A published architecture, narrowed and shortened."""
    config = published_config(hub_id)
    assert config is not None
    for part, kv_heads in ((config.vision_config, None), (config.text_config, 2)):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers, part.num_attention_heads = (
            32,
            48,
            2,
            4,
        )
        if kv_heads:
            part.num_key_value_heads, part.head_dim = kv_heads, 8
    return config


@pytest.mark.parametrize(
    "hub_id",
    [
        "llava-hf/llava-1.5-7b-hf",
        "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "llava-hf/llava-v1.6-34b-hf",
        "OpenGVLab/InternVL3-1B-hf",
    ],
)
def test_a_small_dummy_answers(hub_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "published_config", small)
    checkpoint = load_checkpoint(hub_id, dtype="bfloat16", device="cpu", weights="dummy", seed=1)
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.bfloat16}
    llava = DroppingVLM(checkpoint, HiRED(budget=0.2), "USER: {images}\n{question} ASSISTANT:")
    prepared = llava.prepare(Question("What is the total amount?", (tiny.picture(700, 500),)))
    (answer,) = llava.answer([prepared], {"max_new_tokens": 4, "min_new_tokens": 4})
    full = answer.counts[0].full
    if "InternVL" in hub_id:
        assert full % 256 == 0
        assert full > 256
    else:
        assert full == 576 if "1.5" in hub_id else full > 4 * 576 * 0.9
    assert 0 < answer.counts[0].kept <= answer.counts[0].allowed
    assert answer.text


def test_weights_follow_the_seed_and_nothing_is_left_unfilled() -> None:
    config = small("llava-hf/llava-v1.6-vicuna-7b-hf")
    state = torch.random.get_rng_state()
    first, again, other = (
        dummy_model(config, torch.float32, torch.device("cpu"), "sdpa", seed).state_dict()
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in first.items():
        assert tensor.isfinite().all()
        assert torch.equal(tensor, again[name])
        if tensor.dim() > 1:
            assert 0 < tensor.std() < 1
            assert not torch.equal(tensor, other[name])


def test_buffers_are_those_of_a_model_built_the_usual_way() -> None:
    config = small("llava-hf/llava-v1.6-mistral-7b-hf")
    dummy = dict(dummy_model(config, torch.bfloat16, torch.device("cpu"), "sdpa", 0).named_buffers())
    usual = dict(FAMILIES["llava_next"].stock._from_config(config, dtype=torch.bfloat16).named_buffers())
    assert dummy.keys() == usual.keys()
    for name, buffer in usual.items():
        assert buffer.dtype == dummy[name].dtype
        assert torch.equal(buffer, dummy[name])


def test_a_local_folder_gives_its_own_shape_and_tied_weights(tiny_checkpoint: Path) -> None:
    dummy = load_checkpoint(str(tiny_checkpoint), device="cpu", weights="dummy", dtype="float32")
    real = load_checkpoint(str(tiny_checkpoint), device="cpu", dtype="float32")
    shapes = {name: p.shape for name, p in real.model.named_parameters()}
    assert shapes == {name: p.shape for name, p in dummy.model.named_parameters()}
    assert not torch.equal(dummy.model.lm_head.weight, real.model.lm_head.weight)
    config = small("llava-hf/llava-1.5-7b-hf")
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    tied = dummy_model(config, torch.float32, torch.device("cpu"), "sdpa", 0)
    assert tied.lm_head.weight.data_ptr() == tied.get_input_embeddings().weight.data_ptr()


def test_special_tokens_have_the_published_ids_and_text_survives() -> None:
    tokenizer = dummy_processor(published_config("llava-hf/llava-1.5-7b-hf")).tokenizer
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<image>", "<pad>"]) == [
        0,
        1,
        2,
        32000,
        32001,
    ]
    text = "USER: <image>\nWas heißt “Ünïcode”? ASSISTANT:"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 1
    assert ids.count(32000) == 1
    assert tokenizer.decode(ids[1:]) == text
    assert len(tokenizer.decode([31999, 12345])) > 2


@pytest.mark.parametrize(
    "option", [{"device_map": "auto"}, {"quantization": "none", "device_map": "balanced"}]
)
def test_dummy_weights_on_several_devices_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(UserError, match="weights=dummy goes onto one device"):
        load_checkpoint("llava-hf/llava-1.5-7b-hf", weights="dummy", **option)
