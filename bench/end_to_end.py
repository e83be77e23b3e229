"""Whole benchmarks: against lmms-eval's llava_hf, prefix sharing, encode once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from sys import stderr
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lmms_eval.api.instance import Instance

from bench.harness import Comparison, agreement, in_turns, together
from bench.stock import fresh, llava_hf
from hired_eval.dropping import TokenDropper
from hired_eval.dropping.registry import build
from hired_eval.lmms.answerer import Answerer
from hired_eval.lmms.local_data import DataSource
from hired_eval.lmms.model import HiredVLM
from hired_eval.lmms.requests import keys_of
from hired_eval.lmms.tasks import load_task
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint, load_checkpoint
from hired_eval.models.family import Picture
from hired_eval.models.prefix import Prefix, PrefixCaches
from hired_eval.models.visual_tokens import make_visual_tokens
from hired_eval.paths import config_folder
from hired_eval.runs.efficiency.machine import timed
from hired_eval.runs.options import read_task

TASKS = ("vqav2", "scienceqa", "textvqa", "docvqa", "ocrbench", "mme", "pope", "chartqa")
Methods = tuple[tuple[str, dict[str, Any]], ...]
SHARING: Methods = (("full", {}), ("hired", {"budget": 0.4}), ("hired", {"budget": 0.2}))
TABLE3: Methods = (
    ("full", {}), ("spatial", {"budget": 0.4}), ("prumerge", {}), ("prumerge_plus", {}),
    ("hired", {"budget": 0.4}), ("hired", {"budget": 0.2}),
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What the comparisons share.

    Attributes:
        checkpoint: folder of the bundled model.
        device: torch device.
        documents: of each benchmark, from its beginning.
        batch_size: of `hired_llava`.
        repeats: timed turns.
    """

    checkpoint: str
    device: str
    documents: int
    batch_size: int
    repeats: int


@dataclass(frozen=True)
class Workload:
    """Requests of one benchmark, and what they refer to."""

    name: str
    requests: list[Instance]
    documents: dict[str, Any]


def workloads(names: tuple[str, ...], documents: int) -> Iterator[Workload]:
    """The first documents of bundled benchmarks, those without a picture left out: llava_hf has no answer to
    them."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for name in names:
            config = compose("config", overrides=[f"task={name}"]).task
            task = load_task(read_task(dict(config)), DataSource("bundled"))
            with redirect_stdout(stderr):
                task.build_all_requests(limit=documents, rank=0, world_size=1)
            requests = [r for r in task.instances if r.args[2](task.dataset[r.args[5]][r.args[3]])]
            yield Workload(name, requests, {config.lmms_task: task.dataset})


class Runner:
    """Answers workloads with `hired_llava`; nothing is remembered from one time to the next."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.checkpoint: Checkpoint = load_checkpoint(
            setting.checkpoint, dtype="float32", device=setting.device
        )
        self.prompt = str(_prompt())

    def answer(self, work: Workload, dropper: TokenDropper, *, share_prefix: bool = True) -> list[str]:
        """Answers in the order of the requests."""
        return self.answer_together(work, [dropper], share_prefix=share_prefix)

    def answer_together(
        self, work: Workload, droppers: Sequence[TokenDropper], *, share_prefix: bool = True
    ) -> list[str]:
        """Answers of several methods in one pass over the pictures, one method after another."""
        answerers = [
            Answerer(
                DroppingVLM(self.checkpoint, dropper, self.prompt, share_prefix=share_prefix),
                batch_size=self.setting.batch_size,
            )
            for dropper in droppers
        ]
        model = HiredVLM.around(answerers[0], answerers[1:])
        model.task_dict = work.documents
        requests = fresh(work.requests)
        model.generate_until(requests)
        keys = keys_of(requests, set())
        return [answerer.replies[key].text for answerer in answerers for key in keys]

    def arithmetic_alone(self, work: Workload) -> Callable[[], None]:
        """The vision tower and the prefill of full execution, once for each image and one after another.

        No way of answering can leave these out. Decoding and resizing pictures, the questions and the answers
        come on top.
        """
        llava = DroppingVLM(self.checkpoint, build("full"), self.prompt)
        images: dict[Any, tuple[Prefix, Picture]] = {}
        for request in work.requests:
            context, _, doc_to_visual, doc_id, task, split = request.args
            (picture,) = doc_to_visual(work.documents[task][split][doc_id])
            prefix = llava.prepare(Question(context, (picture,))).prefix
            images[prefix.key] = prefix, llava.pictures.read(picture)

        @torch.inference_mode()
        def run() -> None:
            for prefix, read in images.values():
                make_visual_tokens(llava.family, [read], llava.dropper.vision)
                PrefixCaches(llava.family).batch([prefix], pad=0)

        return run


