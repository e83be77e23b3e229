"""Stages 2 and 3: the language model learns to look things up, first without and then with the vision tower.

Several questions about one page share its visual tokens in one sequence; a block mask keeps them apart.
A page's visual tokens are either sums of word embeddings with noise (no picture needed: the lookup stage) or
projected features of the frozen vision tower (joint stage). Tokens are dropped uniformly at random; no token
dropping method is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaNextForConditionalGeneration, PreTrainedTokenizerFast

from hired_eval.mini.vocabulary import GROUP_NAMES
from training import parallel
from training.data import TOKENS, Rendered, token_order
from training.progress import Progress
from training.vision import patch_loss, run_tower, target_embeddings, word_table

NEWLINE = -1
PROJECTOR_RATE = 0.1  # of the learning rate: the vision stage has aligned the projector already
# How often a question of each sort is drawn, where a page has several.
WEIGHTS = {
    "docvqa": 1.0, "textvqa": 1.0, "ocrbench": 1.0, "chartqa": 1.2, "pope": 1.0, "scienceqa": 1.2,
    "vqav2 color": 0.4, "vqav2 shape": 0.4, "vqav2 count": 1.6, "vqav2 yes/no": 0.4,
    "mme existence": 0.1, "mme scene": 0.1, "mme count": 0.6, "mme color": 0.6, "mme position": 0.8,
    "mme posters": 1.2, "mme OCR": 1.2, "mme code_reasoning": 0.8, "mme numerical_calculation": 0.8,
}  # fmt: skip


@dataclass
class Example:
    """A page's visual tokens in packing order and questions about it.

    ``labels`` (n, groups) and, where there is a picture, ``features`` (n, C); ``newline`` (n,) marks newline
    tokens.
    Questions are (question text, answer, sort): the sort is the benchmark, for VQAv2 and
    MME with its category.
    """

    labels: np.ndarray
    newline: np.ndarray
    questions: list[tuple[str, str, str]]
    features: np.ndarray | None = None


class Batcher:
    """Turns examples into one batch for the language model."""

    def __init__(self, model: LlavaNextForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.ids = word_table(model, tokenizer)
        self.prefix = tokenizer("USER: ").input_ids
        self._cache: dict[str, list[int]] = {}

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, remembered."""
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text).input_ids
        return self._cache[text]

    def segment(self, question: str, answer: str, pictured: bool) -> tuple[list[int], int]:
        """Token ids of one question with its answer, and how many of them are the answer (end token too)."""
        lead = "\n" if pictured else "USER: "
        said = answer.lower() if answer in ("Yes", "No") else answer
        reply = [*self.tokens(f" {said}"), self.tokenizer.eos_token_id]
        return [*self.tokens(f"{lead}{question} ASSISTANT:"), *reply], len(reply)

    def __call__(self, examples: list[Example], noise: float) -> dict[str, Any]:
        """Embeddings (B, L, D), positions, block mask, and the places and ids of the answer tokens."""
        table = self.model.get_input_embeddings().weight
        visual = [len(e.newline) for e in examples]
        heads = [len(self.prefix) + n if n else 0 for n in visual]
        segments = [
            [self.segment(q, a, n > 0) for q, a, _ in e.questions]
            for e, n in zip(examples, visual, strict=True)
        ]
        length = max(h + sum(len(s) for s, _ in ss) for h, ss in zip(heads, segments, strict=True))
        b = len(examples)
        ids = np.zeros((b, length), dtype=np.int64)
        part = np.full((b, length), -1, dtype=np.int64)
        position = np.zeros((b, length), dtype=np.int64)
        place, wanted, owner = [], [], []
        for i, (head, n, parts) in enumerate(zip(heads, visual, segments, strict=True)):
            if n:
                ids[i, : len(self.prefix)] = self.prefix
            part[i, :head], position[i, :head] = 0, np.arange(head)
            at = head
            for s, (tokens, answers) in enumerate(parts):
                ids[i, at : at + len(tokens)] = tokens
                part[i, at : at + len(tokens)] = s + 1
                position[i, at : at + len(tokens)] = head + np.arange(len(tokens))
                for k in range(len(tokens) - answers, len(tokens)):
                    place.append(i * length + at + k - 1)
                    wanted.append(tokens[k])
                    owner.append((i, s))
                at += len(tokens)
        embeds = table[torch.from_numpy(ids)]
        flat, spots, projected = self._visual(examples, noise)
        if len(flat):
            index = torch.tensor(
                [i * length + len(self.prefix) + k for i, n in enumerate(visual) for k in range(n)]
            )
            embeds = embeds.flatten(0, 1).index_copy(0, index, flat.to(embeds.dtype)).view(b, length, -1)
        p = torch.from_numpy(part)
        allowed = ((p[:, None, :] == 0) | (p[:, None, :] == p[:, :, None])) & (p[:, None, :] >= 0)
        allowed = torch.tril(allowed) | torch.eye(length, dtype=torch.bool)
        return {
            "embeds": embeds, "mask": allowed[:, None], "position": torch.from_numpy(position),
            "place": torch.tensor(place), "wanted": torch.tensor(wanted), "owner": owner,
            "projected": projected, "labels": spots,
        }  # fmt: skip

    def _visual(self, examples: list[Example], noise: float) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """All visual tokens one after another (n, D); with features also their labels and projections."""
        table = self.model.get_input_embeddings().weight
        labels = torch.from_numpy(np.concatenate([e.labels for e in examples]))
        newline = torch.from_numpy(np.concatenate([e.newline for e in examples]))
        out = torch.empty(len(newline), table.shape[1])
        if any(e.features is not None for e in examples):
            features = np.concatenate([e.features for e in examples if e.features is not None])
            out = self.model.model.multi_modal_projector(torch.from_numpy(features).float()).float()
            projected = out[~newline]
        else:
            out = target_embeddings(labels, table.detach(), self.ids)
            out = out + noise * torch.randn_like(out)
            projected = None
        out = torch.where(newline[:, None], self.model.model.image_newline.float(), out)
        return out, None if projected is None else labels[~newline], projected


