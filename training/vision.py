"""Stage 1: the vision tower and the projector learn what every patch shows.

Patches are read through the projector and the language model's (fixed) token embeddings: the projected patch
must be close to the sum of the embeddings of the words it shows. CLS learns which words, shapes and colours
occur in its partition, at the initial layer, the feature layer and the last layer. Attention is never a
target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaNextForConditionalGeneration, PreTrainedTokenizerFast

from hired_eval.mini.vocabulary import GROUP_NAMES, GROUPS
from training import parallel
from training.data import IGNORE, LETTERS, Rendered, normalised, stream
from training.progress import Progress

SCALE = 14.0
NOTHING = 0.08  # weight of patches that show nothing of a group: nine of ten do not
VALUE_WEIGHT = 3.0  # of the written words' cross-entropy: they are the hardest group
LETTERS_WEIGHT = 0.6
VALUE = GROUP_NAMES.index("value")
MARKER = GROUP_NAMES.index("marker")


def word_table(model: LlavaNextForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> list[Tensor]:
    """Per group, the token ids of its members: (members,)."""
    return [torch.tensor([tokenizer.convert_tokens_to_ids("Ġ" + w) for w in GROUPS[g]]) for g in GROUP_NAMES]


def target_embeddings(labels: Tensor, table: Tensor, ids: list[Tensor]) -> Tensor:
    """The sum of the embeddings of what every patch shows.

    Args:
        labels: (..., groups) as `data.labels` gives them.
        table: (vocabulary, D) token embeddings.
        ids: token ids per group.
    """
    total = torch.zeros(*labels.shape[:-1], table.shape[1])
    for g, members in enumerate(ids):
        lookup = torch.cat([torch.zeros(1, table.shape[1]), table[members]])
        index = labels[..., g].long()
        total += lookup[torch.where(index == IGNORE, 0, index)]
    return total


def patch_loss(projected: Tensor, labels: Tensor, table: Tensor, ids: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy per group through the token embeddings, and squared distance to the sum of embeddings.

    Args:
        projected: (M, D) projected patches.
        labels: (M, groups).
        table: (vocabulary, D).
        ids: token ids per group.
    """
    known = labels[:, 0] != IGNORE
    projected, labels = projected[known].float(), labels[known].long()
    entropy = projected.new_zeros(())
    for g, members in enumerate(ids):
        logits = SCALE * projected @ table[members].T
        logits = torch.cat([logits.new_full((len(logits), 1), SCALE / 2), logits], 1)
        weight = logits.new_ones(len(members) + 1)
        if g != MARKER:
            weight[0] = NOTHING
        share = VALUE_WEIGHT if g == VALUE else 1.0
        entropy = entropy + share * F.cross_entropy(logits, labels[:, g], weight=weight)
    distance = (projected - target_embeddings(labels, table, ids)).square().sum(-1)
    weights = torch.where(labels[:, MARKER] == GROUPS["marker"].index("blank") + 1, NOTHING, 1.0)
    return entropy, (distance * weights).sum() / weights.sum()


class VisionReader(nn.Module):
    """Auxiliary heads, thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        members = sum(len(m) for m in GROUPS.values())
        self.letters = nn.Linear(width, len(LETTERS))
        self.occurs = nn.ModuleList([nn.Linear(width, members) for _ in range(3)])


def occurrence(labels: Tensor) -> Tensor:
    """(B, members) 0/1: what occurs in a partition, from its (B, TOKENS, groups) labels."""
    parts = []
    for g, name in enumerate(GROUP_NAMES):
        n = len(GROUPS[name])
        index = labels[:, :, g].long()
        index = torch.where(index == IGNORE, 0, index)
        parts.append(F.one_hot(index, n + 1).amax(1)[:, 1:])
    return torch.cat(parts, -1).float()


def batches(pages: Iterator[Rendered], seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A batch of each lot of pages: pixels (B, 3, SIDE, SIDE), labels (B, TOKENS, groups), letters.

    Nine of ten blank partitions and half of those without a readable word are left out.
    """
    rng = np.random.default_rng(seed)
    for rendered in pages:
        blank = (rendered.labels[:, :, MARKER] == GROUPS["marker"].index("blank") + 1).all(1)
        written = (rendered.labels[:, :, VALUE] > 0).any(1)
        share = np.where(blank, 0.1, np.where(written, 1.0, 0.5))
        keep = torch.from_numpy(np.flatnonzero(rng.random(len(blank)) < share))
        drawn = (rendered.pixels, rendered.labels, rendered.letters)
        pixels, labels, letters = (torch.from_numpy(array)[keep] for array in drawn)
        yield pixels, labels, letters


