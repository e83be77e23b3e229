"""`python -m tests.models.families_table`: what dropping leaves of each family, and whether Full is stock.

On tiny random models of each family, the stock model, full execution, and HiRED read every picture.
For the published shapes, which need no weights for it, tokens and arithmetic of one page are counted.
"""

import argparse
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

from hired_eval.dropping.registry import build
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.configs import model_configs
from hired_eval.models.dummy import dummy_processor
from hired_eval.models.published import published_config
from hired_eval.runs.forecast import TEXT_TOKENS, count_tflop, family_without_weights
from tests import tiny
from tests.models.stock import generate
from tests.models.test_fixed_answers import FAMILIES
from tests.models.test_internvl import SIZES

PAGE, BUDGET = (2200, 1700), 0.2
"""Height and width of a drawn page in pixels, and HiRED's budget."""
HIRED: dict[str, Any] = {"budget": BUDGET, "signal": "auto"}
OF_FAMILY: dict[str, dict[str, Any]] = {"qwen2_5_vl": {"distribute": "even"}}
"""Windows in its first layer have no content score over the picture."""
PLACEHOLDERS = {"qwen2_5_vl": tiny.QWEN_IMAGE, "qwen3_vl": tiny.QWEN_IMAGE}


def tiny_row(family: str) -> str:
    """A family's row: kept tokens and equality on its tiny random model."""
    checkpoint = Checkpoint(*getattr(tiny, family)())
    model, processor = checkpoint.model, checkpoint.processor
    options = HIRED | OF_FAMILY.get(family, {})
    hired = DroppingVLM(checkpoint, build("hired", **options), "a:{images}{question}")
    equal, kept, full = 0, 0, 0
    for width, height in SIZES:
        picture = tiny.picture(width, height, seed=width + height)
        text = ["a:" + PLACEHOLDERS.get(family, "<image>") + "?"]
        inputs = dict(processor(images=[picture], text=text, return_tensors="pt"))
        stock = generate(model, inputs)
        with build("full")(model):
            equal += generate(model, inputs).equal(stock)
        for image in hired.prepare(Question("?", (picture,))).images:
            kept, full = kept + image.counts.kept, full + image.counts.full
    given = " ".join(f"{name}={value}" for name, value in options.items())
    return (
        f"| `{family}` | {equal} of {len(SIZES)} | {full} | {kept} | {100 * kept / full:.1f} % | `{given}` |"
    )


def published_row(name: str) -> str | None:
    """A model config's row: tokens and arithmetic of a page at the published shape, or None without one."""
    shapes = published_config(str(model_configs()[name].get("hub_id", "")))
    if shapes is None:
        return None
    family = family_without_weights(shapes, dummy_processor(shapes))
    layout = family.layout(PAGE)
    full, kept = layout.stock_tokens, int(BUDGET * layout.total_tokens)
    whole, less = (sum(count_tflop(family, layout, tokens)) for tokens in (full, kept))
    grid = f"{layout.partitions} x {layout.tokens_per_partition}"
    return f"| `{name}` | {grid} | {full} | {kept} | {whole:.1f} | {less:.1f} | {100 * less / whole:.0f} % |"


def lines() -> Iterator[str]:
    """The page."""
    yield "# Model families: tokens, arithmetic, and equality with stock\n"
    yield (
        f"Made by `make families` on {date.today()} with torch {torch.__version__} and transformers "
        f"{transformers.__version__}, float32, CPU.\n"
    )
    yield "## Tiny random models\n"
    yield (
        f"{len(SIZES)} pictures: one tile, many, extreme aspect ratios, tiny. *Equal*: answers of full "
        "execution that are those of the stock model, token for token. *Kept*: visual tokens with HiRED at "
        "20 %, summed over the pictures; partitions are of a few tokens here, so that rounding down takes "
        "much.\n"
    )
    yield "| family | equal | full | kept | share | HiRED's options |\n|---|---|---|---|---|---|"
    yield from (tiny_row(family) for family in FAMILIES)
    yield "\n## Published shapes\n"
    yield (
        f"Counted, without weights, for a page of {PAGE[1]} x {PAGE[0]} pixels and {TEXT_TOKENS} tokens of "
        "text: visual tokens of full execution, the most that a budget of 20 % allows, and TFLOP of encoding "
        "and prefill. Shapes are those of `hired_eval/models/published.py`.\n"
    )
    yield "| `model=` | partitions x tokens | full | at 20 % | TFLOP, full | TFLOP, 20 % | share |"
    yield "|---|---|---|---|---|---|---|"
    yield from (row for name in model_configs() if (row := published_row(name)))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.models.families_table", description=__doc__)
    parser.add_argument("--write", type=Path, required=True, help="the file")
    chosen = parser.parse_args()
    chosen.write.write_text("\n".join(lines()) + "\n")
    print(f"written: {chosen.write}")


if __name__ == "__main__":
    main()
