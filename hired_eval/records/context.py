"""What a run was made with beside method, benchmark and budget: only runs with the same may be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hired_eval.method_configs import has_full_execution
from hired_eval.records.record import Record

# Options of a run that a table names elsewhere, that say where something lies, or that decide no answer.
ELSEWHERE = {
    "method",
    "method_version",
    "budget",
    "task",
    "model",
    "data",
    "measure",
    "limit",
    "order",
    "seed",
}
PROTOCOL = {"protocol": "paper"}
"""The setting that a block's label names wherever it is another."""
NO_REASON = {
    "batch_size", "share_prefix", "decoding", "reading", "device", "on_error", "runs_dir", "rerun", "profile",
    "efficiency",
}  # fmt: skip
# Of a model: where it lies is told by the content of its checkpoint, alpha is an option of the method.
NOT_OF_A_MODEL = {"name", "path", "hub_id", "revision", "device_map", "alpha", "weights"}
VERSIONS = ("lmms_eval", "transformers", "torch")
"""Libraries that decide answers; runs with other first two numbers of a version are not compared."""
OF_EFFICIENCY = {"warm_up", "repeats"}
"""Options of the efficiency measurement that do not change what is measured."""
LONGEST = 48


def context_of(record: Record) -> dict[str, str]:
    """All settings of a run that its method, benchmark, budget and seed do not name, by name.

    Of the settings in the record's identity, which are resolved, whatever they hold but what is known to
    decide no answer: a setting that is new keeps runs apart.
    """
    asked, versions = record.identity.settings, record.identity.versions
    settings = {k: v for k, v in asked.items() if k not in ELSEWHERE | NO_REASON}
    settings |= {k: v for k, v in asked.get("model", {}).items() if k not in NOT_OF_A_MODEL}
    settings |= {name: _two_numbers(versions[name]) for name in VERSIONS if name in versions}
    if record.measure.startswith("efficiency"):
        timed = asked.get("efficiency", {}).items()
        settings |= {f"efficiency.{k}": v for k, v in timed if k not in OF_EFFICIENCY}
        if record.timings.machine:
            settings |= {"device": record.timings.device, "machine": record.timings.machine}
    return PROTOCOL | {k: _text(v) for k, v in sorted(settings.items()) if v is not None}


def _two_numbers(version: str) -> str:
    """'2.14' of '2.14.1+cu128'."""
    return ".".join(version.split("+")[0].split(".")[:2])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def differing(context: dict[str, str], usual: dict[str, str]) -> str:
    """'dtype=bfloat16, attention=eager': the settings that are others than the usual ones; '' for none."""
    names = [k for k in sorted(context.keys() | usual.keys()) if context.get(k) != usual.get(k)]
    return ", ".join(f"{k}={_shown(context.get(k, 'null'), usual.get(k, 'null'))}" for k in names)


def _shown(value: str, usual: str) -> str:
    """A value on one line, quoted where it is more than a word; of a long one, where it is another."""
    if len(value) > LONGEST:
        start = max(0, _alike(value, usual) - 8)
        end = min(max(0, _alike(value[::-1], usual[::-1]) - 8), len(value) - start)
        value = "..." * (start > 0) + value[start : len(value) - end] + "..." * (end > 0)
    quoted = json.dumps(value, ensure_ascii=False)
    return value if quoted == f'"{value}"' and value and " " not in value else quoted


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class Block:
    """Runs that differ in method, budget, benchmark, seed and number of documents alone.

    Attributes:
        model: name.
        weights: pretrained, pickle or dummy.
        data: where the documents come from.
        settings: how it differs from the most frequent block of model, weights and data, and its protocol
            where it is not the paper's; '' for that one under the paper's.
        records: the runs.
    """

    model: str
    weights: str
    data: str
    settings: str
    records: list[Record]

    @property
    def label(self) -> str:
        """What stands above the rows."""
        weights = "" if self.weights == "pretrained" else f", {self.weights} weights"
        return f"{self.model}, {self.data} data{weights}" + (f", {self.settings}" if self.settings else "")


def blocks_of(records: Iterable[Record]) -> list[Block]:
    """Runs in blocks, by model, weights and data; of one model, the block with most runs first.

    Of blocks with as many runs, the one with full execution is first, then the newest.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.model, record.weights, record.data), []).append(record)
    result = []
    for key in sorted(groups):
        contexts: dict[str, list[Record]] = {}
        for record in groups[key]:
            contexts.setdefault(json.dumps(context_of(record)), []).append(record)
        ordered = sorted(contexts.items(), key=lambda item: _weight(item[1]), reverse=True)
        usual = json.loads(ordered[0][0]) | PROTOCOL
        result += [Block(*key, differing(json.loads(context), usual), found) for context, found in ordered]
    return result


def _weight(records: list[Record]) -> tuple[int, bool, str]:
    full = has_full_execution(r.method.target for r in records)
    return len(records), full, max(r.finished for r in records)


def left_out(blocks: Sequence[Block], what: str) -> list[str]:
    """One line that names blocks that a report of one block leaves out; [] for none."""
    named = [f"{b.label} ({len(b.records)} run{'s' * (len(b.records) > 1)})" for b in blocks]
    return [f"{what}: {'; '.join(named)}."] if named else []


def versions_note(records: Sequence[Record]) -> list[str]:
    """One line that names the packages whose versions differ among runs that are compared; [] for none."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for package, version in record.identity.versions.items():
            counts.setdefault(package, Counter())[version] += 1
    named = [
        f"{package} {', '.join(f'{v} ({n} runs)' for v, n in sorted(found.items()))}"
        for package, found in sorted(counts.items())
        if len(found) > 1
    ]
    return [f"Versions differ between the runs: {'; '.join(named)}."] if named else []