def run_tower(model: LlavaNextForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, ...]:
    """Hidden states of the vision tower for (B, 3, S, S) uint8 partitions."""
    out = model.model.vision_tower(normalised(pixels), output_hidden_states=True)
    states: tuple[Tensor, ...] = out.hidden_states
    return states


def train_vision(
    model: LlavaNextForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    steps: int,
    batch_pages: int,
    peak: float = 1.5e-3,
) -> None:
    """Train vision tower and projector, each step on new pages; resumes from the checkpoint in ``work``."""
    torch.manual_seed(1)
    reader = VisionReader(model.config.vision_config.hidden_size)
    trained = nn.ModuleDict(
        {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector, "reader": reader}
    )
    params = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
    progress = Progress(work, trained, optimizer, steps)
    ids, table = word_table(model, tokenizer), model.get_input_embeddings().weight.detach().float()
    first = progress.step * batch_pages * parallel.world()
    source = batches(stream(first, batch_pages), seed=progress.step)
    while progress.step < steps:
        pixels, labels, letters = next(source)
        rate = _rate(progress.step, steps, peak)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            states = run_tower(model, pixels)
            projected = model.model.multi_modal_projector(states[-2][:, 1:])
            spelled = reader.letters(states[2][:, 1:])
            seen = [head(states[i][:, 0]) for head, i in zip(reader.occurs, (1, -2, -1), strict=True)]
        entropy, distance = patch_loss(projected.flatten(0, 1), labels.flatten(0, 1), table, ids)
        target = occurrence(labels)
        cls = sum(
            (
                F.binary_cross_entropy_with_logits(s.float(), target, pos_weight=torch.tensor(5.0))
                for s in seen
            ),
            torch.zeros(()),
        )
        spelling, spelled_right = letter_loss(spelled.float(), letters.float())
        loss = entropy + 0.7 * distance + 4 * cls + LETTERS_WEIGHT * spelling
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        parallel.average_gradients(params)
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        progress.advance(
            {"loss": loss.item(), "words": entropy.item(), "distance": distance.item(), "cls": cls.item() / 3,
             "letters": spelling.item(), "spelled": spelled_right, **accuracy(projected, labels, table, ids)}
        )  # fmt: skip
    progress.save()


def letter_loss(logits: Tensor, letters: Tensor) -> tuple[Tensor, float]:
    """Which letters have their centre in a patch: loss (patches without letters count little), and recall.

    Args:
        logits: (B, TOKENS, 36).
        letters: (B, TOKENS, 36) 0/1.
    """
    lettered = letters.any(-1)
    each = F.binary_cross_entropy_with_logits(
        logits, letters, pos_weight=torch.tensor(3.0), reduction="none"
    ).sum(-1)
    weights = torch.where(lettered, 1.0, 0.03)
    recall = (logits.detach()[letters > 0] > 0).float().mean().item()
    return (each * weights).sum() / weights.sum(), recall


@torch.no_grad()
def accuracy(projected: Tensor, labels: Tensor, table: Tensor, ids: list[Tensor]) -> dict[str, float]:
    """Share of patches with a value (key, shape, colour) whose value (key, ...) is read right."""
    out = {}
    for name in ("value", "key", "color", "shape", "count", "side"):
        g = GROUP_NAMES.index(name)
        mine = (labels[..., g] > 0) & (labels[..., g] != IGNORE)
        if mine.any():
            logits = projected[mine].float() @ table[ids[g]].T
            out[name] = (logits.argmax(-1) + 1 == labels[mine][:, g]).float().mean().item()
    return out


def _rate(step: int, steps: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / 200)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
