"""Methods inside the language model, against the authors' functions; see reference/methods/README.md."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from hired_eval.dropping.dart import DART, take_in_turn
from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.layer_stage import LayerSignal, LayerSignals, LayerStage
from hired_eval.dropping.pyramiddrop import PyramidDrop
from hired_eval.dropping.sparsevlm import SparseVLM, recycled
from hired_eval.models.layer_signals import attention_of
from tests.reference_inputs import arrays, cases, digest

N = 576


class Draw:
    """Numbers in the order in which the recipes draw them."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator, dtype=torch.int64)

    def uniform(self, *shape: int) -> Tensor:
        return (self.whole(0, 65536, *shape) - 32768).float() / 32768


def named(method: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases(f"methods/{method}")["cases"]]


def mask(packed: np.ndarray, count: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed.reshape(-1))[:count].astype(bool))


def kept(stage: LayerStage, count: int, visual: Tensor, **values: Tensor) -> tuple[Tensor, Tensor]:
    """Which columns stay, and their scores; text is what follows the last visual token."""
    last = int(visual.nonzero()[-1, 0])
    text = (torch.arange(len(visual)) > last)[None]
    given: dict[LayerSignal, Tensor] = {name: value[None] for name, value in values.items()}  # type: ignore[misc]
    signals = LayerSignals(visual[None], text, given)
    scores = stage.score(signals)
    return stage.kept(scores, signals, torch.tensor([count]))[0], scores[0]


def places(case: dict[str, Any], now: int) -> Tensor:
    """(L,) bool: the image's tokens among text before and behind."""
    before, behind = case["tokens_before_image"], case["tokens_after_image"]
    return torch.tensor([False] * before + [True] * now + [False] * behind)