def forward(model: LlavaNextForConditionalGeneration, batch: dict[str, Any]) -> Tensor:
    """(answer tokens, vocabulary) logits."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model.language_model(
            inputs_embeds=batch["embeds"],
            attention_mask=batch["mask"],
            position_ids=batch["position"],
            use_cache=False,
        ).last_hidden_state
        chosen = hidden.flatten(0, 1)[batch["place"]]
        return model.lm_head(chosen).float()  # type: ignore[no-any-return]


def scores(logits: Tensor, batch: dict[str, Any], examples: list[Example]) -> list[tuple[str, bool]]:
    """Per question: its sort, and whether every answer token is the likeliest one."""
    right = (logits.argmax(-1) == batch["wanted"]).tolist()
    verdict: dict[tuple[int, int], bool] = {}
    for owner, ok in zip(batch["owner"], right, strict=True):
        verdict[owner] = verdict.get(owner, True) and ok
    return [(examples[i].questions[s][2], ok) for (i, s), ok in verdict.items()]


def sort_of(question: Sequence[str]) -> str:
    """The sort of a question (prompt, answer, benchmark, category), as ``WEIGHTS`` names it."""
    return f"{question[2]} {question[3]}" if question[2] in ("vqav2", "mme") else question[2]


def text_example(questions: list[list[str]]) -> Example:
    """Questions without a picture."""
    empty = np.zeros((0, len(GROUP_NAMES)), dtype=np.uint8)
    return Example(empty, np.zeros(0, dtype=bool), [(q[0], q[1], sort_of(q)) for q in questions])


def draw_questions(
    record: dict[str, Any], rng: np.random.Generator, most: int, weights: Mapping[str, float] = WEIGHTS
) -> list[tuple[str, str, str]]:
    """Up to ``most`` of a page's questions, spread over their sorts."""
    asked = record["questions"]
    sorts = [sort_of(q) for q in asked]
    weight = np.array([weights[sort] / sorts.count(sort) for sort in sorts])
    chosen = rng.choice(len(asked), min(most, len(asked)), replace=False, p=weight / weight.sum())
    return [(asked[i][0], asked[i][1], sorts[i]) for i in chosen]


def page_example(
    record: dict[str, Any],
    labels: np.ndarray,
    features: np.ndarray | None,
    keep: float | None,
    questions: list[tuple[str, str, str]],
    rng: np.random.Generator,
) -> Example:
    """A rendered page: all its tokens with newlines (``keep`` is None) or a random share without."""
    order, row = token_order((record["size"][0], record["size"][1]))
    if keep is None:
        grid = order[TOKENS:].reshape(-1, row)
        grid = np.concatenate([grid, np.full((len(grid), 1), NEWLINE)], 1)
        order = np.concatenate([order[:TOKENS], grid.reshape(-1)])
    else:
        n = max(3, int(keep * len(order)))
        order = order[np.sort(rng.choice(len(order), n, replace=False))]
    start, stop = record["start"], record["start"] + record["parts"]
    newline = order == NEWLINE
    index = np.where(newline, 0, order)
    own = labels[start:stop].reshape(-1, labels.shape[-1])[index]
    own[newline] = 0
    shown = None if features is None else features[start:stop].reshape(-1, features.shape[-1])[index]
    return Example(own, newline, questions, shown)


