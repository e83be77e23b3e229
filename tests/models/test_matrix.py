"""Every method on tiny random models: batch-safe in both dtypes, and the stock model is as before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hired_eval import TokenDropper
from hired_eval.dropping.registry import build
from hired_eval.method_configs import method_configs
from hired_eval.models import shortened_inputs
from tests import tiny

SIZES = [(112, 112), (60, 200), (100, 75)]
VARIANTS = [
    *((name, tiny.INSIDE.get(name, {})) for name in method_configs()),
    ("hired+fastv", {"hired.budget": 0.4, "fastv.layer": 1}),
    ("hired", {"spend_leftover": True, "newline": "rows", "budget": 0.4}),
    ("prumerge", {"newline": "rows"}),
]
MODELS = {"llava_next": tiny.llava_next, "llava": tiny.llava}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(scope="module", params=[(m, d) for m in MODELS for d in DTYPES], ids="-".join)
def setting(request: pytest.FixtureRequest) -> tuple[Any, Any, torch.Tensor, dict[str, torch.Tensor]]:
    """Model, processor, the stock model's answers to a batch, and a copy of its weights."""
    name, dtype = request.param
    model, processor = MODELS[name]()
    model = model.to(DTYPES[dtype])
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    return model, processor, answers(model, processor, [0, 1, 2]), weights


def answers(model: Any, processor: Any, chosen: list[int]) -> torch.Tensor:
    """(B, 4) new tokens for the chosen pictures, with questions of different length."""
    images = [tiny.picture(*SIZES[i], seed=i) for i in chosen]
    text = [f"a:<image>{'b' * i}?" for i in chosen]
    inputs = processor(images=images, text=text, padding=True, return_tensors="pt").to(model.dtype)
    with torch.inference_mode():
        return model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, -4:]


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What each image is given as visual tokens while the block runs."""
    seen: list[Any] = []
    original = shortened_inputs.make_visual_tokens

    def make_visual_tokens(*args: Any) -> Any:
        made = original(*args)
        seen.extend(made)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(shortened_inputs, "make_visual_tokens", make_visual_tokens)
        yield seen


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_method_on_model(
    name: str, options: dict[str, Any], setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, stock, weights = setting
    dropper: TokenDropper = build(name, **options)
    hooks_before, attributes = hooks(model), set(vars(model))
    with dropper(model), watched(monkeypatch) as together:
        batch = answers(model, processor, [0, 1, 2])
    with dropper(model), watched(monkeypatch) as alone:
        single = torch.cat([answers(model, processor, [i]) for i in range(3)])
    assert len(together) == len(alone) == 3
    for a, b in zip(together, alone, strict=True):
        assert a.packed.index.equal(b.packed.index)
        assert a.packed.partition.equal(b.packed.partition)
        assert a.embeddings.equal(b.embeddings)
        assert a.counts == b.counts
        assert a.counts.kept > 0
        assert a.counts.allowed is None or a.counts.kept <= a.counts.allowed
        assert a.embeddings.dtype == model.dtype
    # with random weights in 16 bits two tokens can tie, and which wins depends on the machine's order of sums
    assert batch.equal(single) or model.dtype == torch.bfloat16
    assert hooks(model) == hooks_before
    assert set(vars(model)) == attributes
    assert all(v.equal(weights[k]) for k, v in model.state_dict().items())
    assert answers(model, processor, [0, 1, 2]).equal(stock)


@pytest.mark.parametrize(
    "name", [n for n, c in method_configs().items() if "budget" in c.options and n not in tiny.INSIDE]
)
def test_a_budget_of_no_token_still_answers(name: str, llava_next: tuple[Any, Any]) -> None:
    model, processor = llava_next
    with build(name, budget=0.001)(model):
        assert answers(model, processor, [0, 1]).shape == (2, 4)
