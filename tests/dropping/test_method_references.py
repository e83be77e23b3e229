"""SCOPE, VisPruner, HoloV, GlobalCom2, HiPrune, CDPruner and DART's rule: what their authors' code keeps."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hired_eval import SCOPE, CDPruner, DARTEmbedding, GlobalCom2, HiPrune, HoloV, VisionEncoding, VisPruner
from hired_eval.dropping import Layouts
from hired_eval.dropping.cdpruner import order_by_determinant
from hired_eval.dropping.dart_embedding import choose_unlike_pivots
from hired_eval.dropping.scope import order_by_coverage
from hired_eval.models.signals import received_attention
from tests.method_inputs import (
    Draws,
    layouts_of,
    mask_kept,
    method_arrays,
    method_cases,
    partition,
    partitions,
)
from tests.reference_inputs import N, digest, unpack_mask

FEATURE_LAYER = 22


def expected(method: str, name: str) -> Tensor:
    return unpack_mask(method_arrays(method)[name])


def encoding_of(case: dict[str, Any]) -> VisionEncoding:
    attention, features = partitions(case)
    assert digest(attention) == case["sha256_16_attention"]
    assert digest(features) == case["sha256_16_features"]
    return VisionEncoding(features, {FEATURE_LAYER: attention}, feature_layer=FEATURE_LAYER)


@pytest.mark.parametrize("name", method_cases("scope"))
def test_scope(name: str) -> None:
    case = method_cases("scope")[name]
    encoding, layouts = encoding_of(case), layouts_of(case)
    how = {"multi": "multiply", "add": "add"}[case["combined"]]
    method, count = SCOPE(alpha=case["alpha"], combined=how), case["tokens_per_partition"]
    kept = method.keep(encoding, layouts, [count * layouts.partitions])
    assert mask_kept(kept).equal(expected("scope", name))
    if count <= 64:  # the same function takes as long again
        saliency = encoding.cls_attention[FEATURE_LAYER].sum(dim=1) ** case["alpha"]
        order = order_by_coverage(encoding.features, saliency, count, how)
        assert order.tolist() == method_arrays("scope")[f"{name}_order"].tolist()


@pytest.mark.parametrize("name", method_cases("vispruner"))
def test_vispruner(name: str) -> None:
    case = method_cases("vispruner")[name]
    layouts, method = layouts_of(case), VisPruner(important=case["important_ratio"])
    kept = method.keep(encoding_of(case), layouts, [case["tokens_per_partition"] * layouts.partitions])
    assert mask_kept(kept).equal(expected("vispruner", f"{name}_capped" if "error" in case else name))


@pytest.mark.parametrize("within", ["attention", "combined"])
@pytest.mark.parametrize("name", method_cases("holov"))
def test_holov(name: str, within: Any) -> None:
    case = method_cases("holov")[name]
    encoding, layouts = encoding_of(case), layouts_of(case)
    if case["mode"] == "partition":
        layouts = Layouts(layouts_of({**case, "grid": [0, 0]}).images * layouts.partitions)
    method = HoloV(bands=case["bands"], within=within)
    kept = method.keep(encoding, layouts, [case["tokens_asked_per_call"]] * len(layouts))
    listed = method_arrays("holov")[name if within == "attention" else f"{name}_combined"].astype(np.int64)
    mask = torch.zeros(layouts.partitions * N, dtype=torch.bool)
    mask[torch.from_numpy(listed)] = True
    assert mask_kept(kept).flatten().equal(mask)
    assert int(kept.counts.sum()) == sum(case["kept_per_call"])


def cls_and_keys(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """CLS queries (P, 64) and keys (P, 577, 64)."""
    queries, keys = [], []
    for seed, pattern, boost in zip(case["seeds"], case["patterns"], case["boosts"], strict=True):
        draws = Draws(seed)
        near, q, k = draws.blob(), draws.u(64), draws.u(577, 64)
        y, x = torch.arange(N) // 24, torch.arange(N) % 24
        weight = {
            "noise": 0 * x, "blob": 8 * near, "ramp": x // 3, "down": y // 3, "negative": -(x // 3) - 2,
        }[pattern]  # fmt: skip
        k[1:] += q * (weight * (boost / 64))[:, None]
        queries.append(q)
        keys.append(k)
    return torch.stack(queries), torch.stack(keys)


@pytest.mark.parametrize("kind", ["logit", "softmax"])
@pytest.mark.parametrize("name", method_cases("globalcom2"))
def test_globalcom2(name: str, kind: str) -> None:
    case = method_cases("globalcom2")[name]
    query, keys = cls_and_keys(case)
    assert digest(query) == case["sha256_16_cls_query"]
    assert digest(keys) == case["sha256_16_keys"]
    heads = torch.zeros(len(query), 16, N)
    encoding = VisionEncoding(
        torch.zeros(len(query), N, 1), {FEATURE_LAYER: heads}, keys, query, FEATURE_LAYER
    )
    method = GlobalCom2(budget=case["ratio"], scores="logit" if kind == "logit" else "attention")
    kept = method.drop(encoding, layouts_of(case))
    assert kept.counts.tolist() == case[kind]["counts"]
    assert mask_kept(kept).equal(expected("globalcom2", f"{name}_{kind}"))


def received(case: dict[str, Any], layer: str) -> Tensor:
    """(P, N) attention received in the "object" or the "deep" layer."""
    attention = torch.stack([partition(s, case[f"attn_{layer}"], {})[0] for s in case[f"seeds_{layer}"]])
    assert digest(attention) == case[f"sha256_16_{layer}"]
    return attention.mean(dim=1)


def keep_by_hiprune(case: dict[str, Any], layers: dict[int, Tensor], *, wrap: bool) -> Tensor:
    layouts = layouts_of(case)
    encoding = VisionEncoding(torch.zeros(layouts.partitions, N, 1), {}, None, None, FEATURE_LAYER, layers)
    method = HiPrune(alpha=case["alpha"], wrap=wrap)
    assert method.received_layers(FEATURE_LAYER) == {8, FEATURE_LAYER}
    return mask_kept(method.keep(encoding, layouts, [case["tokens_per_partition"] * layouts.partitions]))


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("name", [n for n in method_cases("hiprune") if n not in ("qk", "too_small")])
def test_hiprune(name: str, wrap: bool) -> None:
    case = method_cases("hiprune")[name]
    kept = keep_by_hiprune(case, {8: received(case, "object"), 22: received(case, "deep")}, wrap=wrap)
    assert kept.equal(expected("hiprune", name if wrap else f"{name}_no_wrap"))


def test_hiprune_keeps_its_anchors_where_neighbours_exceed_the_budget() -> None:
    case = method_cases("hiprune")["too_small"]
    layers = {8: received(case, "object"), 22: received(case, "deep")}
    (kept,) = keep_by_hiprune(case, layers, wrap=False)
    anchor = int(layers[8][0].argmax())
    assert kept.sum() == 3
    assert kept[anchor]
    near = {anchor - 24, anchor - 1, anchor + 1, anchor + 24}
    assert set(kept.nonzero().flatten().tolist()) - {anchor} <= near


def test_attention_received_of_hiprune() -> None:
    case, known = method_cases("hiprune")["qk"], method_arrays("hiprune")
    draws = Draws(case["seed"])
    q8, k8, q22, k22 = (2 * draws.u(577, 64) for _ in range(4))
    layers = {}
    for layer, name, q, k in ((8, "object", q8, k8), (22, "deep", q22, k22)):
        assert digest(q) == case[f"sha256_16_q_{name}"]
        layers[layer] = received_attention(q[None], k[None], 16)[:, 1:]
        torch.testing.assert_close(
            layers[layer][0], torch.from_numpy(known[f"qk_received_{name}"]), atol=1e-7, rtol=0
        )
    assert keep_by_hiprune(case, layers, wrap=True)[0].equal(expected("hiprune", "qk")[0])


@cache
def features_and_relevance(name: str) -> tuple[Tensor, Tensor]:
    """Features (P, N, C), and (P, N) the mean cosine similarity to the segments of the question."""
    case = method_cases("cdpruner")[name]
    text = Draws(case["text_seed"]).u(case["M"], case["E"])
    features, images = [], []
    for seed in case["seeds"]:
        draws, channels = Draws(seed), case["C"]
        near, centres, label = draws.blob(), draws.u(12, channels), draws.ri(0, 12, N)
        noise, offset, e = draws.u(N, channels), draws.u(channels), draws.u(N, case["E"])
        shared, noisy, moved = (case[key] / 8 for key in ("shared", "noise", "offset"))
        features.append(centres[label] * shared + noise * noisy + offset * moved)
        images.append(e + text[0] * (near * (case["tilt"] / 8))[:, None])
    assert digest(torch.stack(features)) == case["sha256_16_features"]
    cosine = normalize(torch.stack(images), dim=-1) @ normalize(text, dim=-1).T
    return torch.stack(features), cosine.mean(dim=-1)


CDPRUNER: dict[str, dict[str, Any]] = {
    "": {"sign": "negative", "theta": None},
    "_positive": {"sign": "positive", "theta": None},
    "_theta": {"sign": "negative", "theta": 0.5},
}


# those whose order is safe in float32
@pytest.mark.parametrize(
    ("name", "variant"),
    [(n, v) for n in method_cases("cdpruner") for v in CDPRUNER if n + v in method_arrays("cdpruner")],
)
def test_cdpruner(name: str, variant: str) -> None:
    case, known, options = method_cases("cdpruner")[name], method_arrays("cdpruner"), CDPRUNER[variant]
    features, relevance = features_and_relevance(name)
    method, layouts = CDPruner(text_tower="a CLIP", **options), layouts_of(case)
    encoding = VisionEncoding(features, {}, recorded_relevance=relevance)
    kept = method.keep(encoding, layouts, [case["tokens_per_partition"] * layouts.partitions])
    assert mask_kept(kept).equal(unpack_mask(known[name + variant]))
    if not variant and case["tokens_per_partition"] <= 64:
        weight = method._weigh(relevance, layouts)
        torch.testing.assert_close(weight, torch.from_numpy(known[f"{name}_relevance"]), atol=1e-6, rtol=0)
        directions = normalize(features, dim=-1)
        kernel = weight[:, :, None] * (directions @ directions.transpose(1, 2)) * weight[:, None]
        order = order_by_determinant(kernel, case["tokens_per_partition"])
        assert order.tolist() == known[f"{name}_order"].tolist()


def test_dart_of_image_pivots() -> None:
    """The rule of DART itself where no pivot is of the text: norms are of keys, likeness is of states."""
    case = method_cases("dart")["image_pivots_only"]
    draws, before, tokens = Draws(case["seed"]), case["tokens_before_image"], case["image_tokens"]
    length, dim = before + tokens + case["tokens_after_image"], case["D"]
    keys, scale, states = draws.u(length, dim), draws.ri(1, 9, length, 1), draws.u(length, dim)
    keys = keys * (scale / 8)
    states = states + draws.u(6, dim)[draws.ri(0, 6, length)] * (case["boost"] / 8)
    norms = keys[before:][:tokens].abs().sum(dim=1)[None]
    pivots = case["pivot_image"]
    number = torch.tensor([pivots + case["T"] // pivots * pivots])
    kept = choose_unlike_pivots(norms, states[before:][:tokens][None], number, pivots)
    mask = np.unpackbits(method_arrays("dart")["image_pivots_only_norm"])[:tokens]
    assert kept[0].equal(torch.from_numpy(mask.astype(bool)))
    assert int(kept.sum()) == case["kept"]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 30, 36])
def test_dart_keeps_exactly_its_budget(count: int) -> None:
    features = torch.randn(1, 36, 8, generator=torch.Generator().manual_seed(0))
    layouts = layouts_of({"grid": [0, 0], "image_size": [9, 9]})
    layouts = Layouts(tuple(type(one)(0, 0, (6, 6), one.image_size) for one in layouts))
    kept = DARTEmbedding().keep(VisionEncoding(features, {}), layouts, [count])
    assert kept.counts.tolist() == [count]
    norms = features[0].abs().sum(dim=1)
    pivots = norms.argsort(descending=True)[: min(count, 4)].tolist()
    assert set(pivots) <= set(kept.indices[0, :count].tolist())
