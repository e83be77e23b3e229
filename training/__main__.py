"""Train the bundled model from nothing: vision tower, language model, both; resumes where it stopped.

``--start`` trains the language model of a finished checkpoint on, from the comparisons.

Afterwards the eight mini benchmarks measure it, and the card beside the checkpoint says what they found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from hired_eval.errors import UserError
from hired_eval.mini.vocabulary import BENCHMARKS
from hired_eval.records.store import Store
from training.card import write_card
from training.recipe import SMOKE, Recipe, train

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "hired_eval" / "mini" / "checkpoint"


def measure(checkpoint: Path, runs: Path, limit: int | None) -> None:
    """Run the benchmarks with all tokens, with shares of them, and on the full-image alone."""
    common = ["-m", f"task={','.join(BENCHMARKS)}", f"runs_dir={runs}", f"limit={limit or 'null'}"]
    for choice in (
        ["method=full", f"model.path={checkpoint}", "data=bundled"],
        ["method=random", "budget=0.05", f"model.path={checkpoint}", "data=bundled"],
        [
            "method=hired,topk_cls,spatial,random",
            "budget=0.4,0.2,0.1",
            f"model.path={checkpoint}",
            "data=bundled",
        ],
        ["method=full", "model=mini_1_5", "data=bundled"],
    ):
        if checkpoint != BUNDLED and "model=mini_1_5" in choice:
            print("the full-image alone is measured on the bundled checkpoint only", flush=True)
            continue
        subprocess.run([sys.executable, "-m", "hired_eval", *common, *choice], check=True)


def made(recipe: Recipe, options: argparse.Namespace) -> str:
    """How this run made the weights, for the card."""
    steps = ", ".join(f"{name} {value}" for name, value in vars(recipe).items())
    begun = f", trained on from {options.start}" if options.start else ""
    return f"One run of `make train-mini`{begun}, {options.processes} processes: {steps}."


def card(checkpoint: Path, runs: Path, history: str) -> None:
    weights = checkpoint / "model.safetensors"
    parameters = sum(tensor.numel() for tensor in load_file(weights).values())
    write_card(checkpoint / "README.md", Store(runs), parameters, weights.stat().st_size, history)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--work", type=Path, help="the stages' checkpoints (build/mini)")
    parser.add_argument("--target", type=Path, help="the finished checkpoint (the bundled one's folder)")
    parser.add_argument("--smoke", action="store_true", help="a minute through every stage; learns nothing")
    parser.add_argument("--processes", type=int, default=2, help="that train side by side, one thread each")
    parser.add_argument("--start", type=Path, help="a finished checkpoint to train on")
    parser.add_argument("--compare-steps", type=int, default=Recipe.compare_steps, help="of comparing")
    parser.add_argument("--joint-steps", type=int, default=Recipe.joint_steps, help="of the last stage")
    options = parser.parse_args()
    steps = Recipe(compare_steps=options.compare_steps, joint_steps=options.joint_steps)
    recipe = SMOKE if options.smoke else steps
    # a smoke run's stages and checkpoint must not be taken for real ones
    work = options.work or ROOT / "build" / ("mini-smoke" if options.smoke else "mini")
    target = options.target or (work / "checkpoint" if options.smoke else BUNDLED)
    try:
        train(work, target, recipe, options.processes, options.start)
    except UserError as error:
        sys.exit(f"error: {error}")
    measure(target, work / "runs", limit=4 if options.smoke else None)
    card(target, work / "runs", made(recipe, options))


if __name__ == "__main__":
    main()
