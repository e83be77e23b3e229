"""Parts at the real shapes of CLIP-L/14-336: dropping end to end, CLS rows, PruMerge, selection."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from bench.harness import Comparison, in_turns
from bench.prumerge_loop import drop_in_loops
from hired_eval.dropping import KeptTokens, Layouts, PartitionLayout, VisionEncoding
from hired_eval.dropping.registry import build
from hired_eval.dropping.testing import unpad
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from hired_eval.models.signals import cls_attention
from hired_eval.runs.efficiency.machine import peak_memory, synchronize
from hired_eval.runs.efficiency.measure import Efficiency, picture
from hired_eval.runs.options import Workload

HEADS, LENGTH, CHANNELS = 16, 577, 1024
LAYOUT = PartitionLayout(2, 2, (24, 24), (672, 672))


def dropping(checkpoint: Checkpoint, workload: Workload, repeats: int) -> list[Comparison]:
    """(b) HiRED at 20 % and 40 % against Full, end to end; the target is 90 % of the ratio of FLOPs."""
    full = Efficiency(checkpoint, build("full"), workload, 1)
    rows = []
    for budget in (0.4, 0.2):
        hired = Efficiency(checkpoint, build("hired", budget=budget), workload, 1)
        pairs, _, _ = in_turns(full.run, hired.run, repeats)
        allowed = sum(w.flops for w in full.phases().values()) / sum(w.flops for w in hired.phases().values())
        rows.append(
            Comparison(
                f"(b) HiRED {budget:.0%}, FLOPs allow {allowed:.2f}x",
                "full",
                f"hired budget={budget}",
                pairs,
                "fewer tokens by design",
                0.9 * allowed,
            )
        )
    return rows


def cls_rows(device: torch.device, repeats: int, partitions: int = 5, calls: int = 5) -> list[Comparison]:
    """(c) The CLS row of a layer's attention against the whole attention of which it is a row."""
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(2, partitions, LENGTH, CHANNELS, generator=generator).to(device)

    def whole() -> torch.Tensor:
        for _ in range(calls):
            q, k = (x.view(partitions, LENGTH, HEADS, -1).transpose(1, 2) for x in (query, keys))
            weights = (q * (CHANNELS // HEADS) ** -0.5 @ k.transpose(2, 3)).softmax(dim=-1)
        synchronize(device)
        return weights[:, :, 0, 1:]

    def row() -> torch.Tensor:
        for _ in range(calls):
            result = cls_attention(query[:, 0], keys, HEADS)
        synchronize(device)
        return result

    pairs, expected, found = in_turns(whole, row, repeats)
    same = f"largest difference {(expected - found).abs().max():.1e}"
    return [Comparison("(c) CLS-attention of a layer", "all rows", "the CLS row", pairs, same, 20.0)]


def random_encoding(device: torch.device, layout: PartitionLayout) -> VisionEncoding:
    """Random tensors of CLIP-L's shapes, with CLS-attention on few tokens as real pictures have it."""
    generator = torch.Generator().manual_seed(0)
    partitions, tokens = layout.partitions, layout.tokens_per_partition
    features = torch.randn(partitions, tokens, CHANNELS, generator=generator)
    query = torch.randn(partitions, CHANNELS, generator=generator)
    keys = torch.randn(partitions, 1 + tokens, CHANNELS, generator=generator)
    drawn = torch.rand(partitions, 1 + tokens, 1, generator=generator) < 0.1
    keys += drawn * 0.1 * query[:, None]
    rows = torch.rand(partitions, HEADS, tokens, generator=generator).softmax(dim=-1)
    return VisionEncoding(
        features.to(device), {0: rows.to(device), 22: rows.to(device)}, keys.to(device), query.to(device)
    )


def prumerge(device: torch.device, repeats: int, layout: PartitionLayout = LAYOUT) -> list[Comparison]:
    """(d) PruMerge and PruMerge+ without loops against a loop over kept tokens."""
    encoding, layouts = random_encoding(device, layout), Layouts((layout,), device)
    rows = []
    for name in ("prumerge", "prumerge_plus"):
        method = build(name)

        def looped() -> KeptTokens:
            kept = drop_in_loops(method, encoding, layout)  # type: ignore[arg-type]  # noqa: B023
            synchronize(device)
            return kept

        def vectorised() -> KeptTokens:
            kept = method.vision.drop(encoding, layouts)  # noqa: B023
            synchronize(device)
            return kept

        pairs, expected, found = in_turns(looped, vectorised, repeats)
        pairs_of_tokens = [
            zip(*both, strict=True) for both in zip(unpad(expected), unpad(found), strict=True)
        ]
        same = all(a.equal(b) for a, b in pairs_of_tokens[0])
        apart = max(float((a - b).abs().max()) for a, b in pairs_of_tokens[1])
        count = int(found.counts.sum())
        result = f"{'same' if same else 'other'} tokens, largest difference {apart:.1e}"
        rows.append(Comparison(f"(d) {name}, {count} tokens", "loop", "vectorised", pairs, result, 10.0))
    return rows


def selection(checkpoint: Checkpoint, workload: Workload, repeats: int) -> list[Comparison]:
    """(g) HiRED's CLS rows, selection and packing as a share of the vision tower's time."""
    family = family_of(checkpoint.model)
    image = picture(workload.width, workload.height, 0)
    read = family.read(image, checkpoint.processor.image_processor)
    partitions, layout = read.pixels, read.layout
    full, hired = build("full").vision, build("hired", budget=0.2).vision
    device = checkpoint.model.device
    with torch.inference_mode():
        encoding = family.encode(partitions, hired)
        heads, channels = family.tower.config.num_attention_heads, family.tower.config.hidden_size
        layouts = Layouts((layout,), device)
        keys = torch.randn(layout.partitions, 1 + layout.tokens_per_partition, channels, device=device)

        def tower() -> None:
            family.encode(partitions, full)
            synchronize(device)

        def select() -> None:
            for _ in encoding.cls_attention:
                cls_attention(keys[:, 0], keys, heads)
            hired.select(encoding, layouts)
            synchronize(device)

        pairs, _, _ = in_turns(tower, select, repeats)
    return [Comparison("(g) HiRED's selection", "vision tower", "selection", pairs, "", 0.01, share=True)]


def vision_memory(checkpoint: Checkpoint, workload: Workload) -> list[tuple[str, float]]:
    """Peak memory that the vision side allocates, in GB, beyond what was there before."""
    measured = []
    for label, method in (
        ("stock", None),
        ("full", build("full")),
        ("hired 20 %", build("hired", budget=0.2)),
    ):
        side = Efficiency(checkpoint, method, workload, 1)
        side.visual_tokens()
        measured.append((label, _allocated(side) / 1e9))
    return measured


def _allocated(side: Efficiency) -> int:
    """Peak of allocated bytes: the resident set of a CPU's process also holds what was freed."""
    if side.device.type == "cuda":
        with peak_memory(side.device) as peak:
            side.visual_tokens()
        return peak.bytes - peak.start
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        side.visual_tokens()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
