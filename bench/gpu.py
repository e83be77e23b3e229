"""`python -m bench gpu`: how busy a GPU is kept with LLaVA-Next 7B, and where the time goes."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from bench.end_to_end import Workload as Work
from bench.gpu_report import (
    BATCH,
    DECODING,
    FAILURES,
    IMAGE,
    LIMITS,
    METHODS,
    RATES,
    SELECTION,
    SHARED,
    TABLE4,
    Report,
    Row,
)  # fmt: skip
from bench.pages import QUESTIONS, ask, draw_pages
from bench.pipeline import Pipeline, Rate
from hired_eval.dropping import Full, Layouts, TokenDropper
from hired_eval.dropping.registry import available_methods, build
from hired_eval.errors import first_line
from hired_eval.mini import checkpoint_path
from hired_eval.models.answering import Question
from hired_eval.models.checkpoint import load_checkpoint
from hired_eval.models.configs import prompt_named
from hired_eval.models.images import digest
from hired_eval.models.visual_tokens import PICTURES_A_PASS
from hired_eval.runs.efficiency.machine import Machine, measure_machine, timed
from hired_eval.runs.efficiency.measure import Efficiency, measure_speed
from hired_eval.runs.options import Workload
from hired_eval.runs.plan import describe_machine

SECONDS_TO_COMPILE = 60
"""That must be left for the decoding step to be compiled."""


@dataclass(frozen=True)
class Setting:
    """How much is measured, and on what.

    Attributes:
        model: a folder, or an id on the hub whose architecture is built with dummy weights.
        config: name of the model config whose prompt is asked with.
        device, dtype: of the model.
        width, height: of a page, in pixels.
        pages: of Full, HiRED 40 % and HiRED 20 %, so that each takes about as long.
        shared: pages about which four questions are asked.
        stock: pages for `llava_hf`.
        batch_size, workers: of `hired_llava`.
        new_tokens: of each answer.
        batches: of Table 4's measure.
        workload: likewise.
        repeats: of what takes milliseconds.
        steps: of decoding that are timed.
    """

    model: str
    config: str
    device: str
    dtype: str
    width: int
    height: int
    pages: tuple[int, int, int]
    shared: int
    stock: int
    batch_size: int
    workers: int
    new_tokens: int
    batches: tuple[int, ...]
    workload: Workload
    repeats: int
    steps: int


LARGE = Setting(
    "llava-hf/llava-v1.6-vicuna-7b-hf", "llava_next_7b", "cuda", "float16", 1700, 2200, (160, 192, 320), 16,
    16, 16, 14, 4, (1, 4, 16), Workload(672, 672, text_tokens=60, new_tokens=15, warm_up=1, repeats=1), 5, 16,
)  # fmt: skip
SMALL = Setting(
    str(checkpoint_path()), "mini", "cpu", "float32", 340, 440, (8, 8, 8), 4, 4,
    4, 1, 4, (1, 4), Workload(224, 224, text_tokens=20, new_tokens=4, warm_up=0, repeats=1), 1, 4,
)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Measure, print and write; the exit status is 1 where a part failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--small", action="store_true", help="the bundled model on the CPU, in a minute")
    parser.add_argument(
        "--out", type=Path, default=Path("results/gpu"), help="folder for gpu.json and gpu.md"
    )
    parser.add_argument("--minutes", type=float, default=4, help="parts that would begin later are left out")
    parser.add_argument("--batch-size", type=int, help="questions answered together (16)")
    parser.add_argument("--workers", type=int, help="threads that read pages ahead (14)")
    options = parser.parse_args(arguments)
    if not options.small and not torch.cuda.is_available():
        sys.exit(
            "error: PyTorch finds no CUDA GPU here; python -m bench gpu --small runs the same on the CPU"
        )
    setting = SMALL if options.small else LARGE
    changed = {"batch_size": options.batch_size, "workers": options.workers}
    setting = replace(setting, **{name: value for name, value in changed.items() if value})
    report = Report(options.out, describe(setting))
    try:
        measure(setting, report, options.minutes * 60)
    except KeyboardInterrupt:
        print(f"stopped; what was measured so far is in {options.out}", file=sys.stderr)
        sys.exit(130)
    print(report.markdown())
    print(f"written: {options.out / 'gpu.md'}, {options.out / 'gpu.json'}", file=sys.stderr)
    sys.exit(1 if report.failed else 0)


def measure(setting: Setting, report: Report, seconds: float) -> None:
    """All parts in the order of what they matter, as far as the time goes."""
    with report.part("loading the model, drawing pages"):
        made = Measurement(setting, report)
    if report.failed:
        return
    parts: list[tuple[str, Callable[[], None]]] = [("matrix product and copy", made.limits)]
    parts += [("llava_hf", made.stock)]
    parts += [(label, lambda label=label: made.method(label)) for label in METHODS]  # type: ignore[misc]
    parts += [
        ("several questions a page", made.shared),
        ("one page", made.image),
        ("selection of every method", made.selection),
        ("Table 4's measure", made.table4),
        ("decoding", made.decoding),
    ]
    for name, part in parts:
        left = seconds - (time.monotonic() - report.start)
        needed = SECONDS_TO_COMPILE if part == made.decoding and setting.device == "cuda" else 0
        if left < needed:
            report.failed[name] = f"left out for lack of time; add to --minutes ({seconds / 60:g})"
            report.write()
            continue
        with report.part(name):
            part()
        if setting.device == "cuda":
            torch.cuda.empty_cache()


class Measurement:
    """The parts of the measurement, which share a model and drawn pages."""

    def __init__(self, setting: Setting, report: Report) -> None:
        self.setting, self.report = setting, report
        weights: Any = "dummy" if setting.device == "cuda" else "pretrained"
        self.checkpoint = load_checkpoint(
            setting.model, weights=weights, dtype=setting.dtype, device=setting.device
        )
        self.device: torch.device = self.checkpoint.model.device
        most = max(*setting.pages, setting.shared, setting.stock)
        self.pages = draw_pages(most, setting.width, setting.height, setting.workers)
        self.pipeline = Pipeline(
            self.checkpoint, prompt_named(setting.config), setting.batch_size, setting.workers
        )
        self.family = self.pipeline.llava(None).family
        self.machine: Machine | None = None

    def limits(self) -> None:
        """What arithmetic and memory allow."""
        self.machine = measure_machine(self.device, self.checkpoint.model.dtype)
        self.report.add(
            LIMITS,
            matrix_product_TFLOPs_a_second=self.machine.flops_per_second / 1e12,
            copy_GB_a_second=self.machine.bytes_per_second / 1e9,
        )

    def stock(self) -> None:
        """lmms-eval's `llava_hf`."""
        self.pipeline.stock(self._ask(2))
        self._add_rate("llava_hf, batch 1", self.pipeline.stock(self._ask(self.setting.stock)))

    def method(self, label: str) -> None:
        """The whole pipeline with a method, its GPU side alone, one batch, and what arithmetic allows."""
        dropper, work = _build(label), self._ask(self.setting.pages[list(METHODS).index(label)])
        few = self._ask(self.setting.batch_size)
        self.pipeline.whole(dropper, few)
        whole = self.pipeline.whole(dropper, work)
        part = replace(work, requests=work.requests[: 4 * self.setting.batch_size])
        read = self.pipeline.read(part)
        alone = self.pipeline.prepared(dropper, part)
        rate = self._add_rate(label, whole, alone, read)
        page = replace(
            self.setting.workload,
            width=self.setting.width,
            height=self.setting.height,
            new_tokens=self.setting.new_tokens,
        )
        batch = Efficiency(self.checkpoint, dropper, page, self.setting.batch_size)
        batch.run()
        times = batch.run()
        flops = sum(phase.flops for phase in batch.phases().values()) / self.setting.batch_size
        if self.machine:
            rate["arithmetic allows"] = self.machine.flops_per_second / flops
        self.report.add(
            BATCH,
            method=label,
            pages=self.setting.batch_size,
            visual_tokens_a_page=batch.kept[0],
            vision_side=1e3 * times.vision,
            prefill=1e3 * (times.first_token - times.vision),
            decoding_step=1e3 * (times.total - times.first_token) / (self.setting.new_tokens - 1),
            TFLOP_a_page=flops / 1e12,
        )

    def shared(self) -> None:
        """Four questions on each of some pages, which share the page's prefix."""
        work = ask(self.pages[: self.setting.shared], 4, self.setting.new_tokens)
        self.pipeline.read(work)
        few = replace(work, requests=work.requests[: self.setting.batch_size])
        for label in ("Full", "HiRED 20 %"):
            self.pipeline.whole(_build(label), few)
            whole = self.pipeline.whole(_build(label), work)
            alone = self.pipeline.prepared(_build(label), work)
            self.report.add(
                SHARED,
                method=label,
                questions=whole.questions,
                pages=self.setting.shared,
                whole_pipeline=whole.per_second,
                GPU_side_alone=alone.per_second,
                GPU_utilisation_percent=whole.utilisation,
            )

    @torch.inference_mode()
    def image(self) -> None:
        """The parts of one page, and of one in a full pass of the vision tower."""
        llava, full, hired = (
            self.pipeline.llava(None),
            build("full").vision,
            build("hired", budget=0.2).vision,
        )
        with Image.open(io.BytesIO(self.pages[0])) as opened:
            rgb = opened.convert("RGB")
        picture = llava.pictures.read(rgb)
        pixels = picture.pixels.to(self.checkpoint.model.dtype)
        there, layouts = pixels.to(self.device), Layouts((picture.layout,), self.device)
        encoding = self.family.encode(there, hired)
        packed = hired.select(encoding, layouts)[0]
        parts: dict[str, Callable[[], object]] = {
            "open and convert": lambda: Image.open(io.BytesIO(self.pages[0])).convert("RGB"),
            "digest": lambda: digest(rgb),
            "resize and normalise": lambda: llava.pictures.read(rgb),
            "to the device": lambda: pixels.to(self.device),
            "vision tower, Full": lambda: self.family.encode(there, full),
            "vision tower, HiRED": lambda: self.family.encode(there, hired),
            "selection, HiRED 20 %": lambda: hired.select(encoding, layouts),
            "projector, HiRED 20 %": lambda: self.family.embed(packed, picture.layout),
        }
        for part, call in parts.items():
            self.report.add(IMAGE, part=part, milliseconds=self._milliseconds(call))

    @torch.inference_mode()
    def selection(self) -> None:
        """Selection of every method with a vision stage of its own, in a full pass."""
        pictures = [
            self.family.read(page, self.checkpoint.processor.image_processor) for page in self._open()
        ]
        pixels = torch.cat([p.pixels for p in pictures]).to(self.device, self.checkpoint.model.dtype)
        layouts = Layouts(tuple(p.layout for p in pictures), self.device)
        full = build("full").vision
        tower = self._milliseconds(lambda: self.family.encode(pixels, full)) / len(pictures)
        for name in available_methods():
            stage = build(name).vision
            if isinstance(stage, Full) or stage.question_tower is not None:
                continue
            row: Row = {"method": name, "pages_in_the_pass": len(pictures), "tower_of_Full": tower}
            try:
                encoding = self.family.encode(pixels, stage)
                select = self._milliseconds(lambda: stage.select(encoding, layouts)) / len(pictures)  # noqa: B023
                signals = self._milliseconds(lambda: self.family.encode(pixels, stage)) / len(pictures)  # noqa: B023
            except FAILURES as error:
                self.report.add(SELECTION, **row, note=first_line(error))
                continue
            self.report.add(
                SELECTION,
                **row,
                tower_with_its_signals=signals,
                selection=select,
                share_of_the_tower_percent=100 * select / tower,
            )

    def table4(self) -> None:
        """Table 4's measure, as measure=efficiency has it."""
        machine = self.machine or measure_machine(self.device, self.checkpoint.model.dtype)
        for batch in self.setting.batches:
            for label in ("stock", *METHODS):
                dropper = None if label == "stock" else _build(label)
                timed_batch = Efficiency(self.checkpoint, dropper, self.setting.workload, batch)
                speed = measure_speed(timed_batch, machine)
                if speed is None:
                    self.report.add(TABLE4, batch=batch, method=label, note="out of memory")
                    continue
                self.report.add(
                    TABLE4,
                    batch=batch,
                    method=label,
                    first_token=speed.time_to_first_token_seconds.median,
                    last_token=speed.latency_seconds.median,
                    vision_side=self._milliseconds(timed_batch.visual_tokens) / 1e3,
                    memory=speed.memory_gigabytes,
                )

    def decoding(self) -> None:
        """Decoding eagerly and on a static cache, of the questions of a batch with HiRED 20 %."""
        few = 2
        answers: dict[str, list[str]] = {}
        for decoding in ("eager", "static"):
            llava = self.pipeline.llava(_build("HiRED 20 %"), decoding=decoding)
            batch = [
                replace(llava.prepare(Question(QUESTIONS[0], (page,))), shared=0) for page in self._open()
            ]

            def answer(new: int, llava: Any = llava, batch: Any = batch) -> list[str]:
                found = llava.answer(batch, {"max_new_tokens": new, "min_new_tokens": new})
                return [a.text for a in found]

            lengths = few, few + self.setting.steps
            first = sum(timed(lambda n=n: answer(n), self.device) for n in lengths)  # type: ignore[misc]
            answers[decoding] = answer(lengths[1])
            short, long = (
                median(timed(lambda n=n: answer(n), self.device) for _ in range(3))  # type: ignore[misc]
                for n in lengths
            )
            self.report.add(
                DECODING,
                decoding=decoding,
                rows=len(batch),
                milliseconds_a_step=1e3 * (long - short) / self.setting.steps,
                seconds_of_the_first_time=first,
                same_answers=sum(a == b for a, b in zip(answers["eager"], answers[decoding], strict=True)),
            )
            llava.release()

    def _ask(self, pages: int) -> Work:
        return ask(self.pages[:pages], 1, self.setting.new_tokens)

    def _open(self) -> list[Image.Image]:
        """The pages of one batch, or of one pass of the vision tower."""
        count = min(self.setting.batch_size, PICTURES_A_PASS)
        return [Image.open(io.BytesIO(page)).convert("RGB") for page in self.pages[:count]]

    def _milliseconds(self, call: Callable[[], object]) -> float:
        call()
        return 1e3 * median(timed(call, self.device) for _ in range(self.setting.repeats))

    def _add_rate(self, label: str, whole: Rate, alone: Rate | None = None, read: Rate | None = None) -> Row:
        """The row of a method; what arithmetic allows is put into it later."""
        known = {row["method"]: row["whole pipeline"] for row in self.report.tables.get(RATES, [])}
        stock = known.get("llava_hf, batch 1")
        return self.report.add(
            RATES,
            method=label,
            pages=whole.questions,
            whole_pipeline=whole.per_second,
            times_llava_hf=whole.per_second / stock if stock else None,
            GPU_utilisation_percent=whole.utilisation,
            GPU_side_alone=alone.per_second if alone else None,
            share_of_it_percent=100 * whole.per_second / alone.per_second if alone else None,
            reading_alone=read.per_second if read else None,
            arithmetic_allows=None,
        )


def describe(setting: Setting) -> dict[str, Any]:
    """Card, driver, versions, date, and what is measured."""
    driver = None
    if setting.device == "cuda" and shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = (
            subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split("\n")[0] or None
        )
    return {
        "card": torch.cuda.get_device_name() if setting.device == "cuda" else "no GPU",
        "driver": driver,
        "CUDA": torch.version.cuda if setting.device == "cuda" else None,
        "machine": describe_machine(),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "Python": platform.python_version(),
        **{n: importlib.metadata.version(n) for n in ("torch", "transformers", "lmms_eval", "hired-eval")},
        "model": f"{setting.config}, {setting.dtype}"
        + (", dummy weights" if setting.device == "cuda" else ""),
        "pages": f"PNG, {setting.width} x {setting.height}",
        "batch size": setting.batch_size,
        "workers": setting.workers,
        "new tokens": setting.new_tokens,
    }


def _build(label: str) -> TokenDropper:
    return build("full" if label == "Full" else "hired", **METHODS[label])
