"""CLS-attention from queries and keys: reference numbers, the stock tower, and no N x N matrix."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hired_eval import DivPrune, Full, HiRED, HiREDReleased, PruMerge, VisionEncoding, VisionZip
from hired_eval.models.families import family_of
from hired_eval.models.signals import cls_attention, received_attention
from tests import tiny
from tests.reference_inputs import arrays, cases, digest, mask_of, unpack_mask, unpadded_layout
from tests.selected import drop

HEADS, CHANNELS, LENGTH = 16, 128, 577


@pytest.mark.parametrize("number", [0, 1])
def test_reference(number: int) -> None:
    case, expected = cases("hired_qk")[number], arrays("hired_qk")
    g = torch.Generator().manual_seed(case["seed"])
    shape = (case["P"], LENGTH, CHANNELS)
    q0, k0, q22, k22 = ((torch.randint(0, 65536, shape, generator=g) - 32768) / 16384 for _ in range(4))
    for query in (q0, q22):
        query[:, 0] *= case["cls_query_boost"]
    assert [digest(t) for t in (q0, k0, q22, k22)] == case["sha256_16"]
    initial, final = cls_attention(q0[:, 0], k0, HEADS), cls_attention(q22[:, 0], k22, HEADS)
    torch.testing.assert_close(
        initial[0].sum(dim=0), torch.from_numpy(expected[f"c{number}_init_sum"]), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        final.sum(dim=1), torch.from_numpy(expected[f"c{number}_final_sum"]), atol=1e-6, rtol=1e-5
    )
    layout = unpadded_layout(case["grid"])
    encoding = VisionEncoding(torch.zeros(case["P"], LENGTH - 1, 1), {0: initial, 22: final})
    masks = unpack_mask(expected[f"c{number}_masks"])
    for run, mask in zip(case["runs"], masks, strict=True):
        kept = drop(HiREDReleased(budget=run["rate"], alpha=run["alpha"]), encoding, layout)
        assert [len(i) for i in kept.indices] == run["budgets"]
        assert mask_of(kept.indices).equal(mask)


def pixels(partitions: int = 3) -> torch.Tensor:
    return torch.randn(partitions, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_every_layer_equals_the_stock_towers_attention(llava_next: tuple[Any, Any]) -> None:
    model, _ = llava_next
    encoder = family_of(model)
    tower = model.model.vision_tower
    implementation = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    stock = tower(pixels(), output_attentions=True, output_hidden_states=True)
    tower.set_attn_implementation(implementation)
    assert encoder.feature_layer == 2
    for layer in range(4):
        encoding = encoder.encode(pixels(), HiRED(initial_layer=layer, final_layer=layer))
        expected = stock.attentions[layer][:, :, 0, 1:]
        torch.testing.assert_close(encoding.cls_attention[layer], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(encoding.features, stock.hidden_states[-2][:, 1:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("method", "layer"), [(PruMerge(), 3), (VisionZip(), 2)], ids=["last", "feature"])
def test_keys_are_those_of_the_layer_that_the_method_names(
    llava_next: tuple[Any, Any], method: Any, layer: int
) -> None:
    model, _ = llava_next
    tower = model.model.vision_tower
    hidden = tower(pixels(), output_hidden_states=True).hidden_states[layer]
    normed = tower.encoder.layers[layer].layer_norm1(hidden)
    encoding = family_of(model).encode(pixels(), method)
    keys, query = encoding.keys, encoding.cls_query
    attention = tower.encoder.layers[layer].self_attn
    torch.testing.assert_close(keys, attention.k_proj(normed), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(query, attention.q_proj(normed)[:, 0], atol=1e-4, rtol=1e-4)


def test_a_method_without_attention_records_nothing(llava_next: tuple[Any, Any]) -> None:
    with torch.no_grad():
        encoding = family_of(llava_next[0]).encode(pixels(), DivPrune())
    assert (dict(encoding.cls_attention), encoding.recorded_keys, encoding.recorded_query) == ({}, None, None)


@dataclass(frozen=True, kw_only=True)
class Receiving(Full):
    """Reads the attention received in three layers; Full needs no CLS token."""

    reads: ClassVar = frozenset({"received_attention"})

    def received_layers(self, feature_layer: int) -> frozenset[int]:
        return frozenset({0, 1, feature_layer})


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny.llava_next, tiny.llava_onevision], ids=["cls", "no-cls"])
def test_attention_received_is_the_column_mean_of_the_stock_attention(make: Any) -> None:
    model, _ = make()
    family, tower = family_of(model), model.model.vision_tower
    encoding = family.encode(pixels(9), Receiving())
    tower.set_attn_implementation("eager")
    stock = tower(pixels(9), output_attentions=True).attentions
    first = int(family.class_token)
    assert encoding.received_attention.keys() == {0, 1, family.feature_layer}
    for layer, received in encoding.received_attention.items():
        expected = stock[layer].mean(dim=(1, 2))[:, first:]
        torch.testing.assert_close(received, expected, atol=1e-6, rtol=1e-4)
        assert encoding.received_at(layer) is received
    assert encoding.received_at(None) is encoding.received_attention[family.feature_layer]
    assert not encoding.cls_attention


def test_attention_received_of_a_partition_does_not_depend_on_the_others() -> None:
    g = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 11, 17, 12, generator=g)
    together = received_attention(queries, keys, 3)
    alone = torch.cat([received_attention(queries[i : i + 1], keys[i : i + 1], 3) for i in range(11)])
    assert together.equal(alone)
    torch.testing.assert_close(together.sum(dim=1), torch.ones(11))


class Shapes(TorchDispatchMode):
    """Remembers the shape of every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        made = output if isinstance(output, tuple | list) else [output]
        self.seen += [tuple(t.shape) for t in made if isinstance(t, torch.Tensor)]
        return output


@torch.no_grad()
def test_no_attention_matrix_is_formed(llava_next: tuple[Any, Any]) -> None:
    """The tower's own attention is fused; CLS rows are read without the other rows."""
    length = tiny.SIDE**2 + 1
    with Shapes() as shapes:
        family_of(llava_next[0]).encode(pixels(), HiRED())
    assert (3, 4, 1, length) in shapes.seen or (3, 4, length) in shapes.seen
    assert not [s for s in shapes.seen if s[-2:] == (length, length)]
    with Shapes() as shapes:
        family_of(llava_next[0]).encode(pixels(), Receiving())
    # one head at a time
    assert {s for s in shapes.seen if s[-2:] == (length, length)} == {(3, length, length)}
    with Shapes() as shapes:
        llava_next[0].model.vision_tower.set_attn_implementation("eager")
        llava_next[0].model.vision_tower(pixels())
        llava_next[0].model.vision_tower.set_attn_implementation("sdpa")
    assert [s for s in shapes.seen if s[-2:] == (length, length)], "the check sees a matrix that is formed"
