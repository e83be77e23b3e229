"""The bundled model's card, written from run records."""

from __future__ import annotations

from pathlib import Path

from hired_eval.mini.vocabulary import BENCHMARKS
from hired_eval.records.record import Record
from hired_eval.records.statistics import Estimate
from hired_eval.records.store import Store
from hired_eval.reporting.render import aligned
from hired_eval.reporting.rows import budget_of, label_of, percent

TARGETS = {
    "vqav2": 85.0, "scienceqa": 75.0, "textvqa": 80.0, "docvqa": 85.0,
    "ocrbench": 800.0, "mme": 1050.0, "pope": 85.0, "chartqa": 75.0,
}  # fmt: skip
"""Scores aimed at with all tokens; MME's perception maximum is 200 in each of seven categories here."""

TEXT = """# The bundled model

A LLaVA-Next with {parameters:.1f} million parameters ({megabytes:.1f} MB in bfloat16), trained from nothing
by `make train-mini` with fixed seeds. It is a stock `LlavaNextForConditionalGeneration`, loaded by
`from_pretrained`. The same weights serve as a single-partition `LlavaForConditionalGeneration` under the name
`mini_1_5`, which sees only the full-image.

It is a measuring instrument for token dropping on machines without a GPU, and is good for nothing else: it
knows the words, shapes, charts and forms that `hired_eval/mini/` draws.

## Fairness

- Attention is never a training target in the vision tower, and training uses no method's dropping rule.
- The vision tower learns which letters, words, shapes and colours its patches show; CLS learns which of them
  occur in its partition, at the initial layer, the feature layer and the last layer.
- While the language model learns, visual tokens are dropped uniformly at random (4 to 100 % kept), so that it
  gets used to short sequences.
- Training pages and test pages come from disjoint seeds.
- About a third of the pages are crowded: of 300 drawn of each kind, 35 % with forms, 37 % with signs, 33 %
  with shapes, 25 % with charts; OCRBench's single words have a page to themselves. Sparse pages favour
  methods that follow CLS-attention.
- Answers are numbers and single words from a closed list; there are no two-word answers.

## How it was made

{history}

## Measured on the mini benchmarks' test splits

Score with its 95 % interval. `Random` keeps a uniformly random share of the tokens, as in training.

{scores}

The target is what we wanted the model to reach with all tokens. The full-image alone (`mini_1_5`) must stay
far below on the reading benchmarks (textvqa, docvqa, ocrbench, chartqa), or high resolution would not matter.

Dropping methods, measured the same way:

{methods}
"""


def write_card(target: Path, store: Store, parameters: int, weight_bytes: int, history: str) -> None:
    """Write the card.

    Args:
        target: file.
        store: complete runs of Full and of methods with a budget, and of Full on `mini_1_5`.
        parameters: of the model.
        weight_bytes: size of its weights' file.
        history: how the weights were made.
    """
    records = store.accuracy()
    cells = {(r.benchmark.name, _column(r)): _cell(store.score([r])) for r in records}
    random = sorted({b for r in records if label_of(r).startswith("Random") and (b := budget_of(r))})
    columns = ["all tokens", *(f"Random {percent(b)}" for b in reversed(random)), "full-image alone"]
    rows = [["benchmark", "target", *columns]]
    for benchmark in BENCHMARKS:
        found = [cells.get((benchmark, column), "-") for column in columns]
        rows.append([benchmark, f"{TARGETS[benchmark]:g}", *found])
    dropping = sorted({(-(budget_of(r) or 0), _column(r)) for r in records if budget_of(r)})
    methods = [["method", *BENCHMARKS]]
    methods += [[name, *(cells.get((b, name), "-") for b in BENCHMARKS)] for _, name in dropping]
    target.write_text(
        TEXT.format(
            parameters=parameters / 1e6,
            megabytes=weight_bytes / 1e6,
            history=history,
            scores=aligned(rows),
            methods=aligned(methods),
        )
    )


def _column(record: Record) -> str:
    if budget_of(record) is None:
        return "full-image alone" if record.model == "mini_1_5" else "all tokens"
    return label_of(record)


def _cell(score: Estimate) -> str:
    return f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"
