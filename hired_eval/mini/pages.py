"""Pictures of the mini benchmarks: forms, signs, single words, shapes and charts, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

from hired_eval.mini.canvas import (
    FONTS,
    Box,
    Canvas,
    Page,
    Rng,
    background,
    change_case,
    dark,
    overlap,
    random_frame,
)
from hired_eval.mini.vocabulary import (
    CODES,
    COLORS,
    COUNTRIES,
    FIELDS,
    FILLER,
    MONTHS,
    NUMBERS,
    SHAPES,
    WORDS,
)


def random_value(rng: Rng) -> str:
    """A word (most often), a number or a code."""
    roll = rng.random()
    pool = WORDS if roll < 0.55 else NUMBERS if roll < 0.9 else CODES
    return str(rng.choice(pool))


def form(rng: Rng, kind: str | None = None) -> Page:
    """A form, receipt or table: lines of key and value, sparse or crowded, with filler text."""
    kind = kind or str(rng.choice(["form", "receipt", "table"]))
    frame = random_frame(rng)
    canvas = Canvas(frame, background(rng, frame, rng.random() < 0.3))
    name = str(rng.choice(FONTS))
    size = float(rng.choice([10.5, 11, 12]))
    pitch = size + float(rng.uniform(5, 8))
    ink, styles = dark(rng), str(rng.choice(["l", "T"]))
    crowded = rng.random() < 0.4
    slots: list[Box] = []
    for x0, y0, x1, y1 in frame.cells():
        n = int((y1 - y0) // pitch)
        start = y0 + rng.uniform(0, max(0.0, y1 - y0 - n * pitch))
        slots += [(x0, start + i * pitch, x1, start + (i + 1) * pitch) for i in range(n)]
    count = int(rng.integers(3, 7)) if not crowded else int(rng.integers(8, 18))
    order = rng.permutation(len(slots))
    keys = list(rng.permutation(FIELDS))
    fields: dict[str, str] = {}
    for rank, slot in enumerate(order):
        x0, y0, x1, _ = slots[slot]
        if len(fields) < count:
            _field(canvas, rng, kind, str(keys[len(fields)]), slots[slot], (name, size, ink, styles), fields)
        elif crowded and rank < len(slots) * 0.85:
            words = " ".join(str(w) for w in rng.choice(FILLER, int(rng.integers(2, 5))))
            if x0 + canvas.width(words, name, size) < x1:
                box = canvas.text(x0, y0, words, name, size, ink)
                canvas.note(box, ("text",), ("text",), words)
    if not fields:
        return form(rng, kind)
    return canvas.page(kind, fields=fields, crowded=crowded)


def _field(
    canvas: Canvas,
    rng: Rng,
    kind: str,
    key: str,
    slot: Box,
    look: tuple[str, float, tuple[int, int, int], str],
    fields: dict[str, str],
) -> None:
    """One line `Key: value`; left out if it does not fit its slot."""
    x0, y0, x1, y1 = slot
    name, size, ink, styles = look
    value = random_value(rng)
    shown, label = change_case(value, rng, styles), key.capitalize() + (":" if kind != "table" else "")
    gap = {"form": 4.0, "receipt": float(rng.uniform(8, 20)), "table": 6.0}[kind]
    width = canvas.width(label, name, size) + gap + canvas.width(shown, name, size)
    if x0 + width > x1:
        return
    x = x0 + (rng.uniform(0, min(14.0, x1 - x0 - width)) if kind == "form" else 0)
    box = canvas.text(x, y0, label, name, size, ink)
    canvas.note(box, ("label",), ("label", key), label)
    at = x + canvas.width(label, name, size) + gap
    if kind == "receipt":
        dots = "." * int((gap - 4) / max(1.0, canvas.width(".", name, size)))
        canvas.text(x + canvas.width(label, name, size) + 2, y0, dots, name, size, ink)
    value_box = canvas.text(at, y0, shown, name, size, ink)
    canvas.note(value_box, ("text",), (key, value), shown)
    if kind == "table":
        rule = canvas.to_picture((x0, y1 - 1, value_box[2] + 2, y1 - 1))
        canvas.draw.line(rule, fill=(150, 150, 160), width=1)
    fields[key] = value


def signs(rng: Rng, count: int | None = None) -> Page:
    """Coloured signs with a word each, over a textured scene."""
    frame = random_frame(rng)
    canvas = Canvas(frame, background(rng, frame, True))
    crowded = rng.random() < 0.35
    count = count or (int(rng.integers(5, 8)) if crowded else int(rng.integers(1, 5)))
    found: dict[str, str] = {}
    taken: list[Box] = []
    cells = frame.cells(2)
    for color in rng.permutation(list(COLORS))[:count]:
        word, name = random_value(rng), str(rng.choice(FONTS))
        shown, size = change_case(word, rng, "TU"), float(rng.choice([11, 11.5, 12, 13]))
        w, h = canvas.width(shown, name, size) + 8, size + 9
        for _ in range(30):
            x0, y0, x1, y1 = cells[int(rng.integers(len(cells)))]
            if x1 - x0 < w or y1 - y0 < h:
                continue
            x, y = rng.uniform(x0, x1 - w), rng.uniform(y0, y1 - h)
            box = (float(x), float(y), float(x + w), float(y + h))
            if any(overlap(box, other, 3) for other in taken):
                continue
            taken.append(box)
            light = color in ("yellow", "orange")
            canvas.draw.rounded_rectangle(canvas.to_picture(box), 3 * frame.scale, fill=COLORS[str(color)])
            canvas.text(x + 4, y + 3, shown, name, size, (15, 15, 15) if light else (250, 250, 250))
            canvas.note(box, ("sign", str(color)), ("sign", str(color), word), shown)
            found[str(color)] = word
            break
    if not found:
        return signs(rng, count)
    if crowded:
        _decoys(canvas, rng, taken)
    return canvas.page("signs", signs=found, crowded=crowded)


def _decoys(canvas: Canvas, rng: Rng, taken: list[Box]) -> None:
    """Filler text between the signs."""
    for x0, y0, x1, y1 in canvas.frame.cells():
        for _ in range(4):
            words = " ".join(str(w) for w in rng.choice(FILLER, 2))
            w = canvas.width(words, FONTS[0], 10)
            if x0 + w > x1 or y0 + 14 > y1:
                continue
            x, y = float(rng.uniform(x0, x1 - w)), float(rng.uniform(y0, y1 - 14))
            box = (x, y, x + w, y + 13)
            if not any(overlap(box, other, 2) for other in taken):
                taken.append(box)
                ink = canvas.text(x, y, words, FONTS[0], 10, (60, 55, 50))
                canvas.note(ink, ("text",), ("text",), words)


WORD_STYLES: dict[str, tuple[str, Callable[[Rng], str]]] = {
    "Regular Text Recognition": ("DejaVuSans", lambda rng: str(rng.choice(WORDS))),
    "Irregular Text Recognition": ("DejaVuSans-Bold", lambda rng: str(rng.choice(WORDS))),
    "Artistic Text Recognition": ("DejaVuSerif", lambda rng: str(rng.choice(WORDS))),
    "Handwriting Recognition": ("DejaVuSerif-Italic", lambda rng: str(rng.choice(WORDS))),
    "Digit String Recognition": ("DejaVuSansMono", lambda rng: str(rng.choice(NUMBERS))),
    "Non-Semantic Text Recognition": ("DejaVuSans", lambda rng: str(rng.choice(CODES))),
}


def word(rng: Rng, style: str | None = None) -> Page:
    """One word somewhere in the picture, in the manner of OCRBench's recognition types."""
    style = style or str(rng.choice(list(WORD_STYLES)))
    name, pick = WORD_STYLES[style]
    frame = random_frame(rng)
    canvas = Canvas(frame, background(rng, frame, rng.random() < 0.5))
    value = pick(rng)
    shown, size = change_case(value, rng, "lTU"), float(rng.choice([11, 12, 13]))
    colored = style in ("Artistic Text Recognition", "Irregular Text Recognition")
    ink = COLORS[str(rng.choice(["red", "blue", "purple", "green"]))] if colored else dark(rng)
    w, h = canvas.width(shown, name, size) + 2, size + 5
    fits = [c for c in frame.cells(1) if c[2] - c[0] > w and c[3] - c[1] > h]
    x0, y0, x1, y1 = fits[int(rng.integers(len(fits)))]
    x, y = float(rng.uniform(x0, x1 - w)), float(rng.uniform(y0, y1 - h))
    if style == "Irregular Text Recognition":  # letters on a wavy line
        at, boxes = x, []
        for i, letter in enumerate(shown):
            boxes.append(canvas.text(at, y + (1.5 if i % 2 else 0), letter, name, size, ink))
            at += canvas.width(letter, name, size)
        box = (boxes[0][0], min(b[1] for b in boxes), boxes[-1][2], max(b[3] for b in boxes))
    else:
        box = canvas.text(x, y, shown, name, size, ink)
    canvas.note(box, ("text",), (value,), shown)
    return canvas.page("word", word=value, style=style, crowded=False)


