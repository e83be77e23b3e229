"""A batch of prompts inside a language model: which columns are visual, and what a stage leaves of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hired_eval.dropping.layer_stage import LayerStage, Step, plan_steps
from hired_eval.errors import UserError
from hired_eval.models.own_methods import explained_faults


@dataclass(frozen=True)
class Merged:
    """Tokens that a stage makes of those that leave, at most m of each of B prompts.

    Attributes:
        centres: (B, m) column of the segment whose place each takes.
        there: (B, m) bool; False for padding.
        states: (B, m, C) hidden states.
    """

    centres: Tensor
    there: Tensor
    states: Tensor


@dataclass(frozen=True)
class Segment:
    """What the layers from one stage to the next see of a batch of R rows: n columns.

    Attributes:
        taken: (R, n) where each column was in the segment before, the merged ones behind all of that.
        columns: (R, n) where it is in the prompt; of a merged token, its centre, which left.
        shown: (R, n) bool; False for padding.
        visual: (R, n) bool.
        given: (R, n) bool; False for padding and for merged tokens.
        counts: visual tokens of each prompt.
        positions: (R, n) where they are numbered anew; None: those of the prompt.
        merged: (R, m, C) hidden states of merged tokens; None for none.
    """

    taken: Tensor
    columns: Tensor
    shown: Tensor
    visual: Tensor
    given: Tensor
    counts: tuple[int, ...]
    positions: Tensor | None = None
    merged: Tensor | None = None


@dataclass(frozen=True)
class Prompts:
    """A batch of B prompts in front of the first layer, L columns each, in R = B * group rows.

    Attributes:
        whole: all columns of the rows.
        group: rows of the model for each prompt, as beams are: one after another, and alike.
        asking: (B,) column of the last token.
        behind: (B,) column of the last visual token; -1 for none.
        texts: how many tokens of each are no visual tokens.
        words: the most that a prompt has behind its pictures.
        steps: what happens to each before which layer.
        raters: by stage, the columns (B, m) of the words that may be asked, and (B, m) 1 for those that are.
    """

    whole: Segment
    group: int
    asking: Tensor
    behind: Tensor
    texts: Sequence[int]
    words: int
    steps: Sequence[Mapping[int, Step]]
    raters: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def once(self, rows: Tensor) -> Tensor:
        """(R, ...) to (B, ...): one row for each prompt."""
        return rows[:: self.group]

    def spread(self, prompts: Tensor) -> Tensor:
        """(B, ...) to (R, ...), on the device of the columns."""
        return prompts.repeat_interleave(self.group, dim=0).to(self.whole.columns.device)

    def text_of(self, segment: Segment) -> Tensor:
        """(B, n) bool, the words behind the pictures."""
        return _text(self.once(segment.shown), self.once(segment.columns), self.behind, self.asking)

    def rows_asked(self, stage: LayerStage, segment: Segment) -> tuple[Tensor, Tensor]:
        """Columns (B, m) of the segment whose attention a stage reads, and (B, m) which of them count."""
        asking = self.asking[:, None]
        columns, weights = asking, torch.ones_like(asking, dtype=torch.float32)
        if id(stage) in self.raters:
            words, weights = self.raters[id(stage)]
            # the last token asks where no picture is, and in place of words that a row does not have
            weights = weights.to(asking.device)
            none = (weights.sum(dim=1, keepdim=True) == 0) & (
                torch.arange(words.shape[1], device=words.device) == 0
            )
            columns = torch.where(weights > 0, words, asking)
            weights = torch.where(none, torch.ones_like(weights), weights)
        here = self.once(segment.columns)
        place = torch.zeros(len(here), self.whole.columns.shape[1], dtype=torch.long, device=here.device)
        place = place.scatter(1, here, torch.arange(here.shape[1], device=here.device).expand_as(here))
        return place.gather(1, columns), weights

    def shorten(
        self, segment: Segment, layer: int, stays: Tensor, merged: Merged | None, position_ids: Tensor | None
    ) -> Segment:
        """The segment behind a stage.

        Args:
            segment: in front of it.
            layer: before which the stage acts.
            stays: (B, n) bool, text included.
            merged: what is put behind the last visual token.
            position_ids: (R, L) or (1, L) of the prompts; read where positions are numbered anew.
        """
        steps = [steps[layer] for steps in self.steps]
        compact = steps[0].stage.positions == "compact"
        stays = self.spread(stays)
        device, rows = stays.device, len(stays)
        columns, visual, given = segment.columns, segment.visual & stays, segment.given & stays
        positions = segment.positions
        if positions is not None or compact:
            assert position_ids is not None
            of_prompt = position_ids.to(device).expand(rows, -1)
            positions = of_prompt.gather(1, columns) if positions is None else positions
        states, key = None, torch.arange(stays.shape[1], device=device).expand(rows, -1)
        if merged is not None:
            centres, there, states = (self.spread(t) for t in (merged.centres, merged.there, merged.states))
            last = key.masked_fill(~segment.visual, -1).amax(dim=1, keepdim=True)
            behind = torch.arange(1, 1 + there.shape[1], device=device)
            step = 1 + there.shape[1]
            key = torch.cat([key * step, last * step + behind], dim=1)
            columns = torch.cat([columns, columns.gather(1, centres)], dim=1)
            if positions is not None:
                positions = torch.cat([positions, positions.gather(1, centres)], dim=1)
            visual, stays = torch.cat([visual, there], dim=1), torch.cat([stays, there], dim=1)
            given = torch.cat([given, torch.zeros_like(there)], dim=1)
        counts = tuple(step.stays + step.merged for step in steps)
        length = max(text + count for text, count in zip(self.texts, counts, strict=True))
        taken = key.masked_fill(~stays, -1).argsort(dim=1, stable=True)[:, -length:]
        columns, visual, shown, given = (t.gather(1, taken) for t in (columns, visual, stays, given))
        if positions is not None:
            positions = positions.gather(1, taken)
            if compact:
                start = self.whole.shown.int().argmax(dim=1, keepdim=True)
                positions = of_prompt.gather(1, start) + (shown.cumsum(dim=1) - 1).clamp(min=0)
        return Segment(taken, columns, shown, visual, given, counts, positions, states)


def read_prompts(
    visual: Tensor,
    asking: Tensor,
    sizes: Sequence[tuple[int, int]] | None,
    shown: Tensor,
    stages: Sequence[LayerStage],
    depth: int,
) -> Prompts:
    """Find what stages inside a language model need to know of a batch of prompts; no rater is asked yet.

    Args:
        visual: (B, L) bool.
        asking: (B,) column of each prompt's last token.
        sizes: P * N of each prompt, of which a budget is a share, and its number of pictures; None: its
            visual tokens, as of one picture.
        shown: (R, L) bool, R a multiple of B; False for padding.
        stages: what leaves where.
        depth: number of layers of the language model.

    Raises:
        UserError: a prompt ends with a visual token.
    """
    group = len(shown) // len(visual)
    rows = shown[::group]
    visual = visual & rows
    columns = torch.arange(shown.shape[1], device=shown.device).expand(len(shown), -1)
    places = columns[: len(rows)]
    behind = places.masked_fill(~visual, -1).amax(dim=1)
    text = _text(rows, places, behind, asking) & (behind >= 0)[:, None]
    numbers = [visual.sum(1), rows.sum(1), visual.gather(1, asking[:, None]).squeeze(1), text.sum(1)]
    # the one time that a batch waits for the device before its first layer
    counts, lengths, wrong, words = torch.stack([n.long() for n in numbers]).tolist()
    if any(wrong):
        raise UserError(
            "a prompt ends with a visual token, so that nothing asks for what stays; put the question "
            "behind the image"
        )
    of_rows = visual.repeat_interleave(group, dim=0)
    return Prompts(
        Segment(columns, columns, shown, of_rows, shown, tuple(counts)),
        group,
        asking,
        behind,
        [length - count for length, count in zip(lengths, counts, strict=True)],
        max(words),
        [
            plan_steps(stages, n, depth, *size)
            for n, size in zip(counts, sizes or [(n, 1) for n in counts], strict=True)
        ],
    )


@torch.no_grad()
def ask_raters(
    prompts: Prompts, stages: Sequence[LayerStage], embed: Callable[[Tensor], Tensor], inputs: Tensor
) -> Prompts:
    """Prompts with the words that each stage asks.

    Args:
        prompts: of `read_prompts`.
        stages: what leaves where.
        embed: ids (B, L) to embeddings (B, L, C).
        inputs: (B, L) ids or (B, L, C) embeddings.
    """
    choosing = [stage for stage in stages if type(stage).raters is not LayerStage.raters]
    if not choosing or not prompts.words:
        return prompts
    embeddings = embed(inputs) if inputs.dim() == 2 else inputs
    text = prompts.text_of(prompts.whole) & (prompts.behind >= 0)[:, None]
    columns = text.int().argsort(dim=1, descending=True, stable=True)[:, : prompts.words]
    shown = text.gather(1, columns)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for stage in choosing:
        with explained_faults(stage):
            asked = stage.raters(embeddings, prompts.once(prompts.whole.visual), columns, shown)
        if asked is not None:
            found[id(stage)] = columns, (asked & shown).float()
    return replace(prompts, raters=found)


def _text(shown: Tensor, columns: Tensor, behind: Tensor, asking: Tensor) -> Tensor:
    """(B, n) bool, the words behind the pictures up to each prompt's last token."""
    return shown & (columns > behind[:, None]) & (columns <= asking[:, None])