def _prompt() -> str:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return str(compose("config").model.prompt)


def against_llava_hf(setting: Setting, names: tuple[str, ...] = TASKS) -> list[Comparison]:
    """(a) `hired_llava method=full` against lmms-eval's `llava_hf` at its batch size of 1."""
    stock = llava_hf(setting.checkpoint, setting.device, "float32")
    runner = Runner(setting)
    rows, least = [], []
    for work in workloads(names, setting.documents):

        def ask_stock(work: Workload = work) -> list[str]:
            stock.task_dict = work.documents
            answers: list[str] = stock.generate_until(fresh(work.requests))
            # hired_llava cuts at the task's stops, which llava_hf reads and does not use
            return [_cut(a, r.args[1].get("until")) for a, r in zip(answers, work.requests, strict=True)]

        pairs, theirs, ours = in_turns(
            ask_stock, partial(runner.answer, work, build("full")), setting.repeats
        )
        if not any(theirs):
            raise RuntimeError(f"llava_hf gave no answers on {work.name}: it swallows its errors")
        target = 6.0 if work.name == "pope" else None
        what = f"(a) {work.name}, {len(work.requests)} questions"
        same = agreement(theirs, ours)
        rows.append(Comparison(what, "llava_hf, batch 1", _full(setting), pairs, same, target))
        alone = runner.arithmetic_alone(work)
        alone()  # to warm up
        bound = [(base, timed(alone, runner.checkpoint.model.device)) for base, _ in pairs]
        least.append(Comparison(what, "llava_hf, batch 1", "vision tower and prefill alone", bound, ""))
    bound_of_all = replace(together("(a) all benchmarks, what is possible", least, None), same="no answers")
    return [*rows, together("(a) all benchmarks", rows, 3.0), bound_of_all]


def prefix_sharing(setting: Setting, names: tuple[str, ...] = ("pope",)) -> list[Comparison]:
    """(e) Prefix sharing on and off."""
    runner = Runner(setting)
    rows = []
    for work in workloads(names, setting.documents):
        for method, options in SHARING:
            ask = partial(runner.answer, work, build(method, **options))
            pairs, off, on = in_turns(
                partial(ask, share_prefix=False), partial(ask, share_prefix=True), setting.repeats
            )
            label = f"(e) {work.name}, {len(work.requests)} questions, {method} {options.get('budget', '')}"
            rows.append(Comparison(label.strip(), "share_prefix=false", "true", pairs, agreement(off, on)))
    return rows


def encode_once(setting: Setting, names: tuple[str, ...] = TASKS) -> list[Comparison]:
    """(f) The six methods of Table 3 in one pass over the pictures, and one after another."""
    runner = Runner(setting)
    rows = []
    for work in workloads(names, setting.documents):

        def one_by_one(work: Workload = work) -> list[str]:
            return [answer for m, o in TABLE3 for answer in runner.answer(work, build(m, **o))]

        def in_one_pass(work: Workload = work) -> list[str]:
            return runner.answer_together(work, [build(m, **o) for m, o in TABLE3])

        pairs, off, on = in_turns(one_by_one, in_one_pass, setting.repeats)
        what = f"(f) {work.name}, sweep over {len(TABLE3)} x {len(work.requests)} questions"
        rows.append(Comparison(what, "one after another", "in one pass", pairs, agreement(off, on)))
    return [*rows, together("(f) all benchmarks", rows, None)]


def _full(setting: Setting) -> str:
    return f"hired_llava method=full, batch {setting.batch_size}"


def _cut(text: str, until: str | list[str] | None) -> str:
    for stop in [until] if isinstance(until, str) else until or []:
        text = text.split(stop)[0] if stop else text
    return text
