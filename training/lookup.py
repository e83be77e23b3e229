"""Pages of token labels alone: the facts of forms, signs, charts and shapes, and every question about them.

No picture is needed, so a batch is cheap: here the language model learns to look things up, to compare, to
count and to choose, before it has to do so from what the vision tower sees.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from hired_eval.mini.canvas import Page
from hired_eval.mini.questions import ask_all
from hired_eval.mini.vocabulary import (
    COLORS,
    COUNTRIES,
    FIELDS,
    GROUP_NAMES,
    MEMBER,
    MONTHS,
    NUMBERS,
    SHAPES,
    VALUES,
)
from training.language import WEIGHTS, Example, draw_questions

Rng = np.random.Generator
Rows = list[list[tuple[str, ...]]]
MANNERS = {"form": 0.16, "signs": 0.12, "chart": 0.17, "shapes": 0.55}
# Pages and questions for learning whether a word of the question is the picture's word.
COMPARE_MANNERS = {"form": 0.3, "signs": 0.3, "chart": 0.25, "shapes": 0.15}
COMPARE_WEIGHTS = {
    **WEIGHTS, "mme posters": 8.0, "mme code_reasoning": 8.0, "mme numerical_calculation": 8.0,
    "mme position": 2.0,
}  # fmt: skip


def repeated(rng: Rng, least: int, most: int, *words: str) -> list[tuple[str, ...]]:
    """A thing seen by ``least`` to ``most`` patches."""
    return [words] * int(rng.integers(least, most + 1))


def form_facts(rng: Rng, lines: int) -> tuple[Rows, dict[str, object]]:
    """Lines of a key and its value."""
    fields = {str(key): str(rng.choice(VALUES)) for key in rng.permutation(FIELDS)[:lines]}
    rows = [
        repeated(rng, 0, 2, "label", k) + repeated(rng, 1, 3, k, v) + repeated(rng, 0, 2, "blank")
        for k, v in fields.items()
    ]
    return rows, {"fields": fields}


def sign_facts(rng: Rng, lines: int) -> tuple[Rows, dict[str, object]]:
    """Coloured signs with a word each."""
    signs = {str(color): str(rng.choice(VALUES)) for color in rng.permutation(list(COLORS))[:lines]}
    rows = [repeated(rng, 0, 3, "sign", c) + repeated(rng, 1, 4, "sign", c, v) for c, v in signs.items()]
    return rows, {"signs": signs}


def chart_facts(rng: Rng, lines: int) -> tuple[Rows, dict[str, object]]:
    """Bars with a name, a number and a colour."""
    names = MONTHS if rng.random() < 0.6 else COUNTRIES
    keys = [str(k) for k in rng.permutation(names)[: min(lines, 9)]]
    values = [int(v) for v in rng.choice([int(n) for n in NUMBERS], len(keys), replace=False)]
    one_color = len(keys) > len(COLORS) or rng.random() < 0.3
    palette = [str(c) for c in rng.permutation(list(COLORS))]
    bars, rows = [], []
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        color = palette[0] if one_color else palette[i]
        rank = ["highest"] if value == max(values) else ["lowest"] if value == min(values) else []
        rows.append(
            repeated(rng, 0, 2, "label", key)
            + repeated(rng, 1, 3, key, str(value))
            + repeated(rng, 1, 3, "bar", color, str(len(keys)), *rank)
            + repeated(rng, 0, 3, "bar", color)
        )
        bars.append({"key": key, "value": value, "color": color})
    return rows, {"bars": bars, "one_color": one_color}


def shape_facts(rng: Rng, lines: int) -> tuple[Rows, dict[str, object]]:
    """Coloured shapes, up to three of a kind."""
    most = min(4, max(1, lines // 2))
    kinds = [str(s) for s in rng.permutation(SHAPES)[: int(rng.integers(1, most + 1))]]
    counts = {kind: int(rng.choice([1, 1, 1, 2, 3])) for kind in kinds}
    objects, rows = [], []
    for kind, count in counts.items():
        color = str(rng.choice(list(COLORS)))
        for _ in range(count):
            x, y = float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.5, 0.5))
            place = ("left" if x < 0 else "right", "top" if y < 0 else "bottom")
            rows.append(
                repeated(rng, 1, 3, kind, color, str(count), *place) + repeated(rng, 0, 4, kind, color)
            )
            objects.append({"shape": kind, "color": color, "x": x, "y": y, "width": 1.0, "height": 1.0})
    return rows, {"objects": objects, "counts": counts}


FACTS = {"form": form_facts, "signs": sign_facts, "chart": chart_facts, "shapes": shape_facts}


def lookup_page(rng: Rng, lines: int, most: int = 6, compare: bool = False) -> Example:
    """A page with up to ``lines`` lines and up to ``most`` of the questions that can be asked about it.

    With ``compare``, mostly MME's: does the picture say what the question says?
    """
    manners, weights = (COMPARE_MANNERS, COMPARE_WEIGHTS) if compare else (MANNERS, WEIGHTS)
    kind = str(rng.choice(list(manners), p=list(manners.values())))
    rows, facts = FACTS[kind](rng, lines)
    flat = [token for i in rng.permutation(len(rows)) for token in rows[i]]
    labels = np.zeros((len(flat), len(GROUP_NAMES)), dtype=np.uint8)
    for i, words in enumerate(flat):
        for word in words:
            group, member = MEMBER[word]
            labels[i, group] = member
    page = Page(kind, Image.new("RGB", (1, 1)), facts=facts)
    asked = [(q.prompt, q.answer.strip(), q.benchmark, q.category) for q in ask_all(page, rng)]
    questions = draw_questions({"questions": asked}, rng, most, weights)
    return Example(labels, np.zeros(len(flat), dtype=bool), questions)


class Curriculum:
    """Lookup pages that start with 2 to 4 lines and grow by one whenever nine answers of ten are right."""

    def __init__(self, size: int, longest: int, seed: int, compare: bool = False) -> None:
        self.size, self.longest, self.lines, self.mean = size, longest, 4, 0.0
        self.compare = compare
        self.rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[list[Example], float]]:
        while True:
            batch = [
                lookup_page(self.rng, int(self.rng.integers(2, self.lines + 1)), compare=self.compare)
                for _ in range(self.size)
            ]
            yield batch, float(self.rng.uniform(0.005, 0.02 + 0.003 * self.lines))

    def watch(self, right: float) -> None:
        """Take note of a batch's share of right answers."""
        self.mean = 0.9 * self.mean + 0.1 * right
        if self.mean > 0.9 and self.lines < self.longest:
            self.lines, self.mean = self.lines + 1, 0.75
            print(f"lookup: up to {self.lines} lines", flush=True)
