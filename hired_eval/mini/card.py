"""The bundled model's card, written from run records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hired_eval.mini.vocabulary import BENCHMARKS
from hired_eval.reporting.render import aligned
from hired_eval.reporting.store import Record

TARGETS = {
    "vqav2": 85.0, "scienceqa": 75.0, "textvqa": 80.0, "docvqa": 85.0,
    "ocrbench": 800.0, "mme": 1050.0, "pope": 85.0, "chartqa": 75.0,
}  # fmt: skip
"""Scores aimed at with all tokens; MME's perception maximum is 200 in each of seven categories here."""

TEXT = """# The bundled model

A LLaVA-Next of {parameters:.1f} million parameters ({megabytes:.1f} MB in bfloat16), made from nothing by
`scripts/train_mini.py` with fixed seeds. Stock `LlavaNextForConditionalGeneration`, loaded by
`from_pretrained`. The same weights serve as a single-partition `LlavaForConditionalGeneration` under the name
`mini_1_5`, which sees the full-image alone.

It is a measuring instrument for token dropping on machines without a GPU, and good for nothing else: it knows
the words, shapes, charts and forms that `hired_eval/mini/` draws.

## Fairness

- Attention is never a training target in the vision tower, and no dropping rule of any method is used in
  training.
- The vision tower learns which letters, words, shapes and colours its patches show; CLS learns which of them
  occur in its partition, at the initial layer, the feature layer and the last layer.
- While the language model learns, visual tokens are dropped uniformly at random (4 to 100 % kept), so that
  short sequences are not foreign to it.
- Training pages and test pages come from disjoint seeds.

## How it was made

The bundled weights came out of the script's stages, in more pieces than a run of it from nothing. First, on
smaller letters and on pages that came again: the vision tower learned 23,000 steps of 48 partitions, the
language model 1,100 steps of lookup pages and 5,070 joint steps. Then, as the script does now, two processes
on pages that never came again: the vision tower 7,600 steps of some 110 partitions (learning rate 8e-4, the
heads that are thrown away fitted to the frozen tower before), and 1,300 joint steps (learning rate 1e-3).
Last, from there, what `scripts/train_mini.py --start` does: 500 steps of comparing words on lookup pages (402
of them a trial with other question weights and a longer schedule), and 1,000 joint steps; then, with
`--compare-steps 0 --joint-steps 1200`, 1,200 joint steps from the same first page on, VQAv2's questions drawn
by category and those about counts most often. The script starts from nothing, with higher learning rates; a
run from nothing has not been compared with them.

## Measured on the mini benchmarks' test splits

Score with its 95 % interval. `Random` keeps a uniformly random share of the tokens, as in training.

{scores}

The target is what the model was to reach with all tokens. The full-image alone (`mini_1_5`) must stay far
below on the reading benchmarks (textvqa, docvqa, ocrbench, chartqa), or high resolution would not matter.
"""


def write_card(target: Path, records: Sequence[Record], parameters: int, weight_bytes: int) -> None:
    """Write the card.

    Args:
        target: file.
        records: complete runs of Full and Random on the bundled model, and of Full on `mini_1_5`.
        parameters: of the model.
        weight_bytes: size of its weights' file.
    """
    rows = [["benchmark", "target", *_columns(records)]]
    for benchmark in BENCHMARKS:
        cells = {_column(r): r for r in records if r["benchmark"]["name"] == benchmark}
        rows.append([benchmark, f"{TARGETS[benchmark]:g}", *(_cell(cells.get(c)) for c in rows[0][2:])])
    text = TEXT.format(parameters=parameters / 1e6, megabytes=weight_bytes / 1e6, scores=aligned(rows))
    target.write_text(text)


def _columns(records: Sequence[Record]) -> list[str]:
    """Columns in the order of the tokens kept, the full-image alone last."""
    budgets = sorted({b for r in records if (b := r["config"]["budget"])}, reverse=True)
    return ["all tokens", *(f"Random {100 * b:g} %" for b in budgets), "full-image alone"]


def _column(record: Record) -> str:
    budget = record["config"]["budget"]
    if budget:
        return f"Random {100 * budget:g} %"
    return "full-image alone" if record["model"] == "mini_1_5" else "all tokens"


def _cell(record: Record | None) -> str:
    if record is None or record["score"] is None:
        return "-"
    score = record["score"]
    return f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"
