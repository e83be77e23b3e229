"""Questions about a page, worded for one of the eight benchmarks, and the prompts made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hired_eval.mini.canvas import Page, Rng
from hired_eval.mini.pages import CO_OCCUR, POPULARITY
from hired_eval.mini.vocabulary import COLORS, COUNTS, POST_PROMPTS, SHAPES, VALUES, WORDS

MME_ENDING = " Please answer yes or no."


@dataclass(frozen=True)
class Question:
    """A question for one benchmark; ``category`` is its own sub-type; ``choices`` for ScienceQA."""

    benchmark: str
    text: str
    answer: str
    category: str = ""
    choices: tuple[str, ...] = ()
    hint: str = ""

    @property
    def prompt(self) -> str:
        """The text that lmms-eval's task code builds of this question, fixed ending included."""
        post = POST_PROMPTS[self.benchmark]
        if self.benchmark == "scienceqa":
            context = f"Context: {self.hint}\n" if self.hint else ""
            options = "\n".join(f"{'ABCDE'[i]}. {choice}" for i, choice in enumerate(self.choices))
            return f"{context}{self.text}\n{options}{post}"
        text = self.text.capitalize() if self.benchmark == "textvqa" else self.text
        if self.benchmark == "mme":  # the task code takes the dataset's own ending off again
            text = text.replace(MME_ENDING, "")
        return f"{text.strip()}{post}"


def pick(rng: Rng, options: list[Any]) -> Any:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def other(rng: Rng, options: list[str], *not_these: str) -> str:
    """One of the options that is not excluded."""
    return str(pick(rng, [o for o in options if o not in not_these]))


def like(rng: Rng, value: str, *not_these: str) -> str:
    """A wrong value of the same sort (number for number, word for word)."""
    return other(rng, [v for v in VALUES if v.isdigit() == value.isdigit()], value, *not_these)


FIELD_WORDINGS = ("What is the {0}?", "What is the {0} given in the {1}?", "What does the {1} say for {0}?")


def docvqa(page: Page, rng: Rng) -> Iterator[Question]:
    """What a field of a form, receipt or table says."""
    for key, value in page.facts["fields"].items():  # type: ignore[attr-defined]
        text = pick(rng, list(FIELD_WORDINGS)).format(key, page.kind)
        yield Question("docvqa", text, value, page.kind)


def textvqa(page: Page, rng: Rng) -> Iterator[Question]:
    """What a sign says."""
    found: dict[str, str] = page.facts["signs"]  # type: ignore[assignment]
    for color, value in found.items():
        options = [
            "what does the {0} sign say?",
            "what is written on the {0} sign?",
            "what word is on the {0} sign?",
        ]
        yield Question("textvqa", pick(rng, options).format(color), value, "signs")
    if len(found) == 1:
        yield Question("textvqa", "what does the sign say?", next(iter(found.values())), "sign")


def ocrbench(page: Page, rng: Rng) -> Iterator[Question]:
    """OCRBench's recognition, scene text, document and key information questions."""
    if page.kind == "word":
        text = "what is the number in the image?" if "Digit" in str(page.facts["style"]) else (
            "what is written in the image?"
        )  # fmt: skip
        yield Question("ocrbench", text, str(page.facts["word"]), str(page.facts["style"]))
    elif page.kind == "signs":
        for color, value in page.facts["signs"].items():  # type: ignore[attr-defined]
            text = f"What is the word on the {color} sign?"
            yield Question("ocrbench", text, value, "Scene Text-centric VQA")
    else:
        for key, value in page.facts["fields"].items():  # type: ignore[attr-defined]
            yield Question("ocrbench", f"What is the {key}?", value, "Doc-oriented VQA")
            text = (
                f"what is the {key} in the image? Answer this question using the text in the image directly."
            )
            yield Question("ocrbench", text, value, "Key Information Extraction")


def chartqa(page: Page, rng: Rng) -> Iterator[Question]:
    """Values (both splits), for the human split also colours, the bar of a value, their number."""
    bars: list[dict[str, Any]] = page.facts["bars"]  # type: ignore[assignment]
    values = [b["value"] for b in bars]
    for bar in bars:
        text = pick(rng, ["What is the value for {0}?", "What was the value in {0}?"]).format(bar["key"])
        yield Question("chartqa", text, str(bar["value"]), "augmented_test")
        yield Question("chartqa", f"How much is {bar['key']}?", str(bar["value"]), "human_test")
    bar = pick(rng, bars)
    yield Question("chartqa", f"Which bar has the value {bar['value']}?", bar["key"], "human_test")
    if not page.facts["one_color"]:
        high, low = bars[values.index(max(values))], bars[values.index(min(values))]
        yield Question("chartqa", "What is the color of the highest bar?", high["color"], "human_test")
        yield Question("chartqa", "What is the color of the lowest bar?", low["color"], "human_test")
    yield Question("chartqa", "How many bars are there?", str(len(bars)), "human_test")