def _polygon(points: list[tuple[float, float]], box: Box) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = box
    return [(x0 + px * (x1 - x0), y0 + py * (y1 - y0)) for px, py in points]


POLYGONS: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
    "cross": [(0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67), (0.67, 1), (0.33, 1),
              (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33)],
    "arrow": [(0, 0.35), (0.55, 0.35), (0.55, 0.05), (1, 0.5), (0.55, 0.95), (0.55, 0.65), (0, 0.65)],
    "star": [(0.5 + r * np.sin(a), 0.5 - r * np.cos(a))
             for a, r in ((np.pi * k / 5, 0.53 if k % 2 == 0 else 0.22) for k in range(10))],
    "heart": [(0.5, 1), (0.05, 0.45), (0, 0.25), (0.12, 0.05), (0.3, 0), (0.5, 0.2), (0.7, 0), (0.88, 0.05),
              (1, 0.25), (0.95, 0.45)],
}  # fmt: skip


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, box: Box, fill: tuple[int, int, int]) -> None:
    """Draw one of SHAPES into a box of picture pixels."""
    if shape in POLYGONS:
        draw.polygon(_polygon(POLYGONS[shape], box), fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=max(3, round((box[2] - box[0]) * 0.2)))
    else:  # wedge: a disc with a slice cut out
        draw.pieslice(box, 40, 320, fill=fill)


