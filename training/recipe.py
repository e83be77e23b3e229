"""The whole training, stage after stage: each resumes from its checkpoint, a finished one is not repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlavaNextForConditionalGeneration, PreTrainedTokenizerFast

from hired_eval.errors import UserError
from hired_eval.runs.identity import fingerprint
from training import parallel
from training.data import stream
from training.language import Batcher, Example, page_batches, train_language
from training.lookup import Curriculum
from training.model import build_model, build_processor, build_tokenizer, export
from training.vision import train_vision


@dataclass(frozen=True)
class Recipe:
    """How long every stage is, and what one process takes in a step; ``SMOKE`` just runs every stage.

    The defaults take some three hours with two processes. The bundled weights came out of the same stages in
    more pieces; their card says which.
    """

    tokenizer_pages: int = 400
    vision_steps: int = 16000
    vision_pages: int = 16
    lookup_steps: int = 1584
    lookup_batch: int = 96
    compare_steps: int = 500
    joint_steps: int = 2500
    joint_pages: int = 24


SMOKE = Recipe(
    tokenizer_pages=20,
    vision_steps=3,
    vision_pages=2,
    lookup_steps=3,
    lookup_batch=8,
    compare_steps=3,
    joint_steps=3,
    joint_pages=4,
)
UNSEEN = 10_000_000  # the first page of the joint stage: behind all that the vision tower has seen
LOOKUP_EVERY = 4  # of the joint stage's batches, one is of lookup pages, so that the lookup is not unlearned


def train(work: Path, target: Path, recipe: Recipe, processes: int = 2, start: Path | None = None) -> None:
    """Make the bundled checkpoint from nothing, with fixed seeds, or train a finished one on.

    The language model learns on pages that the vision tower has not seen, whose features are as good and as
    bad as those of a test page.

    Args:
        work: folder for the stages' checkpoints; what is finished there is not repeated.
        target: folder the checkpoint and its processor are written to.
        recipe: how long every stage is.
        processes: that train side by side, one thread each.
        start: a finished checkpoint; only the stages behind the lookup are run, from its weights.

    Raises:
        UserError: `work` holds stages of another recipe.
    """
    _refuse_another(work / "recipe.json", recipe, processes, start)
    parallel.side_by_side(processes, _train, work, target, recipe, start)


def _refuse_another(file: Path, recipe: Recipe, processes: int, start: Path | None) -> None:
    """Stages of another recipe, or from other weights, must not be gone on from.

    Raises:
        UserError: the folder holds such stages.
    """
    begun = fingerprint(start, "*") if start else None
    asked = json.dumps({**asdict(recipe), "processes": processes, "start": begun}, indent=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.read_text() != asked:
        raise UserError(f"{file.parent} holds stages of another recipe; name another --work, or delete it")
    file.write_text(asked)


def _train(work: Path, target: Path, recipe: Recipe, start: Path | None) -> None:
    if start:
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = LlavaNextForConditionalGeneration.from_pretrained(start, dtype=torch.float32).train()
    else:
        tokenizer = build_tokenizer(recipe.tokenizer_pages)
        model = build_model(tokenizer)
    # at 65 tokens on a CPU in bfloat16, half as fast again as scaled_dot_product_attention
    model.model.vision_tower.set_attn_implementation("eager")
    if not start:
        stage(model, work / "vision", lambda: _vision(model, tokenizer, work, recipe))
        lookup = Curriculum(recipe.lookup_batch, longest=16, seed=21 + 1000 * parallel.rank())
        learn = partial(_lessons, model, tokenizer, work / "lookup", lookup, recipe.lookup_steps, 3e-3)
        stage(model, work / "lookup", learn)
    size, seed = recipe.lookup_batch // 2, 4100 + 1000 * parallel.rank()
    compare = Curriculum(size, longest=16, seed=seed, compare=True)
    learn = partial(_lessons, model, tokenizer, work / "compare", compare, recipe.compare_steps, 2e-3)
    stage(model, work / "compare", learn)
    stage(model, work / "joint", lambda: _joint(model, tokenizer, work, recipe))
    if parallel.rank() == 0:
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
        if parallel.rank() == 0:
            part = folder / "model.part"
            state = {k: v.detach().clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
            save_file(state, part)
            part.replace(done)
        parallel.wait()
    missing, unexpected = model.load_state_dict(load_file(done), strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise RuntimeError(f"{done} is of another model: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    if parallel.rank() == 0:
        print(f"{folder.name}: finished", flush=True)


def _vision(
    model: LlavaNextForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, work: Path, recipe: Recipe
) -> None:
    train_vision(model, tokenizer, work / "vision", recipe.vision_steps, recipe.vision_pages)


def _lessons(
    model: LlavaNextForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    lessons: Curriculum,
    steps: int,
    peak: float,
) -> None:
    """A stage of lookup pages."""
    train_language(
        model, Batcher(model, tokenizer), folder, lambda step: iter(lessons), steps,
        peak=peak, final=0.3, watch=lessons.watch,
    )  # fmt: skip


def _joint(
    model: LlavaNextForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, work: Path, recipe: Recipe
) -> None:
    train_language(
        model, Batcher(model, tokenizer), work / "joint", lambda step: _mixed(model, step, recipe),
        recipe.joint_steps, peak=1.5e-3, align=0.2,
    )  # fmt: skip


def _mixed(
    model: LlavaNextForConditionalGeneration, step: int, recipe: Recipe
) -> Iterator[tuple[list[Example], float]]:
    """From a step on, batches of real pages, and every few a batch of lookup pages."""
    lessons = Curriculum(
        recipe.lookup_batch // 4, longest=16, seed=22 + step + 1000 * parallel.rank(), compare=True
    )
    lessons.lines = lessons.longest
    easy = iter(lessons)
    # a step takes at most this many pages, so that after an interruption none comes again
    first = UNSEEN + step * recipe.joint_pages * parallel.world()
    pages = stream(first, 4 * recipe.joint_pages)
    real = page_batches(model, pages, recipe.joint_pages, seed=31 + step, full_share=0.3)
    while True:
        step += 1
        yield next(easy) if step % LOOKUP_EVERY == 0 else (next(real), 0.0)
