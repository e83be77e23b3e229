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

    def layers(self, depth: int) -> tuple[int, ...]:
        return self.at

    def left(self, visual: int, depth: int, total: int, pictures: int = 1) -> dict[int, int]:
        return {layer: int(share * visual) for layer, share in zip(self.at, self.shares, strict=True)}

    def score(self, signals: LayerSignals) -> Tensor:
        scores = signals["attention"].amax(dim=1)
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
) -> tuple[Tensor, Tensor, list[int]]:
    """One prompt without a cache, its dropped tokens hidden by masks; only merged tokens change its length.

    Args:
        decoder: language model that attends by 'eager'.
        embeddings: (L, C).
        visual: (L,) bool.
        stages: what leaves where.
        asking: column of the prompt's last token.
        positions: as the decoder's rotary embedding takes them; by default 0, 1, 2 ...

    Returns:
        (L, C) normalised hidden states, (L,) bool which are there behind the last layer, and the number of
        visual tokens that each layer sees.
    """
    given, depth = len(embeddings), len(decoder.layers)
    hidden, there = embeddings[None], torch.ones(given, dtype=torch.bool)
    origin, counts = torch.arange(given), []
    places_of = torch.arange(given)[None] if positions is None else positions
    rotary = decoder.rotary_emb(hidden, places_of)
    before, total = visual, int(visual.sum())
    weights: list[Tensor] = []
    keys: list[Tensor] = []

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        weights.append(output[1][0].float())
        cos, sin = kwargs["position_embeddings"]
        heads = module.k_proj(kwargs["hidden_states"]).unflatten(-1, (-1, module.head_dim))
        heads = (module.k_norm(heads) if hasattr(module, "k_norm") else heads)[0].transpose(0, 1)
        first, second = heads.chunk(2, dim=-1)
        keys.append(heads * cos[0] + torch.cat([-second, first], dim=-1) * sin[0])

    def mask() -> Tensor:
        seen = torch.ones(len(there), len(there), dtype=torch.bool).tril() & there
        seen |= torch.eye(len(there), dtype=torch.bool)
        return torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)

    hooks = [layer.self_attn.register_forward_hook(note, with_kwargs=True) for layer in decoder.layers]
    for i, layer in enumerate(decoder.layers):
        for stage in stages:
            if i not in stage.layers(depth):
                continue
            end = int((origin == asking).nonzero()[0, 0])
            places = (visual & there).nonzero()[:, 0].tolist()
            text = [c for c in range(places[-1] + 1, end + 1) if not visual[c] and there[c]] if places else []
            rows = [end]
            words = [int(origin[c]) for c in text]
            if words:
                asked = stage.raters(
                    embeddings[None], before[None], torch.tensor([words]), torch.ones(1, len(words)).bool()
                )
                rows = rows if asked is None else [c for c, yes in zip(text, asked[0], strict=True) if yes]
            signals: dict[Any, Tensor] = {
                "attention": weights[-1][:, rows].mean(1)[None],
                "key_norms": keys[-1].abs().sum(dim=(0, 2))[None],
                "states": hidden,
                "normed_states": decoder.norm(hidden),
            }
            if "own_attention" in stage.reads:
                normed = layer.input_layernorm(hidden)
                own = layer.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=mask())
                signals["own_attention"] = own[1][0].float()[:, rows].mean(1)[None]
                del weights[-1], keys[-1]
            is_text = torch.zeros_like(there).index_fill(0, torch.tensor(text, dtype=torch.long), True)
            here = LayerSignals((visual & there)[None], is_text[None], signals)
            scores = stage.score(here)
            stays = min(stage.left(total, depth, total)[i], len(places))
            if type(stage).kept is LayerStage.kept:
                staying = sorted(places, key=lambda c: (-float(scores[0, c]), c))[:stays]
            else:
                staying = stage.kept(scores, here, torch.tensor([stays]))[0].nonzero()[:, 0].tolist()
            assert len(staying) == stays
            leaving = [c for c in places if c not in staying]
            merged = stage.merged(len(leaving)) if leaving else 0
            moved = torch.arange(len(there))
            if merged:
                gone = torch.zeros_like(there).index_fill(0, torch.tensor(leaving), True)
                centres, made = stage.merge(scores[0], hidden[0], gone, len(leaving))
                hidden = torch.cat([hidden, made[None]], dim=1)
                last = max(places) + 1
                places_of = torch.cat([places_of, places_of[:, centres]], dim=1)
                moved = torch.cat([moved[:last], len(there) + torch.arange(merged), moved[last:]])
                there = torch.cat([there, torch.ones(merged).bool()])
                visual = torch.cat([visual, torch.ones(merged).bool()])
                origin = torch.cat([origin, torch.full((merged,), -1)])
            there = there.index_fill(0, torch.tensor(leaving, dtype=torch.long), False)
            hidden, there, visual, origin = hidden[:, moved], there[moved], visual[moved], origin[moved]
            if stage.positions == "compact":
                places_of = (there.cumsum(0) - 1).clamp(min=0)[None]
            elif merged:
                places_of = places_of[:, moved]
            if merged or stage.positions == "compact":
                rotary = decoder.rotary_emb(hidden, places_of)
        counts.append(int((visual & there).sum()))
        hidden = layer(hidden, attention_mask=mask(), position_embeddings=rotary)
    for hook in hooks:
        hook.remove()
    kept = torch.zeros(given, dtype=torch.bool)
    kept[origin[there & (origin >= 0)]] = True
    order = origin.masked_fill(origin < 0, given).argsort()[:given]
    output: Tensor = decoder.norm(hidden)[0][order]
    return output, kept, counts


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
