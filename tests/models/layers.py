"""Tiny random language models, and a slow way of dropping visual tokens inside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hired_eval.dropping.layer_stage import LayerSignals, LayerStage

DEPTH, WORDS = 6, 200
VISUAL = 100
"""Ids from here on stand for visual tokens."""
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
}


def spread(model: torch.nn.Module) -> None:
    """Larger weights than at initialisation, so that attention is not flat and biases and norms count."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
            elif "q_proj" in name or "k_proj" in name:
                parameter.mul_(12)
            else:
                parameter.mul_(5)


def language_model(kind: str = "llama", attention: str = "sdpa", **options: Any) -> Any:
    config, model, own = KINDS[kind]
    torch.manual_seed(0)
    made = model(
        config(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=DEPTH,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=WORDS,
            max_position_embeddings=512,
            eos_token_id=None,
            bos_token_id=None,
            pad_token_id=0,
            **own | options,
        )
    ).eval()
    spread(made)
    made.set_attn_implementation(attention)
    return made


@dataclass(frozen=True, kw_only=True)
class Steps(LayerStage):
    """Tokens leave in several steps, by the head that looks hardest, or the first ones stay."""

    at: tuple[int, ...] = (2, 4)
    shares: tuple[float, ...] = (0.6, 0.3)
    ties: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        return self.at

    def left(self, layer: int, visual: int) -> int:
        return int(self.shares[self.at.index(layer)] * visual)

    def score(self, signals: LayerSignals) -> Tensor:
        scores = signals.attention.amax(dim=1)
        return scores * 0 if self.ties else scores


def batch(rows: Sequence[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, L) of left-padded rows of text, an image, and text."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, count: int) -> list[int]:
        return torch.randint(low, high, (count,), generator=generator).tolist()

    made = [draw(1, VISUAL, a) + draw(VISUAL, WORDS, b) + draw(1, VISUAL, c) for a, b, c in rows]
    length = max(map(len, made))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in made])
    return ids, (ids > 0).long()


def slow(
    decoder: Any,
    embeddings: Tensor,
    visual: Tensor,
    stages: Sequence[LayerStage],
    asking: int,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One prompt without a cache, its dropped tokens hidden by masks, and nothing left out.

    Args:
        decoder: language model that attends by 'eager'.
        embeddings: (L, C).
        visual: (L,) bool.
        stages: what leaves where.
        asking: column of the prompt's last token.
        positions: as the decoder's rotary embedding takes them; by default 0, 1, 2 ...

    Returns:
        (L, C) normalised hidden states, (L,) bool which are there behind the last layer, and the same in
        front of each layer.
    """
    length = len(embeddings)
    hidden, there, by_layer = embeddings[None], torch.ones(length, dtype=torch.bool), []
    if positions is None:
        positions = torch.arange(length)[None]
    rotary = decoder.rotary_emb(hidden, positions)
    weights: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda module, args, output: weights.append(output[1]))
        for layer in decoder.layers
    ]
    for i, layer in enumerate(decoder.layers):
        for stage in stages:
            if i in stage.layers:
                row = weights[-1][0, :, asking].float()
                columns = (visual & there).nonzero()[:, 0].tolist()
                count = stage.left(i, int(visual.sum()))
                score = stage.score(LayerSignals(row[None], (visual & there)[None]))[0]
                leaving = sorted(columns, key=lambda c: (-float(score[c]), c))[count:]
                there = there.clone()
                there[leaving] = False
        by_layer.append(there)
        seen = torch.ones(length, length, dtype=torch.bool).tril() & there
        seen |= torch.eye(length, dtype=torch.bool)
        mask = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
    for hook in hooks:
        hook.remove()
    normed: Tensor = decoder.norm(hidden)[0]
    return normed, there, by_layer


@torch.no_grad()
def slow_answer(model: Any, ids: Tensor, stages: Sequence[LayerStage], new: int) -> list[int]:
    """Greedy tokens behind one prompt (L,), everything computed again for each."""
    given, asking = model.config._attn_implementation, len(ids) - 1
    model.set_attn_implementation("eager")
    for _ in range(new):
        decoder = model.get_decoder()
        visual = torch.cat([ids[: asking + 1] >= VISUAL, torch.zeros(len(ids) - asking - 1).bool()])
        hidden, _, _ = slow(decoder, decoder.embed_tokens(ids), visual, stages, asking)
        ids = torch.cat([ids, model.lm_head(hidden[-1]).argmax()[None]])
    model.set_attn_implementation(given)
    answer: list[int] = ids[asking + 1 :].tolist()
    return answer