def attention_like(seed: int, kind: str) -> Tensor:
    """(16, 576) exact float32, step by step as the recipe of partitions says."""
    draw = Draw(seed)
    cy, cx = draw.whole(3, 21, 1), draw.whole(3, 21, 1)
    r, c = draw.whole(0, 65536, 16, N), 16 * draw.whole(1, 65536, 16, 1)
    y, x = torch.arange(N) // 24, torch.arange(N) % 24
    p = r
    for _ in range(3):
        p = (p * p) >> 16
    weights = {
        "flat": 40000 + (r >> 2),
        "peaky": p + 256,
        "ramp": (p + 1024) * (1 + x),
        "blob": (4096 + (r >> 3)) * (1 + 15 * (((y - cy) ** 2 + (x - cx) ** 2) <= 25).long()),
    }[kind]
    a = torch.cat([c, weights], dim=1)
    return (((a << 26) // a.sum(1, keepdim=True))[:, 1:].double() / 2**26).float()


@pytest.mark.parametrize("case", named("fastv"))
def test_fastv(case: dict[str, Any]) -> None:
    parts = [attention_like(seed, case["attn"]) for seed in case["seeds"]]
    assert digest(torch.stack(parts)) == case["sha256_16_attention"]
    count = N * case["partitions"]
    visual = places(case, count)
    row = torch.zeros(16, len(visual))
    row[:, visual] = torch.cat(parts, dim=1)
    stays, _ = kept(FastV(), case["rank"], visual, attention=row)
    assert stays[visual].equal(mask(arrays("methods/fastv")[case["name"]], count))
    everything = (stays | ~visual).nonzero()[:, 0]
    assert [int(everything[0]), int(everything[-1])] == case["positions_kept_first_last"]
    assert int(everything.sum()) == case["position_sum"]


@pytest.mark.parametrize("case", named("dart"))
def test_dart(case: dict[str, Any]) -> None:
    draw, visual = Draw(case["seed"]), places(case, case["image_tokens"])
    length, width = len(visual), case["D"]
    keys = draw.uniform(length, width)
    scale = draw.whole(1, 9, length, 1)
    states, centres = draw.uniform(length, width), draw.uniform(6, width)
    label = draw.whole(0, 6, length)
    keys = keys * (scale.float() / 8)
    states = states + centres[label] * (case["boost"] / 8)
    assert digest(keys) == case["sha256_16_keys"]
    assert digest(states) == case["sha256_16_states"]
    signals = {"key_norms": keys.abs().sum(1), "normed_states": states}
    expected, before = arrays("methods/dart"), case["tokens_before_image"]
    pivots = {"pivot_image": case["pivot_image"], "pivot_text": case["pivot_text"]}
    count = DART(**pivots).rounded(case["T"], case["image_tokens"])
    assert count == case["kept"]
    for order in ("norm", "ascending"):
        stays, _ = kept(DART(order=order, **pivots), count, visual, **signals)  # type: ignore[arg-type]
        assert stays[visual].equal(mask(expected[f"{case['name']}_{order}"], case["image_tokens"])), order
    # the order of a set in Python, which nothing here follows
    columns = torch.tensor(case["pivots_cpython_set"]) + before
    unit = torch.nn.functional.normalize(states, dim=1)
    first = torch.zeros_like(visual).index_fill(0, columns, True) & visual
    stays = take_in_turn(
        (unit[columns] @ unit.T)[None], torch.ones(1, len(columns)).bool(), first[None], visual[None],
        torch.tensor([case["T"] // len(columns)]), torch.tensor([count]),
    )[0]  # fmt: skip
    assert stays[visual].equal(mask(expected[f"{case['name']}_cpython_set"], case["image_tokens"]))


@pytest.mark.parametrize("case", named("pyramiddrop"))
@torch.no_grad()
def test_pyramiddrop(case: dict[str, Any]) -> None:
    draw, now = Draw(case["seed"]), case["image_tokens_now"]
    visual = places(case, now)
    length, width, heads = len(visual), case["hidden"], case["heads"]
    hidden = draw.uniform(length, width)
    query, key = draw.uniform(width, width) / 4, draw.uniform(width, width) / 4
    norm = 1 + draw.uniform(width) / 4
    centres, label = draw.uniform(4, width), draw.whole(0, 4, length)
    hidden = hidden + centres[label] * (case["boost"] / 8)
    assert digest(hidden) == case["sha256_16_hidden"]
    assert [digest(query), digest(key), digest(norm)] == [
        case["sha256_16_wq"], case["sha256_16_wk"], case["sha256_16_norm"]
    ]  # fmt: skip
    config = LlamaConfig(
        hidden_size=width, intermediate_size=8, num_attention_heads=heads, num_key_value_heads=heads,
        rms_norm_eps=cases("methods/pyramiddrop")["meta"]["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    layer = LlamaDecoderLayer(config, 0)
    layer.self_attn.q_proj.weight.copy_(query)
    layer.self_attn.k_proj.weight.copy_(key)
    layer.input_layernorm.weight.copy_(norm)
    positions = torch.arange(length)[None]
    row = attention_of(
        layer.self_attn, layer.input_layernorm(hidden[None]),
        LlamaRotaryEmbedding(config)(hidden[None], positions), torch.tensor([[length - 1]]),
        torch.ones(1, 1), positions, torch.ones(1, length).bool(),
    )[0]  # fmt: skip
    stage = PyramidDrop(ratios=case["ratios"])
    layers = stage.layers(32)
    count = stage.left(case["image_tokens_original"], 32, 0)[layers[case["stage"]]]
    assert count == case["image_tokens_kept"]
    stays, scores = kept(stage, count, visual, own_attention=row)
    expected = arrays("methods/pyramiddrop")
    assert stays[visual].equal(mask(expected[case["name"]], now))
    torch.testing.assert_close(
        scores[visual][:: case["scores_every"]],
        torch.from_numpy(expected[f"{case['name']}_scores"]),
        atol=1e-6,
        rtol=0,
    )


def test_pyramiddrop_acts_where_the_authors_let_it_act() -> None:
    assert PyramidDrop().left(576, 32, 0) == {8: 288, 16: 144, 24: 72}


@pytest.mark.parametrize("case", named("sparsevlm"))
def test_sparsevlm(case: dict[str, Any]) -> None:
    draw, n, m, width = Draw(case["seed"]), case["image_tokens"], case["text_tokens"], case["D"]
    image, text = draw.uniform(n, width), draw.uniform(m, width)
    r = draw.whole(0, 65536, case["heads"], m, n)
    centres, label = draw.uniform(8, width), draw.whole(0, 8, n)
    spread = draw.uniform(n, width)
    w = r + 1
    w = ((w * w) >> 16) + 1
    attention = (((w << 24) // (2 * w.sum(-1, keepdim=True))).double() / 2**24).float()
    states = centres[label] + spread * 0.5
    made = {"image": image, "text": text, "attention": attention, "states": states}
    assert {name: digest(t) for name, t in made.items()} == {name: case[f"sha256_16_{name}"] for name in made}
    stage, expected, name = SparseVLM(), arrays("methods/sparsevlm"), case["name"]
    visual = torch.tensor([True] * n + [False] * m)
    words = torch.arange(n, n + m)[None]
    raters = stage.raters(
        torch.cat([image, text])[None], visual[None], words, torch.ones(1, m, dtype=torch.bool)
    )[0]
    assert raters.nonzero()[:, 0].tolist() == expected[f"{name}_raters"].tolist()
    rows = torch.zeros(case["heads"], n + m)
    rows[:, :n] = attention[:, raters].mean(dim=1)
    stays, scores = kept(stage, case["kept"], visual, attention=rows)
    assert stays[:n].equal(mask(expected[name], n))
    torch.testing.assert_close(scores[:n], torch.from_numpy(expected[f"{name}_scores"]), atol=1e-7, rtol=0)
    leaves = n - case["kept"]
    assert (recycled(leaves), stage.merged(leaves)) == (case["recycled_candidates"], case["merged_tokens"])
    centre, merged = stage.merge(scores, torch.cat([states, torch.zeros(m, width)]), visual & ~stays, leaves)
    assert (visual & ~stays)[centre].all()
    torch.testing.assert_close(merged, torch.from_numpy(expected[f"{name}_merged"]), atol=1e-5, rtol=0)


def test_sparsevlm_reaches_the_published_average_with_the_published_counts() -> None:
    stage = SparseVLM()
    assert stage.left(N, 32, 0) == {2: 300, 6: 200, 15: 110}
