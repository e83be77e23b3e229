"""A seeded corpus of documents, good and bad, for the whole chain; every case says what must become of it."""

import io
import random
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

SIZES = [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (3, 3), (1, 10000), (10000, 1), (10000, 20), (20, 10000)]
SIZES += [(2, 500), (500, 2), (55, 57), (56, 56), (112, 112), (113, 111), (1000, 30), (1200, 900)]
FILES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["L", "P", "RGB"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"],
    "BMP": ["1", "L", "P", "RGB"],
    "PPM": ["1", "L", "RGB", "I"],
}
COLUMNS = [f"image_{i}" for i in range(5)]
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION = 0x0112
QUESTIONS = [
    "",
    " ",
    "\n\n",
    "<image>",
    "<image> what? <image>\n<image>",
    "<<image>image> <im<image>age>",
    "</s> <s> <pad> <unk> <|endoftext|> [INST] {images} {question} {{ x }} {% raw %}",
    "USER: yes ASSISTANT: no",
    "ما هو العنوان؟",
    "\u202eright to left\u202c \u2066isolated\u2069 \u200f",
    "\x00\x01\x07\x08\x0b\x1b[31m\x7f\x85\u2028\ufeff",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "'\"></td></table><b onclick=alert(1)>&amp;&lt; &#x3c;script&#x3e;",
    "]]> --> <!-- </style></script><svg/onload=alert(1)>",
    r"\input{/etc/passwd} \write18{ls} $x^2_1$ % # & ~ {\bf",
    "[1] \\\\ \\end{tabular} ^^M `` '' -- ?`",
    "| a | b |\n|---|---|\n**bold** `code` [x](javascript:alert(1))",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧‍👦 e\u0301 ﷽ \ud7ff\ue000\uffff",
    "'; DROP TABLE samples; --",
]
LONG = "what is written here? " * 460


@dataclass(frozen=True)
class Case:
    """One document.

    Attributes:
        name: what is tried.
        question: of the document.
        images: encoded files.
        drawn: 'mode width height' of pictures that no file can hold.
        converted: whether the task converts its pictures to RGB itself, as lmms-eval's tasks do.
        refused: what must be said; '' where the case must be right; None where either will do.
    """

    name: str
    question: str = "what is it?"
    images: list[bytes] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    converted: bool = True
    refused: str | None = ""

    def pictures(self) -> list[Image.Image]:
        """The pictures as they are to be seen: upright, the first frame, in RGB, on white."""
        files = [ImageOps.exif_transpose(Image.open(io.BytesIO(content))) for content in self.images]
        given = [*files, *map(drawn, self.drawn)]
        # what a task converts itself has no alpha channel left to lay on white
        return [_on_white(image.convert("RGB") if self.converted else image) for image in given]


def _on_white(image: Image.Image) -> Image.Image:
    """The picture as the stock processors convert it."""
    # the stock conversion takes the A of LAB for alpha, and does not know premultiplied modes
    straight = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}.get(image.mode, image.mode)
    return Image.fromarray(convert_to_rgb(image.convert(straight), return_numpy=True))


def drawn(recipe: str) -> Image.Image:
    """A picture that is made from its recipe 'mode width height'."""
    mode, width, height = recipe.split()
    return Image.new(mode, (int(width), int(height)))


def noise(dice: random.Random, mode: str, size: tuple[int, int]) -> Image.Image:
    """A random picture."""
    pixels = np.frombuffer(dice.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3)
    image = Image.fromarray(pixels.copy())
    if mode in ("LAB", "PA"):
        return Image.new(mode, size)
    if mode.startswith("I;16"):
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _size(dice: random.Random) -> tuple[int, int]:
    return int(2 ** dice.uniform(0, 9)), int(2 ** dice.uniform(0, 9))


def _deep(image: bytes) -> str:
    return "has more than 8 bits a channel" if Image.open(io.BytesIO(image)).mode in DEEP else ""


def _sizes(dice: random.Random) -> list[Case]:
    sizes = SIZES + [_size(dice) for _ in range(100)]
    return [
        Case(f"{w}x{h}", images=[encoded(noise(dice, "RGB", (w, h)), "PNG", compress_level=1)])
        for w, h in sizes
    ]


def _modes(dice: random.Random) -> list[Case]:
    cases = []
    for kind, modes in FILES.items():
        for mode in modes:
            for _ in range(3):
                file = encoded(noise(dice, mode, _size(dice)), kind)
                cases.append(
                    Case(f"{kind} {mode}", images=[file], converted=dice.random() < 0.5, refused=_deep(file))
                )
    for mode in Image.MODES:
        for width, height in ((1, 1), (30, 70)):
            refused = "has more than 8 bits" if mode in DEEP else ""
            recipe = f"{mode} {width} {height}"
            cases.append(Case(f"drawn {recipe}", drawn=[recipe], converted=False, refused=refused))
    return cases


