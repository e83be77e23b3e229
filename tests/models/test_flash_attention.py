"""FlashAttention, which gives no weights and gets other masks: the stock path to it, on a slow kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration, PreTrainedModel, modeling_flash_attention_utils

from hired_eval.dropping.registry import build
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from tests import tiny

SIZES = [(112, 112), (60, 200)]
METHODS: dict[str, dict[str, Any]] = {
    "hired": {"signal": "auto", "budget": 0.3},
    "prumerge": {"signal": "auto"},
    "hiprune": {},
    "fastv": {"layer": 1, "budget": 0.7},
}
"""One for each kind of signal: rows or columns, keys, columns of several layers, the language model's."""
KINDS: set[bool] = set()
"""Whether attention was causal in the calls of the kernel."""
OF_FAMILY = {
    ("llava_next", "hired"): {"positions": "original"},
    ("qwen2_5_vl", "hired"): {"distribute": "even"},
    ("qwen3_vl", "fastv"): {"layer": 2},
}
FAMILIES = {
    "llava_next": tiny.llava_next,
    "llava_onevision": tiny.llava_onevision,
    "internvl": tiny.internvl,
    "qwen2_5_vl": tiny.qwen2_5_vl,
    "qwen3_vl": tiny.qwen3_vl,
}


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool) -> Tensor:
    """(T, heads, d) attention of one sequence, whose last query sees all keys."""
    KINDS.add(causal)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q, k) * scale
    if causal:
        later = torch.ones(len(q), len(k), dtype=torch.bool).triu(1 + len(k) - len(q))
        logits = logits.masked_fill(later, float("-inf"))
    return torch.einsum("hqk,khd->qhd", logits.softmax(dim=-1), v)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    return torch.stack([attend(*row, softmax_scale, causal) for row in zip(q, k, v, strict=True)])


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    queries = q.split(cu_seqlens_q.diff().tolist())
    keys, values = (t.split(cu_seqlens_k.diff().tolist()) for t in (k, v))
    rows = zip(queries, keys, values, strict=True)
    return torch.cat([attend(*row, softmax_scale, causal) for row in rows])


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model can take FlashAttention 2, as if the package and a GPU were here."""
    module = modeling_flash_attention_utils
    kernel = (flash_attn_func, flash_attn_varlen_func, None, module._pad_input, module._unpad_input)
    monkeypatch.setattr(module, "_lazy_imports", lambda *args, **options: kernel)
    monkeypatch.setattr(module, "_loaded_implementation", None)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *args, **options: True)


def answered(parts: tuple[Any, Any], method: Any) -> tuple[list[Any], list[str]]:
    """Kept tokens of each picture and layer, and answers, of a padded batch with a text-only question."""
    answering = DroppingVLM(Checkpoint(*parts), method, "a{images}{question}:")
    shown = [(tiny.picture(*size, seed=i),) for i, size in enumerate(SIZES)]
    questions = [Question("b" * (2 + i) + "?", pictures) for i, pictures in enumerate([*shown, ()])]
    batch = [answering.prepare(question) for question in questions]
    kept = [(image.packed.index.tolist(), p.by_layer) for p in batch for image in p.images]
    return kept, [answer.text for answer in answering.answer(batch, {"max_new_tokens": 6})]


def generated(parts: tuple[Any, Any], method: Any) -> Any:
    """Answers to a padded batch of pictures, inside a block."""
    model, processor = parts
    pictures = [tiny.picture(*size, seed=i) for i, size in enumerate(SIZES)]
    picture = family_of(model).placeholder(processor)
    text = [f"{picture}{'b' * i}?" for i in range(len(SIZES))]
    inputs = dict(processor(images=pictures, text=text, padding=True, return_tensors="pt"))
    if isinstance(model, InternVLForConditionalGeneration):
        inputs["image_sizes"] = [(image.height, image.width) for image in pictures]
    with method(model):
        return model.generate(**inputs, max_new_tokens=6, do_sample=False)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_kept_tokens_are_those_of_sdpa(family: str, name: str, flash: None) -> None:
    parts = FAMILIES[family](seed=3)
    method = build(name, **METHODS[name] | OF_FAMILY.get((family, name), {}))
    expected, as_given = answered(parts, method), generated(parts, method)
    KINDS.clear()
    parts[0].set_attn_implementation("flash_attention_2")
    assert answered(parts, method) == expected
    assert generated(parts, method).equal(as_given)
    assert {False, True} == KINDS, "vision tower and language model"
