"""What pages of the mini benchmarks are drawn on: the grid's frame, paper or scene, and what was put where.

A page is laid out in the frame that LLaVA-Next will see (a grid of partitions, letterboxed or not) and
drawn at a random multiple of that resolution, so that the stock image processor chooses the intended grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from transformers.image_processing_utils import select_best_resolution

SIDE = 112  # pixels a side of a partition
PATCH = 14  # pixels a side of a patch
PINPOINTS = [[112, 224], [224, 112], [224, 224], [112, 336], [336, 112]]
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
Box = tuple[float, float, float, float]
Rng = np.random.Generator


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A DejaVu font from matplotlib's data, ``size`` in pixels."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True)
class Item:
    """Something drawn: its box in picture pixels, what it shows in the full-image and what in a sub-image."""

    box: Box
    full: tuple[str, ...]
    sub: tuple[str, ...]
    text: str = ""  # the letters drawn, for training the vision tower to read


@dataclass
class Page:
    """A picture, what is on it (for training) and the facts that can be asked."""

    kind: str
    image: Image.Image
    items: list[Item] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """The grid frame: rows x cols partitions, the picture's rectangle in it, and the drawing scale."""

    rows: int
    cols: int
    fit: Box  # x0, y0, x1, y1 in grid pixels
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture in pixels."""
        x0, y0, x1, y1 = self.fit
        return round((x1 - x0) * self.scale), round((y1 - y0) * self.scale)

    def cells(self, margin: float = 3) -> list[Box]:
        """The part of every partition that the picture covers, in grid pixels, raster order."""
        x0, y0, x1, y1 = self.fit
        boxes = []
        for r in range(self.rows):
            for c in range(self.cols):
                box = (
                    max(x0, c * SIDE) + margin,
                    max(y0, r * SIDE) + margin,
                    min(x1, (c + 1) * SIDE) - margin,
                    min(y1, (r + 1) * SIDE) - margin,
                )
                if box[2] - box[0] > 20 and box[3] - box[1] > 16:
                    boxes.append(box)
        return boxes


def random_frame(rng: Rng) -> Frame:
    """A grid, a letterboxed or full rectangle in it, and a drawing scale that select this grid."""
    while True:
        height, width = PINPOINTS[int(rng.choice(5, p=[0.18, 0.18, 0.36, 0.14, 0.14]))]
        fw, fh = float(width), float(height)
        if rng.random() < 0.55:
            share = rng.uniform(0.72, 1.0)
            if rng.random() < 0.5:
                fw = round(fw * share)
            else:
                fh = round(fh * share)
        x0, y0 = (width - fw) // 2, (height - fh) // 2
        scale = float(rng.choice([1.0, 1.5, 2.0, rng.uniform(1.0, 2.5)]))
        frame = Frame(height // SIDE, width // SIDE, (x0, y0, x0 + fw, y0 + fh), scale)
        w, h = frame.size
        if tuple(select_best_resolution((h, w), PINPOINTS)) == (height, width):
            return frame


class Canvas:
    """Draws in grid pixels on the picture of a frame and notes what was drawn where."""

    def __init__(self, frame: Frame, background: Image.Image) -> None:
        self.frame, self.image = frame, background
        self.draw = ImageDraw.Draw(background)
        self.items: list[Item] = []

    def to_picture(self, box: Box) -> Box:
        """A box in grid pixels, in picture pixels."""
        (fx, fy, _, _), s = self.frame.fit, self.frame.scale
        return ((box[0] - fx) * s, (box[1] - fy) * s, (box[2] - fx) * s, (box[3] - fy) * s)

    def note(self, box: Box, full: tuple[str, ...], sub: tuple[str, ...], text: str = "") -> None:
        """Record an item whose box is in grid pixels."""
        self.items.append(Item(self.to_picture(box), full, sub, text))

    def width(self, text: str, name: str, size: float) -> float:
        """Width of a text in grid pixels."""
        return font(name, round(size * self.frame.scale)).getlength(text) / self.frame.scale

    def text(self, x: float, y: float, text: str, name: str, size: float, fill: tuple[int, int, int]) -> Box:
        """Draw a text with its top left corner at (x, y); returns the ink's box in grid pixels."""
        face = font(name, round(size * self.frame.scale))
        px, py, _, _ = self.to_picture((x, y, x, y))
        self.draw.text((round(px), round(py)), text, fill=fill, font=face)
        s = self.frame.scale
        left, top, right, bottom = face.getbbox(text)
        return (x + left / s, y + top / s, x + right / s, y + bottom / s)

    def page(self, kind: str, **facts: object) -> Page:
        """The finished page."""
        return Page(kind, self.image, self.items, facts)


def background(rng: Rng, frame: Frame, textured: bool) -> Image.Image:
    """Light paper, or a scene: gradient, blurred noise and a few lines."""
    w, h = frame.size
    base = rng.integers(215, 256, 3) if not textured else rng.integers(150, 225, 3)
    if not textured:
        return Image.new("RGB", (w, h), tuple(int(b) for b in base))
    small = rng.normal(0, 14, (max(2, h // 9), max(2, w // 9), 3)) + base
    small += np.linspace(-18, 18, small.shape[0])[:, None, None] * rng.uniform(-1, 1)
    image = Image.fromarray(np.clip(small, 90, 255).astype(np.uint8)).resize(
        (w, h), Image.Resampling.BILINEAR
    )
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 9))):
        shade = tuple(int(v) for v in np.clip(base + rng.integers(-45, 20, 3), 0, 255))
        ends = [
            int(v) for v in (rng.integers(0, w), rng.integers(0, h), rng.integers(0, w), rng.integers(0, h))
        ]
        draw.line(ends, fill=shade, width=int(rng.integers(1, 4)))
    return image


def dark(rng: Rng) -> tuple[int, int, int]:
    """A dark ink."""
    shade = rng.integers(0, 60, 3)
    return (int(shade[0]), int(shade[1]), int(shade[2]))


def change_case(word: str, rng: Rng, styles: str) -> str:
    """A word in one of the styles: l(ower), T(itle), U(pper)."""
    style = styles[int(rng.integers(len(styles)))]
    return {"l": word, "T": word.capitalize(), "U": word.upper()}[style]


def overlap(a: Box, b: Box, margin: float) -> bool:
    """Whether two boxes come nearer than a margin."""
    return a[0] - margin < b[2] and b[0] - margin < a[2] and a[1] - margin < b[3] and b[1] - margin < a[3]