def _animated(dice: random.Random) -> list[Case]:
    cases = []
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        for count in (2, 3, 7):
            size = _size(dice)
            frames = [noise(dice, "RGB", size) for _ in range(count)]
            file = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
            cases.append(Case(f"{kind} of {count} frames", images=[file]))
    return cases


def _turned(dice: random.Random) -> list[Case]:
    cases = []
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        for orientation in (*range(10), 255):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            file = encoded(noise(dice, "RGB", _size(dice)), kind, exif=exif)
            cases.append(Case(f"{kind} turned {orientation}", images=[file]))
    return cases


def _damaged(dice: random.Random) -> list[Case]:
    cases = [
        Case("empty file", images=[b""], refused="its image cannot be read"),
        Case("a text", images=[b"no picture at all"], refused="its image cannot be read"),
        Case("zeros", images=[bytes(500)], refused="its image cannot be read"),
    ]
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        whole = encoded(noise(dice, "RGB", (60, 80)), kind)
        for _ in range(9):
            cut = dice.randrange(1, len(whole) - 2)
            # half of a JPEG's or GIF's last block may be enough to decode all of it
            sure = "cannot be" if cut < 0.9 * len(whole) else None
            cases.append(Case(f"{kind} cut", images=[whole[:cut]], refused=sure))
            broken = bytearray(whole)
            for _ in range(dice.choice((1, 3, 30))):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            cases.append(Case(f"{kind} with other bytes", images=[bytes(broken)], refused=None))
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")
    cases.append(Case("decompression bomb", images=[bomb], refused="decompression bomb"))
    return cases


def _documents(dice: random.Random) -> list[Case]:
    cases = []
    for question in QUESTIONS:
        for count in (0, 1, 5):
            images = [encoded(noise(dice, "RGB", (60 + i, 40)), "PNG") for i in range(count)]
            cases.append(Case(f"{count} images", question, images))
    for _ in range(60):
        letters = dice.choices(string.printable + "<>&\\{}%$#_^~|\u202e\x00é中", k=dice.randrange(1, 200))
        images = [encoded(noise(dice, "RGB", _size(dice)), "PNG") for _ in range(dice.randrange(3))]
        cases.append(Case("random text", "".join(letters), images))
    picture = [encoded(noise(dice, "RGB", (60, 60)), "PNG")]
    too_long = "the model's context holds"
    cases += [Case("10,000 characters", LONG[:10000], images, refused=too_long) for images in ([], picture)]
    deep = encoded(noise(dice, "I;16", (50, 50)), "PNG")
    cases.append(Case("one of five is deep", images=[*picture * 4, deep], refused="more than 8 bits"))
    cases.append(Case("one of two is cut", images=[*picture, picture[0][:-60]], refused="cannot be"))
    return cases


def corpus(seed: int) -> list[Case]:
    """All cases, shuffled."""
    dice = random.Random(seed)
    makers = (_sizes, _modes, _animated, _turned, _damaged, _documents)
    cases = [case for make in makers for case in make(dice)]
    dice.shuffle(cases)
    return cases


def _file(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


def write_corpus(cases: list[Case], folder: Path) -> Path:
    """The cases as a parquet data set for data.path; its task is `TASK`."""
    rows = [
        {
            "question": case.question,
            "reply": "a",
            **dict(zip(COLUMNS, [*map(_file, case.images), *[None] * 5], strict=False)),
            "drawn": case.drawn,
            "converted": case.converted,
        }
        for case in cases
    ]
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "question": text,
            "reply": text,
            **dict.fromkeys(COLUMNS, datasets.Image()),
            "drawn": datasets.List(text),
            "converted": datasets.Value("bool"),
        }
    )
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "test-00000-of-00001.parquet")
    return folder


UTILS = """
from tests.fuzzed import COLUMNS, drawn

def pictures(document):
    files = [document[column] for column in COLUMNS if document[column] is not None]
    found = [*files, *map(drawn, document["drawn"])]
    return [image.convert("RGB") for image in found] if document["converted"] else found

def question(document, lmms_eval_specific_kwargs=None):
    return document["question"]
"""
TASK = """
task: fuzzed
dataset_path: fuzzed
output_type: generate_until
test_split: test
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.question
doc_to_target: reply
generation_kwargs: {max_new_tokens: 4, suppress_tokens: [0, 1, 2, 3, 4]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def write_task(folder: Path) -> Path:
    """The task as lmms-eval reads it, for `include_path`."""
    folder.mkdir()
    (folder / "utils.py").write_text(UTILS)
    (folder / "fuzzed.yaml").write_text(TASK)
    return folder
