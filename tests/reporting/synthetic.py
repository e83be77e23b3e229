"""Synthetic run records in the format of real ones: numbers drawn from a generator, measured by nothing."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import hired_eval
from hired_eval.records.folder import RunFolder
from hired_eval.records.record import (
    Benchmark,
    Count,
    Identity,
    Method,
    Record,
    Score,
    Speed,
    Spread,
    Timings,
    Tokens,
)
from hired_eval.records.scores import score, scorer_of

BENCHMARKS: dict[str, tuple[str, float, str]] = {
    "vqav2": ("exact_match", 100, "mean"),
    "scienceqa": ("exact_match", 100, "mean"),
    "textvqa": ("exact_match", 100, "mean"),
    "docvqa": ("anls", 100, "mean"),
    "ocrbench": ("ocrbench_accuracy", 1000, "ocrbench"),
    "mme": ("mme_perception_score", 1, "mme"),
    "pope": ("pope_accuracy", 100, "mean"),
    "chartqa": ("relaxed_overall", 100, "mean"),
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"_target_": "hired_eval.dropping.Full", "newline": "rows"},
    "spatial": {"_target_": "hired_eval.dropping.Spatial", "budget": 0.4, "mode": "pooling"},
    "prumerge": {"_target_": "hired_eval.dropping.PruMerge"},
    "prumerge_plus": {"_target_": "hired_eval.dropping.PruMergePlus"},
    "random": {"_target_": "hired_eval.dropping.Random", "budget": 0.2, "seed": 0},
    "topk_cls": {"_target_": "hired_eval.dropping.TopKCLS", "budget": 0.2},
    "hired": {
        "_target_": "hired_eval.dropping.HiRED",
        "budget": 0.2,
        "alpha": 0.5,
        "initial_layer": 0,
        "final_layer": None,
        "newline": "none",
    },
}
FULL_TOKENS = 320
ONE_PARTITION = 64
VERSIONS = {"lmms_eval": "0.7.3", "transformers": "5.23.0", "torch": "2.14.1"}
SETTINGS = {"dtype": "float32", "attention": "sdpa", "quantization": "none", "feature_layer": -2}
PROMPT = "USER: {images}\n{question} ASSISTANT:"


def identity(checkpoint: str = "one", documents: str = "these", **versions: str) -> Identity:
    return Identity(
        config_sha256="of the question",
        settings={},
        code={},
        checkpoint=checkpoint,
        data="bundled",
        documents=documents,
        versions={**VERSIONS, **versions},
        git_commit="0123456789abcdef",
    )


def defaults(method: dict[str, Any]) -> dict[str, Any]:
    """The default of each option of a method; of one that is not ours, none that differs."""
    kind = getattr(hired_eval, method["_target_"].rsplit(".", 1)[-1], None)
    if kind is None:
        return {k: v for k, v in method.items() if k != "_target_"}
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


def unfinished(
    method: dict[str, Any],
    task: str,
    model: str,
    name: str,
    origin: Identity,
    settings: dict[str, Any] | None = None,
    **facts: Any,
) -> Record:
    """What every record says of its method and settings."""
    metric, scale, scoring = BENCHMARKS.get(task, ("anls", 100, "mean"))
    own = defaults(method)
    options = {k: v for k, v in {**own, **method}.items() if k != "_target_"}
    asked = {"name": model, **SETTINGS, **(settings or {})}
    prompt = asked.pop("prompt", PROMPT)
    resolved = {"measure": "accuracy", "model": asked, "prompt": prompt, "limit": None}
    record = Record(
        run=name,
        benchmark=Benchmark(task, task, metric, scoring, scale, "category" if scoring == "mme" else None),
        method=Method(method["_target_"], options),
        method_label=method["_target_"].rsplit(".", 1)[-1],
        method_defaults=own,
        method_version=1,
        model=model,
        weights="pretrained",
        data="bundled",
        identity=replace(origin, settings=resolved),
        config={"limit": None, "batch_size": 8},
        status="failed",
        finished="2026-01-01T00:00:00+00:00",
    )
    return replace(record, **facts)


def write_run(
    runs: Path,
    method: str,
    task: str,
    *,
    accuracy: float = 0.7,
    share: float = 0.2,
    model: str = "mini",
    budget: float | None = None,
    documents: int = 60,
    answered: int | None = None,
    weights: str = "pretrained",
    finished: str = "2026-01-01T00:00:00+00:00",
    question: str = "what is it?",
    checkpoint: str = "one",
    documents_are: str = "these",
    settings: dict[str, Any] | None = None,
    versions: dict[str, str] | None = None,
    seed: int = 0,
    name: str = "",
    pictures: int | None = None,
    **options: Any,
) -> Record:
    """A complete run: harder documents are answered wrong first, so that runs are paired as real ones are."""
    _, scale, scoring = BENCHMARKS.get(task, ("anls", 100, "mean"))
    n = answered or documents
    hardness = np.random.default_rng(len(task)).permutation(documents)[:n] / documents
    noise = np.random.default_rng(int(1000 * accuracy)).normal(0, 0.1, n)
    scores = (hardness + noise < accuracy).astype(float)
    whole = ONE_PARTITION if model == "mini_1_5" else FULL_TOKENS
    more = np.zeros(n, dtype=int) if model == "mini_1_5" else np.arange(n) % 50
    about = pictures or (n + 1) // 2
    kept = np.maximum(1, (FULL_TOKENS * share + np.arange(n) % 7).astype(int))
    samples = pd.DataFrame(
        {
            "doc_id": np.arange(n),
            "question": [question] * n,
            "prediction": ["yes" if s else "no" for s in scores],
            "target": ['"yes"'] * n,
            "score": scores,
            "kept": kept if method != "full" else whole,
            "allowed": pd.array([None] * n, dtype="Int64"),
            "full": whole + more,
            "images": 1,
            "image": pd.array([f"picture{i * about // n}" for i in range(n)], dtype="string"),
            "pair": pd.array(
                [f"pair{i // 2}" if scoring == "mme" else None for i in range(n)], dtype="string"
            ),
            "category": pd.array(["color" if scoring == "mme" else None] * n, dtype="string"),
            "error": pd.array([None] * n, dtype="string"),
        }
    )
    chosen = {**METHODS.get(method, {"_target_": method, "budget": 0.2}), **options}
    if budget is not None:
        chosen["budget"] = budget
    elif "tokens" in options:
        chosen["budget"] = None
    if "seed" in chosen:
        chosen["seed"] = seed
    scorer = scorer_of(scoring, scale)
    apart = [f"{k}{v}" for k, v in {**options, **(settings or {}), **(versions or {})}.items()]
    name = name or "-".join([task, model, method, f"{chosen.get('budget')}", *apart, f"{seed}", f"{n}"])
    name = re.sub(r"[^\w.-]", "_", name)
    estimated = score([samples], scorer.of_part() if n < documents else scorer)
    full, some = samples["full"], samples["kept"]
    record = unfinished(
        chosen,
        task,
        model,
        name,
        identity(checkpoint, documents_are, **(versions or {})),
        settings,
        seed=seed,
        status="complete",
        finished=finished,
        weights=weights,
        samples=n,
        documents=documents,
        partial=n < documents,
        score=Score(**{f.name: getattr(estimated, f.name) for f in fields(Score)}),
        tokens=Tokens(
            kept=Count(float(some.mean()), int(some.max())), full=Count(float(full.mean()), int(full.max()))
        ),
        timings=Timings(machine="synthetic", device="cpu", seconds=1.0, questions_per_second=1.0),
    )
    RunFolder(runs, name).write(record, samples)
    return record


def write_failure(runs: Path, method: str, task: str, error: str, model: str = "mini") -> None:
    name = f"{task}-{model}-{method}-failed"
    later = "2026-01-02T00:00:00+00:00"
    record = unfinished(METHODS[method], task, model, name, identity(), finished=later, error=error)
    RunFolder(runs, name).fail(record)


SPEED = Speed(
    throughput_tokens_per_second=Spread(2.0, 1.5, 2.5),
    time_to_first_token_seconds=Spread(2.0, 1.5, 2.5),
    latency_seconds=Spread(3.0, 2.5, 3.5),
    vision_seconds=Spread(1.0, 0.5, 1.5),
    memory_gigabytes=3.25,
    vision_memory_gigabytes=0.25,
    kv_cache_bytes=1 << 20,
    flops={"vision": 1e9, "prefill": 2e9, "decode": 1e9},
    least_seconds={"vision": 0.1, "prefill": 0.2, "decode": 0.1},
    share_of_roofline=0.13,
    machine={"flops_per_second": 1e12, "bytes_per_second": 1e11},
    workload={"width": 672, "height": 672, "text_tokens": 60, "new_tokens": 6, "warm_up": 1, "repeats": 5},
)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> ${x} </script> \x07 \u202e"
ACCURACIES = {
    ("full", None): (0.85, 1.0),
    ("spatial", 0.4): (0.6, 0.39),
    ("prumerge", None): (0.5, 0.1),
    ("prumerge_plus", None): (0.6, 0.5),
    ("hired", 0.2): (0.78, 0.18),
    ("hired", 0.4): (0.83, 0.37),
}


def write_table3(runs: Path, documents: int = 60, model: str = "llava_next_7b") -> None:
    for task in BENCHMARKS:
        for (method, budget), (accuracy, share) in ACCURACIES.items():
            write_run(
                runs,
                method,
                task,
                accuracy=accuracy,
                share=share,
                budget=budget,
                documents=documents,
                model=model,
            )


def write_figure6(runs: Path) -> None:
    for task in ("vqav2", "scienceqa", "textvqa", "docvqa"):
        for budget in (0.2, 0.4):
            for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
                accuracy = 0.8 - 0.6 * (alpha - 0.4) ** 2 + budget / 10 - len(task) / 50
                write_run(runs, "hired", task, accuracy=accuracy, budget=budget, alpha=alpha)


def write_curve(runs: Path) -> None:
    for method, drop in (("hired", 0.3), ("random", 0.6), ("topk_cls", 0.4), ("spatial", 0.5)):
        for budget in (0.05, 0.1, 0.2, 0.4, 0.6, 1.0):
            accuracy = 0.85 - drop * (1 - budget) ** 2
            write_run(runs, method, "docvqa", accuracy=accuracy, share=0.95 * budget, budget=budget)
    write_run(runs, "full", "docvqa", accuracy=0.86, share=1.0)


def write_measurement(
    runs: Path,
    measure: str,
    arrays: dict[str, np.ndarray],
    task: str = "docvqa",
    method: str = "full",
    checkpoint: str = "one",
    settings: dict[str, Any] | None = None,
    model: str = "mini",
    name: str = "",
    rows: list[dict[str, Any]] | None = None,
    **extra: Any,
) -> Path:
    """A record with arrays, as the measurements of attention and of kept tokens write them."""
    samples = int(extra.pop("samples", 4))
    name = name or "-".join([measure, task, method, *map(str, (settings or {}).values())])
    record = unfinished(
        METHODS[method],
        task,
        model,
        name,
        identity(checkpoint),
        settings,
        status="complete",
        measure=measure,
        samples=samples,
        documents=samples,
        **extra,
    )
    folder = runs / name
    (folder / "pictures").mkdir(parents=True)
    np.savez(folder / "arrays.npz", **arrays)
    RunFolder(runs, name).write(record, pd.DataFrame(rows))
    return folder


def picture(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_attention(runs: Path, pictures: int = 4) -> None:
    """Both measurements of attention."""
    rng = np.random.default_rng(0)
    attention = np.sort(rng.pareto(1.5, (pictures, 320)), axis=1)[:, ::-1]
    cumulative = np.cumsum(attention, axis=1) / attention.sum(axis=1, keepdims=True)
    grid = np.linspace(0, 1, 101)
    kinds = np.array(["system", "text", "full-image", "sub-images"])
    mass = np.tile([0.55, 0.25, 0.12, 0.08], (pictures, 1))
    token_share = np.tile([0.05, 0.1, 0.2, 0.65], (pictures, 1))
    write_measurement(
        runs,
        "generation_attention",
        {
            "kinds": kinds,
            "mass": mass,
            "token_share": token_share,
            "tokens": token_share * 400,
            "cumulative": np.stack(
                [np.interp(grid, np.linspace(0, 1, 321), np.concatenate([[0], c])) for c in cumulative]
            ),
            "top_tokens": np.tile([[[4, 1, 3, 8, 16], [10, 4, 8, 16, 26]]], (pictures, 1, 1)),
        },
        samples=pictures,
    )
    folder = write_measurement(
        runs, "cls_attention", {"maps": rng.random((2, 4, 64)), "layers": np.arange(4)}, samples=2
    )
    for i in range(2):
        picture(160, 120 - 60 * i, i).save(folder / "pictures" / f"{i}.png")


def write_gallery(
    runs: Path,
    question: str = "what is the total?",
    prediction: str = "42",
    task: str = "docvqa",
    settings: dict[str, Any] | None = None,
    scores: tuple[float | None, float | None] = (None, None),
) -> None:
    """Three methods on two pictures, one with a 2 x 2 grid and one with a 1 x 2 grid."""
    rng = np.random.default_rng(0)
    side, size = 8, 56
    for method in ("full", "hired", "prumerge"):
        arrays: dict[str, np.ndarray] = {}
        rows = []
        for i, (grid_rows, cols) in enumerate(((2, 2), (1, 2))):
            count = 1 + grid_rows * cols
            everything = np.array([(p, t) for p in range(count) for t in range(side * side)])
            share = 1.0 if method == "full" else 0.2
            kept = everything[
                np.sort(rng.choice(len(everything), int(share * len(everything)), replace=False))
            ]
            arrays[f"kept_{i}"] = np.concatenate([kept, [[0, -1]]]) if method == "prumerge" else kept
            arrays[f"layout_{i}"] = np.array([grid_rows, cols, side])
            rows.append(
                {"doc_id": i, "question": question, "prediction": prediction, "target": "['42']",
                 "kept": len(kept), "full": len(everything), "image": f"picture{i}", "score": scores[i]}
            )  # fmt: skip
        folder = write_measurement(
            runs, "gallery", arrays, task, method, rows=rows, samples=2, settings=settings
        )
        for i, count in enumerate((5, 3)):
            picture(size * count, size, i).save(folder / "pictures" / f"{i}.png")
