"""The paper's published numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hired_eval.paths import published_folder

PAPER = "Arif et al., AAAI-25, arXiv:2408.10945v3"

# Which of the paper's models a model is compared with; the bundled models stand in for them.
PAPER_MODELS = {
    "mini": "LLaVA-Next-7B",
    "llava_next_7b": "LLaVA-Next-7B",
    "llava_next_13b": "LLaVA-Next-13B",
    "mini_1_5": "LLaVA-1.5-7B",
    "llava_1_5_7b": "LLaVA-1.5-7B",
    "sharegpt4v_7b": "ShareGPT4V-7B",
}

ODDITIES = {
    "table2": ["The paper's counts for the top 20 % add up to 577, not to the 576 it names."],
    "table3": [
        "The paper's default of HiRED scores otherwise in its Table 5 than here, at either budget.",
        "The paper's 10 % and 55 % for PruMerge and PruMerge+ are averages, not budgets; its 13B rows of the "
        "two have the same DocVQA, OCRBench and ChartQA numbers.",
    ],
    "table4": ["The paper's abstract calls this latency response latency, its text time to first token."],
    "table5": [
        "The paper does not name this table's budget; its default row fits neither budget of its Table 3.",
        "The paper's rows 'budget by layer 22' and 'drop by layer 0' have the same four numbers.",
    ],
    "table6": [
        "The paper has HiRED 40 % above full execution on LLaVA-1.5-7B for three of four benchmarks, and the "
        "same ScienceQA and VQAv2 numbers for HiRED on both models.",
    ],
}


@dataclass(frozen=True)
class Published:
    """One of the paper's tables, one number a row.

    Attributes:
        name: table2 to table6.
        frame: columns as in `results/paper/`, all text.
    """

    name: str
    frame: pd.DataFrame

    def value(self, **where: str) -> str | None:
        """The number as printed at the row with these columns; None where the paper has none."""
        frame = self.frame
        if not set(where) <= set(frame.columns):
            return None
        for column, wanted in where.items():
            frame = frame[frame[column] == wanted]
        return str(frame["value"].iloc[0]) if len(frame) == 1 else None


def published(name: str) -> Published:
    """One of the paper's tables: table2, table3, table4, table5 or table6."""
    file = published_folder() / f"{name}.csv"
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    return Published(name, frame.rename(columns={"tokens": "value"}))