CO_OCCUR = {s: SHAPES[i ^ 1] for i, s in enumerate(SHAPES)}  # shapes that tend to appear together
POPULARITY = np.array([len(SHAPES) - i for i in range(len(SHAPES))]) + 4.0


def shapes(rng: Rng, distinct: int | None = None) -> Page:
    """Coloured shapes; two of one kind may share or differ in colour."""
    frame = random_frame(rng)
    canvas = Canvas(frame, background(rng, frame, rng.random() < 0.5))
    crowded = rng.random() < 0.35
    distinct = distinct or int(rng.integers(1, 5))
    kinds: list[str] = []
    while len(kinds) < distinct:
        mates = [CO_OCCUR[k] for k in kinds if CO_OCCUR[k] not in kinds]
        if mates and rng.random() < 0.4:
            kinds.append(mates[0])
            continue
        pick = str(rng.choice(SHAPES, p=POPULARITY / POPULARITY.sum()))
        if pick not in kinds:
            kinds.append(pick)
    wanted = [(k, int(rng.choice([1, 1, 2, 3, 4] if crowded else [1, 1, 1, 2, 3]))) for k in kinds]
    placed: list[tuple[str, str, Box]] = []
    fx0, fy0, fx1, fy1 = frame.fit
    for kind, n in wanted:
        color = str(rng.choice(list(COLORS)))
        for _ in range(n):
            for _attempt in range(60):
                size = float(rng.uniform(24, 34) if crowded else rng.uniform(26, 44))
                x, y = (
                    float(rng.uniform(fx0 + 2, fx1 - size - 2)),
                    float(rng.uniform(fy0 + 2, fy1 - size - 2)),
                )
                box = (x, y, x + size, y + size)
                if not any(overlap(box, other, 4) for _, _, other in placed):
                    placed.append((kind, color, box))
                    break
    counts = {k: sum(p[0] == k for p in placed) for k in kinds}
    mid_x, mid_y = (fx0 + fx1) / 2, (fy0 + fy1) / 2
    for kind, color, box in placed:
        draw_shape(canvas.draw, kind, canvas.to_picture(box), COLORS[color])
        side = "left" if (box[0] + box[2]) / 2 < mid_x else "right"
        height = "top" if (box[1] + box[3]) / 2 < mid_y else "bottom"
        canvas.note(box, (kind, color, str(counts[kind]), side, height), (kind, color))
    objects = [
        {"shape": k, "color": c, "x": (b[0] + b[2]) / 2 - mid_x, "y": (b[1] + b[3]) / 2 - mid_y,
         "width": fx1 - fx0, "height": fy1 - fy0}
        for k, c, b in placed
    ]  # fmt: skip
    return canvas.page(
        "shapes", objects=objects, counts={k: n for k, n in counts.items() if n}, crowded=crowded
    )


