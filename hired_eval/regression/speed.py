"""Time of a method over that of the stock model, on the same questions in the same process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from statistics import median
from typing import Any, TextIO

import torch
from lmms_eval.api.instance import Instance

from hired_eval.benchmarks import load_task
from hired_eval.efficiency.machine import timed
from hired_eval.llava.answering import DroppingLlava
from hired_eval.llava.checkpoint import Checkpoint
from hired_eval.llava.images import as_rgb
from hired_eval.llava.prompt import render
from hired_eval.lmms import HiredLlava
from hired_eval.loading import Models
from hired_eval.regression.chosen import ChosenSet
from hired_eval.runs import planned

MAX_NEW_TOKENS = 1024
"""Where the task names no limit; an answer ends far before."""


def measured_speed(chosen: ChosenSet, models: Models, log: TextIO) -> dict[str, float]:
    """Timed method -> the median over rounds of its seconds over the stock model's.

    Stock is the processor and `generate` of transformers, one question at a time. All are measured in turns,
    so that what else the machine does slows them alike.

    Args:
        chosen: the set; says what is timed.
        models: loads the model once.
        log: takes the progress bars.

    Raises:
        UserError: the set's config, checkpoint or data.
    """
    speed = chosen.speed
    ways: dict[str, Callable[[], Any]] = {}
    with redirect_stderr(log), redirect_stdout(log):
        for method in speed.methods:
            config = chosen.config(method, speed.benchmark)
            plan = planned(config)
            task = load_task(plan.benchmark, plan.data)
            checkpoint = models.get(plan.source, config["model"], config["device"], config["seed"])
            task.build_all_requests(limit=speed.samples, rank=0, world_size=1)
            if not ways:
                ways["stock"] = _stock(checkpoint, task, config["model"]["prompt"])
            ways[method] = _dropping(checkpoint, task, config, plan.dropper)
        rounds = []
        for number in range(1 + speed.rounds):
            seconds = {name: timed(way, checkpoint.model.device) for name, way in ways.items()}
            if number:
                rounds.append({name: seconds[name] / seconds["stock"] for name in speed.methods})
    return {name: median(ratios[name] for ratios in rounds) for name in speed.methods}


def _dropping(checkpoint: Checkpoint, task: Any, config: dict[str, Any], dropper: Any) -> Callable[[], Any]:
    """Answers to the task's requests as a run gives them, nothing remembered from the time before."""

    def answers() -> list[str]:
        llava = DroppingLlava(
            checkpoint, dropper, config["model"]["prompt"], share_prefix=config["share_prefix"]
        )
        model = HiredLlava.around(llava, batch_size=config["batch_size"])
        model.task_dict = {task.config.task: task.dataset}
        return model.generate_until(task.instances)

    return answers


def _stock(checkpoint: Checkpoint, task: Any, prompt: str) -> Callable[[], Any]:
    """Answers of transformers alone."""
    model, processor = checkpoint.model, checkpoint.processor

    @torch.inference_mode()
    def answers() -> list[str]:
        return [_stock_answer(model, processor, prompt, task, request) for request in task.instances]

    return answers


def _stock_answer(model: Any, processor: Any, prompt: str, task: Any, request: Instance) -> str:
    context, generation, doc_to_visual, doc_id, _, split = request.args
    images = [as_rgb(image) for image in doc_to_visual(task.dataset[split][doc_id])]
    text = render(prompt, context, len(images), processor.tokenizer, processor.image_token)
    inputs = processor(images=images or None, text=text, return_tensors="pt").to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    output = model.generate(
        **inputs,
        max_new_tokens=generation.get("max_new_tokens", MAX_NEW_TOKENS),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    new: str = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return new