def _single(page: Page) -> list[dict[str, Any]]:
    """The objects whose shape occurs once."""
    counts: dict[str, int] = page.facts["counts"]  # type: ignore[assignment]
    return [o for o in page.facts["objects"] if counts[o["shape"]] == 1]  # type: ignore[attr-defined]


def vqav2(page: Page, rng: Rng) -> Iterator[Question]:
    """Colours, shapes, counts and yes/no questions."""
    objects: list[dict[str, Any]] = page.facts["objects"]  # type: ignore[assignment]
    counts: dict[str, int] = page.facts["counts"]  # type: ignore[assignment]
    for item in _single(page):
        yield Question("vqav2", f"What color is the {item['shape']}?", item["color"], "color")
    by_color: dict[str, set[str]] = {}
    for item in objects:
        by_color.setdefault(item["color"], set()).add(item["shape"])
    for color, kinds in by_color.items():
        if len(kinds) == 1:
            yield Question("vqav2", f"What shape is {color}?", next(iter(kinds)), "shape")
    for shape, n in counts.items():
        yield Question("vqav2", f"How many {shape}s are there?".replace("crosss", "crosses"), str(n), "count")
        color = next(o["color"] for o in objects if o["shape"] == shape)
        asked, answer = (color, "yes") if rng.random() < 0.5 else (other(rng, list(COLORS), color), "no")
        text = (
            f"Is the {shape} {asked}?"
            if n == 1
            else f"Are the {shape}s {asked}?".replace("crosss", "crosses")
        )
        yield Question("vqav2", text, answer, "yes/no")


def pope(page: Page, rng: Rng) -> Iterator[Question]:
    """Six questions in each of three categories: three shapes that are there, three that are not."""
    counts: dict[str, int] = page.facts["counts"]  # type: ignore[assignment]
    there = list(counts)[:3]
    absent = [s for s in SHAPES if s not in counts]
    mates = [CO_OCCUR[s] for s in there if CO_OCCUR[s] in absent]
    popular = sorted(absent, key=lambda s: -float(POPULARITY[SHAPES.index(s)]))
    draws = {
        "random": [absent[i] for i in rng.permutation(len(absent))[:3]],
        "popular": popular[:3],
        "adversarial": (mates + [s for s in popular if s not in mates])[:3],
    }
    for category, wrong in draws.items():
        for i, shape in enumerate(there):
            for asked, answer in ((shape, "yes"), (wrong[i], "no")):
                article = "an" if asked[0] in "a" else "a"
                yield Question("pope", f"Is there {article} {asked} in the image?", answer, category)


