"""Questions a second: of lmms-eval's `llava_hf`, of `hired_llava`, and of its GPU side alone."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field, replace
from statistics import fmean
from types import TracebackType

import torch

from bench.end_to_end import Workload
from bench.stock import fresh, llava_hf_around
from hired_eval.dropping import TokenDropper
from hired_eval.dropping.registry import build
from hired_eval.lmms.model import HiredLlava, Job, ReadRequest
from hired_eval.models.answering import DroppingLlava
from hired_eval.models.checkpoint import Checkpoint
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


class ReadBefore(HiredLlava):
    """`hired_llava` on pictures that were opened, resized and normalised before."""

    kept: Kept

    def read_all(self, work: Workload) -> None:
        """Read all pictures, as many at a time as there are workers."""
        self.task_dict = work.documents
        jobs = self._jobs({(r.args[4], r.args[3], r.idx, 0): r for r in work.requests})
        with ReadAhead(int(self.workers)) as ahead:
            for _ in ahead.map(self._read_job, jobs, lambda read: 1):
                pass

    def _read_job(self, job: Job) -> list[ReadRequest]:
        documents = tuple(request.args[3] for _, request in job)
        if documents not in self.kept:
            self.kept[documents] = super()._read_job(job)
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
        return self._rate(self._model(HiredLlava, dropper), work)

    def read(self, work: Workload) -> Rate:
        """The CPU side alone; pictures are kept for `prepared`."""
        self.kept.clear()
        model = self._model(ReadBefore, None)
        seconds = timed(lambda: model.read_all(work), torch.device("cpu"))
        return Rate(len(work.requests), seconds, None)

    def prepared(self, dropper: TokenDropper, work: Workload) -> Rate:
        """The GPU side alone, on pictures that `read` kept."""
        return self._rate(self._model(ReadBefore, dropper), work)

    def llava(self, dropper: TokenDropper | None, **options: str) -> DroppingLlava:
        """The checkpoint with a method; None: full execution."""
        return DroppingLlava(self.checkpoint, dropper or build("full"), self.prompt, **options)  # type: ignore[arg-type]

    def _model(self, kind: type[HiredLlava], dropper: TokenDropper | None) -> HiredLlava:
        model = kind.around(self.llava(dropper), batch_size=self.batch_size, workers=self.workers)
        if isinstance(model, ReadBefore):
            model.kept = self.kept
        return model

    def _rate(self, model: HiredLlava, work: Workload) -> Rate:
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
