"""Training pages: partitions as the stock image processor makes them, patch labels, token order, questions.

No page is shown twice: they are drawn as a stage learns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import LlavaNextImageProcessor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

from hired_eval.mini.canvas import PATCH, PINPOINTS, SIDE, Page
from hired_eval.mini.pages import KINDS
from hired_eval.mini.questions import ask_all, scienceqa
from hired_eval.mini.seeds import page_rng
from hired_eval.mini.vocabulary import GROUP_NAMES, MEMBER
from training import parallel
from training.model import build_image_processor

GRID = SIDE // PATCH  # patches a side of a partition
TOKENS = GRID * GRID
IGNORE = 255
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MIX = {"form": 0.28, "signs": 0.26, "word": 0.1, "shapes": 0.16, "chart": 0.2}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


def partitions(image: Any, processor: LlavaNextImageProcessor) -> np.ndarray:
    """(P, 3, SIDE, SIDE) uint8: the stock processor's partitions before scaling and normalising."""
    out = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
    pixels: np.ndarray = out["pixel_values"][0].round().to(torch.uint8).numpy()
    return pixels


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 partitions as the stock processor would hand them to the model."""
    return (pixels.float() / 255 - MEAN) / STD


def boxes_in_partitions(page: Page) -> tuple[np.ndarray, np.ndarray]:
    """Item boxes on the full-image (n, 4) and on the padded grid (n, 4), in pixels of each."""
    w, h = page.image.size
    best = select_best_resolution((h, w), PINPOINTS)
    new_h, new_w = get_patch_output_size(np.empty((3, h, w)), best, input_data_format="channels_first")
    off_y, off_x = (best[0] - new_h) // 2, (best[1] - new_w) // 2
    boxes = np.array([item.box for item in page.items]).reshape(-1, 4)
    full = boxes * np.array([SIDE / w, SIDE / h, SIDE / w, SIDE / h])
    grid = boxes * np.array([new_w / w, new_h / h, new_w / w, new_h / h]) + np.array(
        [off_x, off_y, off_x, off_y]
    )
    return full, grid


def _cover(boxes: np.ndarray, x0: float, y0: float) -> np.ndarray:
    """(n, TOKENS): the share of every patch of the partition at (x0, y0) that every box covers."""
    edges = np.arange(GRID) * PATCH
    along = []
    for lo, hi, origin in ((boxes[:, 0], boxes[:, 2], x0), (boxes[:, 1], boxes[:, 3], y0)):
        start = np.maximum(lo[:, None] - origin, edges)
        stop = np.minimum(hi[:, None] - origin, edges + PATCH)
        along.append(np.clip(stop - start, 0, None) / PATCH)
    covered: np.ndarray = np.einsum("nx,ny->nyx", along[0], along[1]).reshape(len(boxes), TOKENS)
    return covered


def labels(page: Page) -> tuple[np.ndarray, np.ndarray]:
    """What every patch shows, and its letters.

    Labels: (P, TOKENS, groups) uint8, 0 = nothing of the group, IGNORE = unclear. A patch shows
    the item that covers most of it (at least an eighth). Letters: (P, TOKENS, 36) bool.
    """
    w, h = page.image.size
    best = select_best_resolution((h, w), PINPOINTS)
    rows, cols = best[0] // SIDE, best[1] // SIDE
    full, grid = boxes_in_partitions(page)
    frames = [(full, 0.0, 0.0)] + [
        (grid, float(c * SIDE), float(r * SIDE)) for r in range(rows) for c in range(cols)
    ]
    out = np.zeros((len(frames), TOKENS, len(GROUP_NAMES)), dtype=np.uint8)
    letters = np.zeros((len(frames), TOKENS, len(LETTERS)), dtype=bool)
    blank_group, blank = MEMBER["blank"]
    for p, (boxes, x0, y0) in enumerate(frames):
        if not len(boxes):
            out[p, :, blank_group] = blank
            continue
        cover = _cover(boxes, x0, y0)
        best_item, most = cover.argmax(0), cover.max(0)
        out[p, most < 0.02, blank_group] = blank
        out[p, (most >= 0.02) & (most < 0.12)] = IGNORE
        for i in np.unique(best_item[most >= 0.12]):
            mine = (best_item == i) & (most >= 0.12)
            for attribute in page.items[i].full if p == 0 else page.items[i].sub:
                group, member = MEMBER[attribute]
                out[p, mine, group] = member
        if p:
            _mark_letters(page, boxes, x0, y0, letters[p])
    return out, letters


def _mark_letters(page: Page, boxes: np.ndarray, x0: float, y0: float, out: np.ndarray) -> None:
    for item, (bx0, by0, bx1, by1) in zip(page.items, boxes, strict=True):
        n = len(item.text)
        for i, letter in enumerate(item.text.lower()):
            at = LETTERS.find(letter)
            x = int((bx0 + (bx1 - bx0) * (i + 0.5) / n - x0) // PATCH)
            y = int(((by0 + by1) / 2 - y0) // PATCH)
            if at >= 0 and 0 <= x < GRID and 0 <= y < GRID:
                out[y * GRID + x, at] = True


def token_order(size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """The order in which LLaVA-Next packs an image's tokens, newline tokens left out.

    Args:
        size: (height, width) of the picture.

    Returns:
        Indices into the flattened (P, TOKENS): the full-image's, then the unpadded grid's in raster order;
        and the number of tokens in a row of the unpadded grid.
    """
    height, width = size
    best = select_best_resolution(size, PINPOINTS)
    rows, cols = best[0] // SIDE, best[1] // SIDE
    blocks = np.arange(rows * cols * TOKENS).reshape(rows, cols, GRID, GRID).transpose(0, 2, 1, 3)
    index = blocks.reshape(rows * GRID, cols * GRID) + TOKENS
    now_h, now_w = index.shape
    if width / height > now_w / now_h:
        pad = (now_h - int(round(height * (now_w / width), 7))) // 2
        index = index[pad : now_h - pad]
    else:
        pad = (now_w - int(round(width * (now_h / height), 7))) // 2
        index = index[:, pad : now_w - pad]
    return np.concatenate([np.arange(TOKENS), index.reshape(-1)]), index.shape[1]


@dataclass
class Rendered:
    """Rendered pages: pixels (M, 3, SIDE, SIDE), labels (M, TOKENS, groups), letters, page records."""

    pixels: np.ndarray
    labels: np.ndarray
    letters: np.ndarray
    pages: list[dict[str, Any]]


def render(start: int, count: int) -> Rendered:
    """The training pages ``start .. start + count``."""
    pixels, marks, letters, records, at = [], [], [], [], 0
    kinds = list(MIX)
    for index in range(start, start + count):
        rng = page_rng("train", "mixed", index)
        page = KINDS[str(rng.choice(kinds, p=list(MIX.values())))](rng)
        parts = partitions(page.image, _image_processor())
        shown, drawn = labels(page)
        width, height = page.image.size
        questions = [(q.prompt, q.answer.strip(), q.benchmark, q.category) for q in ask_all(page, rng)]
        record = {
            "start": at,
            "parts": len(parts),
            "size": (height, width),
            "questions": questions,
        }
        if rng.random() < 0.1:
            record["text_only"] = [
                (q.prompt, q.answer, q.benchmark, q.category) for q in scienceqa(None, rng)
            ]
        records.append(record)
        at += len(parts)
        pixels.append(parts)
        marks.append(shown)
        letters.append(drawn)
    return Rendered(np.concatenate(pixels), np.concatenate(marks), np.concatenate(letters), records)


@cache
def _image_processor() -> LlavaNextImageProcessor:
    return build_image_processor()


def stream(first: int, count: int) -> Iterator[Rendered]:
    """Endless pages from page ``first`` on, ``count`` at a time; every process has pages of its own."""
    step = count * parallel.world()
    for start in itertools.count(first + count * parallel.rank(), step):
        yield render(start, count)
