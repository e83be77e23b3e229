"""Questions a second: of lmms-eval's `llava_hf`, of `hired_llava`, and of its GPU side alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from types import TracebackType
from typing import Any

import torch

from bench.end_to_end import Workload
from bench.stock import fresh, llava_hf_around
from hired_eval.dropping import TokenDropper
from hired_eval.dropping.registry import build
from hired_eval.lmms.answerer import Answerer
from hired_eval.lmms.model import HiredVLM
from hired_eval.lmms.requests import Job, ReadRequest, RequestReader
from hired_eval.models.answering import DroppingVLM
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.pictures import Pictures
from hired_eval.models.reading import ReadAhead
from hired_eval.runs.efficiency.machine import timed

Kept = dict[tuple[int, ...], list[ReadRequest]]
"""Requests with their pictures read, by the documents of those about the same pictures."""


@dataclass(frozen=True)
class Rate:
    """How fast questions were answered.

    Attributes:
        questions: how many.
        seconds: all of them took.
        utilisation: of the GPU in percent, the mean over the time; None where it is not measured.
    """

    questions: int
    seconds: float
    utilisation: float | None

    @property
    def per_second(self) -> float:
        """Questions a second."""
        return self.questions / self.seconds


class ReadBefore(RequestReader):
    """Gives pictures that were read before, resized and normalised; others are read and kept."""

    def __init__(self, task_dict: Mapping[str, Any], pictures: Pictures, kept: Kept) -> None:
        super().__init__(task_dict, pictures)
        self.kept = kept

    def read(self, job: Job) -> list[ReadRequest]:
        """Requests with their pictures."""
        documents = tuple(request.args[3] for _, request in job)
        if documents not in self.kept:
            self.kept[documents] = super().read(job)
        return [replace(read, key=key) for read, (key, _) in zip(self.kept[documents], job, strict=True)]


@dataclass
class Pipeline:
    """One checkpoint that answers workloads in several ways; nothing is remembered from one to the next.

    Attributes:
        checkpoint: the model.
        prompt: its template.
        batch_size: of `hired_llava`.
        workers: threads that read pictures ahead.
        kept: pictures that were read.
    """

    checkpoint: Checkpoint
    prompt: str
    batch_size: int
    workers: int
    kept: Kept = field(default_factory=dict)

    def stock(self, work: Workload) -> Rate:
        """lmms-eval's `llava_hf` at its batch size of 1.

        Raises:
            RuntimeError: it gave no answers, as where it swallows an error.
        """
        return self._rate(llava_hf_around(self.checkpoint), work)

    def whole(self, dropper: TokenDropper, work: Workload) -> Rate:
        """`hired_llava` as users have it, from encoded pictures to answers."""
        return self._rate(self._model(dropper), work)

    def read(self, work: Workload) -> Rate:
        """The CPU side alone, by all workers; pictures are kept for `prepared`."""
        self.kept.clear()
        reader = ReadBefore(work.documents, self.llava(None).pictures, self.kept)
        jobs = reader.group({(r.args[4], r.args[3], r.idx, 0): r for r in work.requests})

        def read_all() -> None:
            with ReadAhead(self.workers) as ahead:
                for _ in ahead.map(reader.read, jobs, lambda read: 1):
                    pass

        return Rate(len(work.requests), timed(read_all, torch.device("cpu")), None)

    def prepared(self, dropper: TokenDropper, work: Workload) -> Rate:
        """The GPU side alone, on pictures that `read` kept."""
        model = self._model(dropper)
        model.make_reader = lambda tasks, pictures: ReadBefore(tasks, pictures, self.kept)
        return self._rate(model, work)

    def llava(self, dropper: TokenDropper | None, **options: Any) -> DroppingVLM:
        """The checkpoint with a method; None: full execution."""
        return DroppingVLM(self.checkpoint, dropper or build("full"), self.prompt, **options)

    def _model(self, dropper: TokenDropper) -> HiredVLM:
        answerer = Answerer(self.llava(dropper), batch_size=self.batch_size)
        return HiredVLM.around(answerer, workers=self.workers)

    def _rate(self, model: Any, work: Workload) -> Rate:
        model.task_dict = work.documents
        requests = fresh(work.requests)
        answers: list[str] = []
        device = self.checkpoint.model.device
        with Utilisation(device) as used:
            seconds = timed(lambda: answers.extend(model.generate_until(requests)), device)
        if not any(answers):
            raise RuntimeError(f"{type(model).__name__} gave no answers")
        return Rate(len(requests), seconds, used.percent)


class Utilisation:
    """Utilisation of a GPU while the block runs, as `nvidia-smi` samples it ten times a second.

    Args:
        device: of any kind; on a CPU nothing is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.percent: float | None = None
        self._sampling: subprocess.Popen[str] | None = None

    def __enter__(self) -> Utilisation:
        if self.device.type == "cuda" and shutil.which("nvidia-smi"):
            gpu = f"--id=GPU-{torch.cuda.get_device_properties(self.device).uuid}"
            asked = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100"]
            self._sampling = subprocess.Popen(
                ["nvidia-smi", gpu, *asked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sampling is None:
            return
        self._sampling.terminate()
        lines = self._sampling.communicate()[0].split()
        samples = [int(line) for line in lines if line.isdigit()]
        self.percent = fmean(samples) if samples else None
