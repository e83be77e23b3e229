"""Train the bundled model from nothing: pages, vision tower, language model; resumes where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hired_eval.mini.train.recipe import SMOKE, Recipe, train

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mini", help="pages and checkpoints")
    parser.add_argument("--target", type=Path, default=ROOT / "hired_eval" / "mini" / "checkpoint")
    parser.add_argument("--smoke", action="store_true", help="a minute through every stage; learns nothing")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.work, options.target, SMOKE if options.smoke else Recipe(), options.threads)


if __name__ == "__main__":
    main()