def chart(rng: Rng) -> Page:
    """Horizontal bars, each with its name and number at its left."""
    frame = random_frame(rng)
    canvas = Canvas(frame, background(rng, frame, rng.random() < 0.25))
    name, size = str(rng.choice(FONTS)), float(rng.choice([10.5, 11, 12]))
    ink, pitch = dark(rng), float(rng.uniform(16, 24))
    left = frame.fit[0] + 3
    rows: list[float] = []
    for x0, y0, _, y1 in frame.cells():
        if x0 - left < 1:
            n = int((y1 - y0) // pitch)
            rows += [y0 + i * pitch for i in range(n)]
    months = rng.random() < 0.6
    names = MONTHS if months else COUNTRIES
    limit = min(len(rows), len(names), 9)
    count = int(rng.integers(3, limit + 1)) if limit > 3 else limit
    start = int(rng.integers(0, len(rows) - count + 1))
    chosen = [str(k) for k in rng.permutation(names)[:count]]
    if months:
        chosen.sort(key=MONTHS.index)
    values = [int(v) for v in rng.choice(np.arange(10, 100), count, replace=False)]
    one_color = count > len(COLORS) or rng.random() < 0.3
    colors = [str(c) for c in rng.permutation(list(COLORS))]
    shown = {k: (k[:3] if months else k) for k in chosen}
    at_value = left + max(canvas.width(shown[k], name, size) for k in chosen) + 4
    at_bar = at_value + canvas.width("88", name, size) + 4
    longest = max(20.0, min(frame.fit[2] - 4 - at_bar, 200.0))
    bars = []
    for i, (key, value) in enumerate(zip(chosen, values, strict=True)):
        y, color = rows[start + i], colors[0] if one_color else colors[i]
        label_box = canvas.text(left, y, shown[key], name, size, ink)
        canvas.note(label_box, ("label",), ("label", key), shown[key])
        value_box = canvas.text(at_value, y, str(value), name, size, ink)
        canvas.note(value_box, ("text",), (key, str(value)), str(value))
        bar = (at_bar, y + 1, at_bar + longest * value / 99, y + size + 3)
        canvas.draw.rectangle(canvas.to_picture(bar), fill=COLORS[color])
        rank = ("highest",) if value == max(values) else ("lowest",) if value == min(values) else ()
        canvas.note(bar, ("bar", color, str(count), *rank), ("bar", color))
        bars.append({"key": key, "value": value, "color": color})
    return canvas.page("chart", bars=bars, one_color=one_color, crowded=count > 6)


KINDS: dict[str, Callable[[Rng], Page]] = {
    "form": form, "signs": signs, "word": word, "shapes": shapes, "chart": chart,
}  # fmt: skip
