"""No tensor is made on the wrong device: the chain runs on a second kind of device that refuses CPU tensors.

The device is a stand-in: its tensors say that they are on `meta`, keep their numbers on the CPU, and an
operation that mixes them with tensors of the CPU fails, as it would on a GPU.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hired_eval.dropping import Layouts, TokenDropper
from hired_eval.dropping.registry import build
from hired_eval.dropping.testing import LAYOUTS, join, synthetic_encoding
from hired_eval.errors import UserError
from hired_eval.method_configs import method_configs
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint, refuse_offloading
from tests import tiny

SECOND = torch.device("meta")


class Elsewhere(torch.Tensor):
    """A tensor of the second device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=SECOND,
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return on_second_device(function, args, kwargs or {})


def on_second_device(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation where its tensors are.

    Raises:
        AssertionError: its tensors are on both devices; numbers without dimensions may be on the CPU.
    """
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    here = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() > 0]
    copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if there and here and not copies:
        raise AssertionError(f"{function} mixes devices: {[tuple(t.shape) for t in tensors]}")
    wanted = kwargs.get("device")
    target = bool(there) if wanted is None else torch.device(wanted).type == SECOND.type
    if wanted is not None and target:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if function is torch.ops.aten.copy_.default:
        target = isinstance(args[0], Elsewhere)
    known = {id(t.inner): t for t in there}
    args, kwargs = tree_map_only(Elsewhere, lambda t: t.inner, (args, kwargs))
    result = function(*args, **kwargs)
    if not target:
        return result
    return tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else Elsewhere(t), result)


class SecondDevice(TorchDispatchMode):
    """Makes tensors on the second device where a factory is asked for it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket is torch.ops.aten.to:  # arrives whole in inference mode; a copy is within
            with self:
                return function.decompose(*args, **(kwargs or {}))
        return on_second_device(function, args, kwargs or {})


class Literals(TorchFunctionMode):
    """Makes numbers written in Python on the CPU and copies them, since `meta` would forget them."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            device = kwargs.pop("device", None)
            made = function(*args, **kwargs)
            return made if device is None else made.to(device)
        return function(*args, **kwargs)


@contextmanager
def moved(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The model on the second device while the block runs."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is not None:
                    before.append((store, name, tensor))
                    with torch.inference_mode():  # where the chain runs; views of other tensors fail there
                        store[name] = Elsewhere(tensor.detach())
    try:
        with Literals(), SecondDevice():
            yield model
    finally:
        for store, name, tensor in before:
            store[name] = tensor


def chain(model: Any, processor: Any, dropper: TokenDropper) -> tuple[list[str], list[float]]:
    """Answers and losses for a batch of two questions about pictures of different shapes."""
    llava = DroppingVLM(Checkpoint(model, processor), dropper, "{images}{question}:")
    questions = [Question("What?", (tiny.picture(100, 60),)), Question("No?", (tiny.picture(50, 120, 1),))]
    answers = llava.answer([llava.prepare(q) for q in questions], {"max_new_tokens": 3})
    scored = llava.likelihood([llava.prepare(q, " yes") for q in questions])
    return [a.text for a in answers], [s.loss for s in scored]


@pytest.fixture(scope="module")
def eager() -> dict[str, tuple[Any, Any]]:
    """Models whose attention is made of plain operations, which the stand-in can follow."""
    made = {"llava_next": tiny.llava_next(), "llava": tiny.llava()}
    for model, _ in made.values():
        model.set_attn_implementation("eager")
    return made


def test_the_stand_in_refuses_a_mix() -> None:
    with SecondDevice():
        there = torch.ones(3, device=SECOND)
        assert there.device == SECOND
        assert (there + 1).sum().item() == 6
        assert there.to("cpu").device.type == "cpu"
        with pytest.raises(AssertionError, match="mixes devices"):
            there + torch.ones(3)
        with pytest.raises(AssertionError, match="mixes devices"):
            there[torch.tensor([0, 1])]


@pytest.mark.parametrize("method", method_configs())
@pytest.mark.parametrize("architecture", ["llava_next", "llava"])
def test_the_chain_on_a_second_device(
    eager: dict[str, tuple[Any, Any]], architecture: str, method: str
) -> None:
    model, processor = eager[architecture]
    has_budget = "budget" in method_configs()[method].options
    options = {"budget": 0.4} if has_budget else {}
    dropper = build(method, **tiny.INSIDE.get(method, options))
    answers, losses = chain(model, processor, dropper)
    with moved(model):
        there, losses_there = chain(model, processor, dropper)
    assert there == answers
    assert losses_there == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("method", method_configs())
def test_a_pass_copies_once_to_the_host(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all pictures together, and not before the tokens are chosen."""
    copied: list[str] = []
    original = on_second_device

    def noting(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        result = original(function, args, kwargs)
        if any(isinstance(t, Elsewhere) for t in tree_leaves((args, kwargs))) and not any(
            isinstance(t, Elsewhere) for t in tree_leaves(result)
        ):
            copied.append(str(function))
        return result

    stage = build(method).vision
    encodings = [synthetic_encoding(stage, layout) for layout in LAYOUTS]
    expected = stage.select(join(encodings), Layouts(LAYOUTS))
    monkeypatch.setattr(sys.modules[__name__], "on_second_device", noting)
    monkeypatch.setattr(Elsewhere, "tolist", lambda self: copied.append("tolist") or self.inner.tolist())
    with Literals(), SecondDevice():
        encoding, layouts = join(encodings, SECOND), Layouts(LAYOUTS, SECOND)
        copied.clear()
        kept = stage.drop(encoding, layouts)
        assert copied == []
        found = stage.pack(kept, layouts).images(encoding)
        assert copied == ["tolist"]
        for packed, wanted in zip(found, expected, strict=True):
            assert packed.features.device == SECOND
            assert packed.index.tolist() == wanted.index.tolist()
            assert packed.partition.tolist() == wanted.partition.tolist()


@pytest.mark.parametrize(
    ("placed", "fits"),
    [
        ({"": "cpu"}, True),
        ({"model.vision_tower": 0, "model.language_model": 1}, True),
        ({"model.vision_tower": 0, "lm_head": "cpu"}, False),
        ({"model.vision_tower": 0, "lm_head": "disk"}, False),
        ({"model.vision_tower": "cpu", "lm_head": "disk"}, False),
    ],
)
def test_a_model_that_does_not_fit_is_refused(placed: dict[str, Any], fits: bool) -> None:
    if fits:
        assert refuse_offloading(placed) is None
    else:
        with pytest.raises(UserError, match="the model does not fit"):
            refuse_offloading(placed)
