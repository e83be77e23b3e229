"""The faults that are seeded: one place of the code, as it is and as a mistake would have it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        name: what is wrong, in words.
        file: path from the repository's root.
        right: text that occurs once in the file.
        wrong: what stands there instead.
        tests: the tests that should see it.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = ("tests/dropping", "tests/llava")

    def seed(self, root: Path) -> None:
        """Put the mistake into a copy of the repository.

        Raises:
            ValueError: the text does not occur exactly once, so that the mutant needs another look.
        """
        path = root / self.file
        text = path.read_text()
        if text.count(self.right) != 1:
            raise ValueError(f"{self.file} has {text.count(self.right)} times {self.right!r}")
        path.write_text(text.replace(self.right, self.wrong))


FLOOR = "return floor(Fraction(repr(float(share))) * count)"
MUTANTS = [
    Mutant(
        "a budget's floor is one too low",
        "hired_eval/dropping/base.py", FLOOR, f"{FLOOR.replace('return ', 'return max(0, ')} - 1)",
    ),
    Mutant(
        "a budget is rounded up",
        "hired_eval/dropping/base.py", FLOOR, "return -floor(-Fraction(repr(float(share))) * count)",
    ),
    Mutant(
        "rows and columns of the sub-images' regions are swapped",
        "hired_eval/dropping/layout.py", '"ry,cx->rcyx"', '"ry,cx->crxy"',
    ),
    Mutant(
        "tokens are packed as if the grid's columns were its rows",
        "hired_eval/dropping/packing.py",
        "x = sub_image % layout.cols * layout.side", "x = sub_image % layout.rows * layout.side",
    ),
    Mutant(
        "the visual content score is read from the final layer",
        "hired_eval/dropping/hired.py",
        "attention_at(self.initial_layer)[0]", "attention_at(self.final_layer)[0]",
    ),
    Mutant(
        "the final layer is one too early",
        "hired_eval/dropping/selection.py",
        "frozenset({feature_layer if self.final_layer is None else self.final_layer})",
        "frozenset({feature_layer - 1 if self.final_layer is None else self.final_layer})",
    ),
    Mutant(
        "features come from the layer before the feature layer",
        "hired_eval/llava/encoder.py", "if i == self.feature_layer:", "if i == self.feature_layer - 1:",
    ),
    Mutant(
        "the visual content score is a mean over the region, not a sum",
        "hired_eval/dropping/hired.py",
        "return torch.mv(layout.regions(), mass)",
        "return torch.mv(layout.regions(), mass) / layout.regions().sum(dim=1)",
    ),
    Mutant(
        "CLS-attention is shifted by one token",
        "hired_eval/llava/encoder.py", "logits.softmax(dim=-1)[..., 1:]", "logits.softmax(dim=-1)[..., :-1]",
    ),
    Mutant(
        "PruMerge takes the mean of the neighbours, not the sum",
        "hired_eval/dropping/prumerge.py", 'mode="sum"', 'mode="mean"',
    ),
    Mutant(
        "the last kept token of each partition is dropped",
        "hired_eval/dropping/selection.py",
        "ranked[i, :n].sort().values for", "ranked[i, :n].sort().values[:-1] for",
    ),
    Mutant(
        "batches are padded on the right",
        "hired_eval/llava/prefix.py",
        "[pad] * (length - len(row)) + row for", "row + [pad] * (length - len(row)) for",
    ),
    Mutant(
        "padding on the left is not masked",
        "hired_eval/llava/prefix.py", "[0] * (length - len(row)) + [1]", "[1] * (length - len(row)) + [1]",
    ),
    Mutant(
        "photos of a turned camera stand on their head",
        "hired_eval/llava/images.py",
        "    6: Image.Transpose.ROTATE_270", "    6: Image.Transpose.ROTATE_90",
        tests=("tests/llava/test_images.py",),
    ),
    Mutant(
        "transparent pictures are laid on black",
        "hired_eval/llava/images.py", 'image.size, "white")', 'image.size, "black")',
        tests=("tests/llava/test_images.py",),
    ),
    Mutant(
        "a picture is turned again when it is converted again",
        "hired_eval/llava/images.py", "    rgb.info = {}\n", "",
        tests=("tests/llava/test_images.py",),
    ),
    Mutant(
        "the first block to end lets truncated pictures in, though others still run",
        "hired_eval/llava/images.py",
        "            if self._blocks == 0:\n                ImageFile",
        "            if True:\n                ImageFile",
        tests=("tests/llava/test_images.py",),
    ),
    Mutant(
        "prefixes are shared under a sliding window",
        "hired_eval/llava/generation.py",
        "_layers(config) <= {DynamicLayer} and",
        "_layers(config) <= {DynamicLayer, DynamicSlidingWindowLayer} and",
        tests=("tests/llava/test_generation.py",),
    ),
    Mutant(
        "rotary frequencies that follow the longest row count as fixed",
        "hired_eval/llava/generation.py", ' or kind == "longrope"', "",
        tests=("tests/llava/test_generation.py",),
    ),
    Mutant(
        "the checkpoint's own generation options are not looked at",
        "hired_eval/llava/generation.py", "{**config.to_diff_dict(), **settings}", "dict(settings)",
        tests=("tests/llava/test_generation.py",),
    ),
]  # fmt: skip
