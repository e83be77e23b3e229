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

from hired_eval.mini.card import write_card
from hired_eval.mini.train.recipe import SMOKE, Recipe, train
from hired_eval.mini.vocabulary import BENCHMARKS
from hired_eval.reporting.store import Store

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "hired_eval" / "mini" / "checkpoint"


def measure(checkpoint: Path, runs: Path, limit: int | None) -> None:
    """Run the benchmarks with all tokens, with random shares of them, and on the full-image alone."""
    common = ["-m", f"task={','.join(BENCHMARKS)}", f"runs_dir={runs}", f"limit={limit or 'null'}"]
    for choice in (
        ["method=full", f"model.path={checkpoint}", "data=bundled"],
        ["method=random", "budget=0.4,0.2,0.1,0.05", f"model.path={checkpoint}", "data=bundled"],
        ["method=full", "model=mini_1_5", "data=bundled"],
    ):
        if checkpoint != BUNDLED and "model=mini_1_5" in choice:
            print("the full-image alone is measured on the bundled checkpoint only", flush=True)
            continue
        subprocess.run([sys.executable, "-m", "hired_eval", *common, *choice], check=True)


def card(checkpoint: Path, runs: Path) -> None:
    weights = checkpoint / "model.safetensors"
    parameters = sum(tensor.numel() for tensor in load_file(weights).values())
    write_card(checkpoint / "README.md", Store(runs).accuracy(), parameters, weights.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mini", help="the stages' checkpoints")
    parser.add_argument("--target", type=Path, default=BUNDLED, help="folder of the finished checkpoint")
    parser.add_argument("--smoke", action="store_true", help="a minute through every stage; learns nothing")
    parser.add_argument("--processes", type=int, default=2, help="that train side by side, one thread each")
    parser.add_argument("--start", type=Path, help="a finished checkpoint to train on")
    parser.add_argument("--compare-steps", type=int, default=Recipe.compare_steps, help="of comparing")
    parser.add_argument("--joint-steps", type=int, default=Recipe.joint_steps, help="of the last stage")
    options = parser.parse_args()
    steps = Recipe(compare_steps=options.compare_steps, joint_steps=options.joint_steps)
    recipe = SMOKE if options.smoke else steps
    train(options.work, options.target, recipe, options.processes, options.start)
    measure(options.target, options.work / "runs", limit=4 if options.smoke else None)
    card(options.target, options.work / "runs")


if __name__ == "__main__":
    main()
