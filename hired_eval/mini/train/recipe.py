"""The whole training, stage after stage: each resumes from its checkpoint, a finished one is not repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaNextForConditionalGeneration, PreTrainedTokenizerFast

from hired_eval.mini.train.data import read_shard, render_shard, shards
from hired_eval.mini.train.language import Batcher, Example, page_batches, train_language
from hired_eval.mini.train.lookup import Curriculum
from hired_eval.mini.train.model import (
    build_image_processor,
    build_model,
    build_processor,
    build_tokenizer,
    export,
)
from hired_eval.mini.train.vision import run_tower, train_vision


@dataclass(frozen=True)
class Recipe:
    """How long every stage is. The defaults made the bundled checkpoint; ``SMOKE`` just runs every stage."""

    vision_shards: int = 160
    language_shards: int = 64
    shard_pages: int = 250
    tokenizer_pages: int = 400
    vision_steps: int = 23000
    lookup_steps: int = 1584
    joint_steps: int = 2000
    batch_pages: int = 24
    lookup_batch: int = 96


SMOKE = Recipe(
    vision_shards=2, language_shards=1, shard_pages=12, tokenizer_pages=20, vision_steps=3,
    lookup_steps=3, joint_steps=3, batch_pages=4, lookup_batch=8,
)  # fmt: skip
LOOKUP_EVERY = 4  # of the joint stage's batches, one is of lookup pages, so that the lookup is not unlearned


def train(work: Path, target: Path, recipe: Recipe, processes: int = 2) -> None:
    """Make the bundled checkpoint from nothing, with fixed seeds.

    The language model learns on pages that the vision tower has not seen, whose features are as good and as
    bad as those of a test page.

    Args:
        work: folder for rendered pages and checkpoints; what is finished there is not repeated.
        target: folder the checkpoint and its processor are written to.
        recipe: how long every stage is.
        processes: that render pages side by side.
    """
    pages, unseen = work / "pages", work / "pages-language"
    render(pages, 0, recipe.vision_shards, recipe.shard_pages, processes)
    render(unseen, recipe.vision_shards, recipe.language_shards, recipe.shard_pages, processes)
    tokenizer = build_tokenizer(recipe.tokenizer_pages)
    model = build_model(tokenizer)
    stage(model, work / "vision", lambda: train_vision(model, tokenizer, pages, work, recipe.vision_steps))
    stage(model, work / "lookup", lambda: _lookup(model, tokenizer, work, recipe))
    extract(model, unseen, work / "features")
    stage(model, work / "joint", lambda: _joint(model, tokenizer, work, recipe))
    save(model, tokenizer, target)
    print(f"written: {target}", flush=True)


def save(model: LlavaNextForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """Write the checkpoint and its processor."""
    export(model, target)
    build_processor(tokenizer).save_pretrained(target)


def stage(model: LlavaNextForConditionalGeneration, folder: Path, run: Callable[[], None]) -> None:
    """Run a stage, or take its result from ``folder/model.safetensors`` where it is finished."""
    done = folder / "model.safetensors"
    if not done.exists():
        run()
        part = folder / "model.part"
        state = {k: v.detach().clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        save_file(state, part)
        part.replace(done)
    missing, unexpected = model.load_state_dict(load_file(done), strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise RuntimeError(f"{done} is of another model: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    print(f"{folder.name}: finished", flush=True)


def render(pages: Path, first: int, count: int, shard_pages: int, processes: int) -> None:
    """Render ``count`` shards of training pages, several processes side by side."""
    jobs = [(pages / f"{i:03d}", i * shard_pages, shard_pages) for i in range(first, first + count)]
    with ProcessPoolExecutor(processes) as pool:
        for i, _ in enumerate(pool.map(_render, jobs), 1):
            print(f"pages {i}/{len(jobs)} shards", flush=True)


def _render(job: tuple[Path, int, int]) -> None:
    folder, start, count = job
    torch.set_num_threads(1)
    render_shard(folder, "train", start, count, build_image_processor())


@torch.no_grad()
def extract(model: LlavaNextForConditionalGeneration, pages: Path, features: Path) -> None:
    """Write the frozen tower's features of every shard: (M, TOKENS, C) float16."""
    features.mkdir(parents=True, exist_ok=True)
    model.eval()
    for folder in shards(pages):
        done = features / f"{folder.name}.npy"
        if done.exists():
            continue
        pixels, out = read_shard(folder).pixels, []
        for at in range(0, len(pixels), 64):
            with torch.autocast("cpu", torch.bfloat16):
                states = run_tower(model, torch.from_numpy(pixels[at : at + 64].copy()))
            out.append(states[-2][:, 1:].to(torch.float16).numpy())
        part = features / f"{folder.name}.part"
        with part.open("wb") as file:
            np.save(file, np.concatenate(out))
        part.replace(done)
        print(f"features {folder.name}", flush=True)


def _lookup(
    model: LlavaNextForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, work: Path, recipe: Recipe
) -> None:
    lessons = Curriculum(recipe.lookup_batch, longest=16, seed=21)
    train_language(
        model, Batcher(model, tokenizer), work / "lookup", iter(lessons), recipe.lookup_steps,
        peak=3e-3, final=0.3, watch=lessons.watch,
    )  # fmt: skip


def _joint(
    model: LlavaNextForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, work: Path, recipe: Recipe
) -> None:
    train_language(
        model, Batcher(model, tokenizer), work / "joint", _mixed(work, recipe), recipe.joint_steps,
        peak=1.5e-3, align=0.2,
    )  # fmt: skip


def _mixed(work: Path, recipe: Recipe) -> Iterator[tuple[list[Example], float]]:
    """Batches of real pages, and every few a batch of lookup pages."""
    lessons = Curriculum(recipe.lookup_batch, longest=16, seed=22)
    lessons.lines = lessons.longest
    easy = iter(lessons)
    real = page_batches(work / "pages-language", work / "features", recipe.batch_pages, 31, full_share=0.3)
    step = 0
    while True:
        step += 1
        yield next(easy) if step % LOOKUP_EVERY == 0 else (next(real), 0.0)