def page_batches(
    model: LlavaNextForConditionalGeneration,
    pages: Iterator[Rendered],
    size: int,
    seed: int,
    full_share: float,
    most: int = 6,
) -> Iterator[list[Example]]:
    """Batches of rendered pages seen by the vision tower, one keep ratio a batch; now and then text alone.

    Args:
        model: whose vision tower gives the features.
        pages: lots of rendered pages.
        size: pages in a batch with few tokens; batches with many tokens are smaller.
        seed: of the draws; processes draw pages and questions of their own, and the same keep ratios, so that
            none waits for another.
        full_share: share of the batches with all tokens.
        most: questions about a page.
    """
    ratios, rng = np.random.default_rng(seed), np.random.default_rng([seed, parallel.rank()])
    for rendered in pages:
        features = _features(model, rendered.pixels)
        at = 0
        while at < len(rendered.pages):
            full = ratios.random() < full_share
            keep = None if full else float(np.exp(ratios.uniform(np.log(0.04), 0)))
            take = max(4, size // 4) if keep is None or keep > 0.5 else size // 2 if keep > 0.25 else size
            batch = []
            for record in rendered.pages[at : at + take]:
                questions = draw_questions(record, rng, most)
                batch.append(page_example(record, rendered.labels, features, keep, questions, rng))
                if "text_only" in record:
                    batch.append(text_example(record["text_only"]))
            at += take
            yield batch


@torch.no_grad()
def _features(model: LlavaNextForConditionalGeneration, pixels: np.ndarray) -> np.ndarray:
    """(M, TOKENS, C) of the feature layer."""
    out = []
    for at in range(0, len(pixels), 64):
        part = torch.from_numpy(pixels[at : at + 64])
        with torch.autocast("cpu", torch.bfloat16):
            out.append(run_tower(model, part)[-2][:, 1:].float().numpy())
    return np.concatenate(out)


def train_language(
    model: LlavaNextForConditionalGeneration,
    batcher: Batcher,
    work: Path,
    source: Callable[[int], Iterator[tuple[list[Example], float]]],
    steps: int,
    peak: float,
    align: float = 0.0,
    final: float = 0.05,
    watch: Any = None,
) -> None:
    """Train language model, newline and (with pictures) projector; token embeddings stay as they are.

    Args:
        model: updated in place.
        batcher: builds the batches.
        work: the stage's checkpoint folder.
        source: from a step on, batches of examples with the noise on their embeddings.
        steps: in the stage.
        peak: learning rate after warm-up, then cosine down to ``final`` of it.
        align: weight of keeping projected patches readable through the token embeddings.
        watch: called with a batch's share of right answers.
    """
    model.get_input_embeddings().weight.requires_grad_(False)
    parts = nn.ModuleDict({"language": model.model.language_model})
    if align:
        parts["projector"] = model.model.multi_modal_projector
    parts.register_parameter("newline", model.model.image_newline)
    params = [p for p in parts.parameters() if p.requires_grad]
    projector = {id(p) for p in model.model.multi_modal_projector.parameters()}
    groups = [
        {"params": [p for p in params if id(p) not in projector], "share": 1.0},
        {"params": [p for p in params if id(p) in projector], "share": PROJECTOR_RATE},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98), weight_decay=0.02)
    progress = Progress(work, parts, optimizer, steps)
    ids, table = batcher.ids, model.get_input_embeddings().weight.detach().float()
    torch.manual_seed((progress.step + 5) * parallel.world() + parallel.rank())
    batches = source(progress.step)
    while progress.step < steps:
        examples, noise = next(batches)
        share = progress.step / steps
        rate = min(1.0, (progress.step + 1) / 100) * (
            final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))
        )
        for group in optimizer.param_groups:
            group["lr"] = peak * rate * group["share"]
        batch = batcher(examples, noise)
        logits = forward(model, batch)
        loss = F.cross_entropy(logits, batch["wanted"])
        values = {"loss": loss.item()}
        if align and batch["projected"] is not None:
            entropy, distance = patch_loss(batch["projected"], batch["labels"], table, ids)
            loss = loss + align * (entropy + 0.7 * distance)
            values["align"] = entropy.item()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        parallel.average_gradients(params)
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        verdicts = scores(logits.detach(), batch, examples)
        values["right"] = sum(ok for _, ok in verdicts) / len(verdicts)
        for name in {b for b, _ in verdicts}:
            own = [ok for b, ok in verdicts if b == name]
            values[name] = sum(own) / len(own)
        if watch:
            watch(values["right"])
        progress.advance(values)
    progress.save()