def mme(page: Page, rng: Rng) -> Iterator[Question]:
    """Pairs of a question with yes and one with no, by MME's categories."""

    def pair(category: str, yes: str, no: str) -> Iterator[Question]:
        yield Question("mme", yes + MME_ENDING, "Yes", category)
        yield Question("mme", no + MME_ENDING, "No", category)

    if page.kind == "shapes":
        counts: dict[str, int] = page.facts["counts"]  # type: ignore[assignment]
        shape = pick(rng, list(counts))
        absent = other(rng, SHAPES, *counts)
        text = "Is there a {0} in this image?"
        yield from pair("existence", text.format(shape), text.format(absent))
        text, n = "Are there a total of {0} {1}s in this image?".replace("crosss", "crosses"), counts[shape]
        yield from pair("count", text.format(n, shape), text.format(other(rng, COUNTS[:4], str(n)), shape))
        single = _single(page)
        if single:
            item = pick(rng, single)
            text = "Is the {0} {1} in this image?"
            wrong = other(rng, list(COLORS), item["color"])
            yield from pair(
                "color", text.format(item["shape"], item["color"]), text.format(item["shape"], wrong)
            )
            clear = [o for o in single if abs(o["x"]) > 0.12 * o["width"]]
            if clear:
                item = pick(rng, clear)
                sides = ("left", "right") if item["x"] < 0 else ("right", "left")
                text = "Is the {0} on the {1} side of this image?"
                yield from pair("position", *(text.format(item["shape"], s) for s in sides))
        return
    scenes = {"signs": "signs", "chart": "bars", "form": "fields", "receipt": "fields", "table": "fields"}
    if page.kind in scenes:
        text = "Does this image show {0}?"
        right = scenes[page.kind]
        yield from pair(
            "scene", text.format(right), text.format(other(rng, ["signs", "bars", "fields"], right))
        )
    if page.kind == "signs":
        found: dict[str, str] = page.facts["signs"]  # type: ignore[assignment]
        color, value = pick(rng, list(found.items()))
        text = "Does the {0} sign say {1}?"
        yield from pair("posters", text.format(color, value), text.format(color, like(rng, value)))
    if page.kind == "word":
        value = str(page.facts["word"])
        text = "Is the word in this image {0}?"
        yield from pair("OCR", text.format(value), text.format(like(rng, value)))
    if page.kind in ("form", "receipt", "table"):
        fields: dict[str, str] = page.facts["fields"]  # type: ignore[assignment]
        key, value = pick(rng, list(fields.items()))
        text = "Is the {0} {1}?"
        yield from pair("code_reasoning", text.format(key, value), text.format(key, like(rng, value)))
    if page.kind == "chart":
        bars: list[dict[str, Any]] = page.facts["bars"]  # type: ignore[assignment]
        bar = pick(rng, bars)
        text, value = "Is the value for {0} equal to {1}?", str(bar["value"])
        yield from pair(
            "numerical_calculation", text.format(bar["key"], value), text.format(bar["key"], like(rng, value))
        )


def _choices(rng: Rng, right: str, wrong: list[str]) -> tuple[tuple[str, ...], str]:
    options = [right, *wrong]
    order = rng.permutation(len(options))
    return tuple(options[i] for i in order), "ABCDE"[list(order).index(0)]


def scienceqa(page: Page | None, rng: Rng) -> Iterator[Question]:
    """Multiple choice about a picture, or about a hint when there is none."""
    n = int(rng.integers(1, 3))

    def ask(text: str, right: str, wrong: list[str], category: str, hint: str = "") -> Question:
        choices, letter = _choices(rng, right, wrong)
        return Question("scienceqa", text, letter, category, choices, hint)

    if page is None:
        things = [str(w) for w in rng.permutation(WORDS)[: int(rng.integers(2, 5))]]
        colors = [str(c) for c in rng.permutation(list(COLORS))[: len(things)]]
        hint = " ".join(f"The {t} is {c}." for t, c in zip(things, colors, strict=True))
        i = int(rng.integers(len(things)))
        wrong = [str(c) for c in rng.permutation([c for c in COLORS if c != colors[i]])[:n]]
        yield ask(f"What color is the {things[i]}?", colors[i], wrong, "hint", hint)
    elif page.kind == "shapes":
        for item in _single(page)[:2]:
            wrong = [str(c) for c in rng.permutation([c for c in COLORS if c != item["color"]])[:n]]
            yield ask(
                f"What color is the {item['shape']}?", item["color"], wrong, "color", "Look at the picture."
            )
        counts: dict[str, int] = page.facts["counts"]  # type: ignore[assignment]
        shape = pick(rng, list(counts))
        wrong = [str(s) for s in rng.permutation([s for s in SHAPES if s not in counts])[:n]]
        yield ask("Which of these is in the picture?", shape, wrong, "existence")
    elif page.kind in ("form", "receipt", "table"):
        fields: dict[str, str] = page.facts["fields"]  # type: ignore[assignment]
        key, value = pick(rng, list(fields.items()))
        first = like(rng, value)
        wrong = [first, like(rng, value, first)][:n]
        yield ask(f"What is the {key}?", value, wrong, "field")


ASK: dict[str, list[Callable[..., Iterator[Question]]]] = {
    "form": [docvqa, ocrbench, mme, scienceqa],
    "signs": [textvqa, ocrbench, mme],
    "word": [ocrbench, mme],
    "shapes": [vqav2, pope, mme, scienceqa],
    "chart": [chartqa, mme],
}
ASK["receipt"] = ASK["table"] = ASK["form"]


def ask_all(page: Page, rng: Rng) -> list[Question]:
    """Every question of every benchmark that fits the page."""
    return [question for ask in ASK[page.kind] for question in ask(page, rng)]
