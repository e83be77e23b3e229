"""What a run says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Benchmark:
    """One column of the paper's tables.

    Attributes:
        name: as in `configs/task/`.
        lmms_task: the task of lmms-eval.
        metric: the metric of lmms-eval that the paper reports.
        scoring: how documents make a score: the name of a `hired_eval.records.scores.Scorer`.
        scale: of that scorer; None for its own.
        category: likewise.
        only: 'COLUMN=VALUE' of the documents that are asked; None for all.
    """

    name: str
    lmms_task: str
    metric: str
    scoring: str
    scale: float | None = None
    category: str | None = None
    only: str | None = None


@dataclass(frozen=True)
class Method:
    """The method that ran.

    Attributes:
        target: its class, as a config's `_target_` names it.
        options: every option with the value that ran, `budget` put in.
    """

    target: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Identity:
    """What makes a run this run and no other; see docs/records.md.

    Attributes:
        config_sha256: the same for the same question about the same places.
        settings: what was asked for, as it comes to, by name.
        code: module that decides what is answered -> hash of it.
        checkpoint: fingerprint of the model's files, or its commit on the hub; None where it is not known.
        data: where the documents come from.
        documents: fingerprint of the documents, or their commit on the hub; None where it is not known.
        versions: package -> version.
        git_commit: of the checkout that the package ran from; None elsewhere.
    """

    config_sha256: str
    settings: dict[str, Any]
    code: dict[str, str]
    checkpoint: str | None
    data: str
    documents: str | None
    versions: dict[str, str]
    git_commit: str | None


@dataclass(frozen=True)
class Drawing:
    """The random order in which a part of a benchmark was answered.

    Attributes:
        seed: of the order.
        units: what is drawn, in the whole benchmark: pictures with their questions, or pairs of questions.
        documents: in the whole benchmark.
        largest: documents of the largest unit.
        first: units at the beginning that are one of each category; the others are drawn from all.
        strata: category -> units of it where pairs are drawn, else documents; '' where there are none.
    """

    seed: int
    units: int
    documents: int
    largest: int
    first: int
    strata: dict[str, int]


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval; see `hired_eval.records.statistics.Estimate`."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
    shown_low: float | None
    shown_high: float | None


@dataclass(frozen=True)
class Count:
    """Visual tokens of a document: mean and maximum over documents with a picture."""

    mean: float
    max: int


@dataclass(frozen=True)
class Tokens:
    """Visual tokens given to the language model, allowed by a budget, and given by the stock model."""

    kept: Count | None = None
    allowed: Count | None = None
    full: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Timings:
    """When and where a measurement was made.

    Attributes:
        machine: processor and accelerator in one line.
        device: of torch.
        seconds: that answering took.
        questions_timed: how many were answered in them.
        questions_per_second: likewise.
        batch_size: as asked for; of 'auto' that of the largest batch.
        out_of_memory: each time that memory ran out, the batch size that did not fit and the next.
        together: how many runs of a sweep were answered in one pass over the pictures; the seconds of reading
            and encoding them are split evenly among these.
        processes: that answered.
    """

    machine: str = ""
    device: str = ""
    seconds: float = 0.0
    questions_timed: int = 0
    questions_per_second: float = 0.0
    batch_size: int | None = None
    out_of_memory: list[dict[str, int]] = field(default_factory=list)
    together: int = 1
    processes: int = 1


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of repetitions."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Time, memory and arithmetic of one batch.

    Attributes:
        throughput_tokens_per_second: new tokens of the whole batch.
        time_to_first_token_seconds: from the start of a run.
        latency_seconds: until the last token.
        vision_seconds: until the visual tokens are there.
        memory_gigabytes: peak of a whole run.
        vision_memory_gigabytes: what the vision tower takes at its peak.
        kv_cache_bytes: when the last token is there.
        flops: of vision, prefill and decode.
        least_seconds: that these take on this machine.
        share_of_roofline: their sum over the measured latency.
        machine: the best that was measured here.
        workload: what was timed.
        selection_seconds: of choosing the tokens, before the language model and inside it, in runs apart that
            wait for the device around it; None in records from before it was measured.
    """

    throughput_tokens_per_second: Spread
    time_to_first_token_seconds: Spread
    latency_seconds: Spread
    vision_seconds: Spread
    memory_gigabytes: float
    vision_memory_gigabytes: float
    kv_cache_bytes: int
    flops: dict[str, float]
    least_seconds: dict[str, float]
    share_of_roofline: float
    machine: dict[str, float]
    workload: dict[str, int]
    selection_seconds: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run says of itself.

    Attributes:
        run: name of its folder.
        measure: accuracy, or another measurement.
        benchmark: the task and metric.
        method: what ran.
        method_label: the method's name in tables.
        method_defaults: the default of each of its options.
        method_version: `VERSION` of its class.
        model: name.
        weights: pretrained, pickle or dummy.
        data: where the documents come from.
        seed: of everything random.
        identity: what makes it this run.
        config: every option as it was asked for, the home folder as ~.
        status: complete where there is a result, of all samples.
        finished: time; '' while it has not.
        error: why there is none.
        samples: documents that were answered, or pictures that were looked at.
        documents: of the benchmark.
        partial: whether some were left out.
        drawing: of a part that was drawn at random; None for any other.
        failed_samples: of an accuracy.
        score: of an accuracy; None where a sample failed.
        lmms_eval_metrics: what lmms-eval itself computed.
        tokens: of an accuracy.
        batch_size: of an efficiency.
        tokens_kept: of an efficiency, mean over its pictures.
        out_of_memory: of an efficiency, whether it ended so.
        efficiency: what was measured; None where memory ran out.
        timings: time and place.
        samples_sha256: of the file of samples; written with it.
    """

    run: str
    measure: str = "accuracy"
    benchmark: Benchmark
    method: Method
    method_label: str
    method_defaults: dict[str, Any]
    method_version: int
    model: str
    weights: str
    data: str
    seed: int = 0
    identity: Identity
    config: dict[str, Any]
    status: Literal["complete", "failed"]
    finished: str
    error: str | None = None
    samples: int = 0
    documents: int = 0
    partial: bool = False
    drawing: Drawing | None = None
    failed_samples: int = 0
    score: Score | None = None
    lmms_eval_metrics: dict[str, float | None] = field(default_factory=dict)
    tokens: Tokens = Tokens()
    batch_size: int | None = None
    tokens_kept: float | None = None
    out_of_memory: bool = False
    efficiency: Speed | None = None
    timings: Timings = Timings()
    samples_sha256: str = field(default="", compare=False)

    @property
    def budget(self) -> float | None:
        """Token budget of the method; None for a method without one."""
        budget: float | None = self.method.options.get("budget")
        return budget

    @property
    def kept_share(self) -> float | None:
        """Mean visual tokens kept over those of the stock model; None where they are not counted."""
        kept, full = self.tokens.kept, self.tokens.full
        return kept.mean / full.mean if kept and full else None
