"""The tokens that each version of a method keeps: another result needs another VERSION."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from hired_eval.dropping import PartitionLayout, VisionStage
from hired_eval.dropping.layer_stage import counts_by_layer, plan_steps
from hired_eval.dropping.registry import build
from hired_eval.dropping.stage_testing import synthetic_signals
from hired_eval.dropping.testing import synthetic_encoding
from hired_eval.method_configs import method_configs
from tests.selected import select

KNOWN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "versions.json").read_text())
LAYOUTS = [
    PartitionLayout(2, 2, (6, 6), (300, 400)),
    PartitionLayout(1, 3, (6, 6), (90, 400)),
    PartitionLayout(0, 0, (6, 6), (80, 80)),
]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"newline": "rows"},
    {"budget": 0.55},
    {"spend_leftover": True},
    {"alpha": 0.2, "distribute": "even"},
    {"initial_layer": 3, "heads": "single", "head": 1},
    {"mode": "sampling"},
    {"contextual": 0.5},
    {"seed": 1},
    {"combined": "add"},
    {"important": 0.8},
    {"within": "attention"},
    {"scores": "logit"},
    {"wrap": True},
    {"pivots": 2},
]
INSIDE_VARIANTS: list[dict[str, Any]] = [
    {},
    {"budget": 0.5},
    {"keep": 0.3},
    {"ratios": [0.6, 0.5, 0.4], "positions": "original"},
    {"recycle": False},
    {"order": "ascending", "pivot_text": 2},
]


def kept_inside(name: str) -> dict[str, Any]:
    """What stays before each layer as a hash, and of the merged tokens some numbers."""
    positions: list[Any] = []
    features: list[float] = []
    for variant in INSIDE_VARIANTS:
        if not variant.keys() <= {f.name for f in fields(build(name))}:
            continue
        for stage in build(name, **variant).inside:
            positions += [sorted(plan_steps([stage], n, 32)) for n in (64, 576)]
            positions += [counts_by_layer([stage], n, 32) for n in (64, 576)]
            signals = synthetic_signals(stage)
            scores = stage.score(signals)
            kept = stage.kept(scores, signals, torch.tensor([10, 3, 0]))
            positions.append(kept.nonzero().tolist())
            if stage.merged(14):
                leaving = (signals.visual & ~kept)[0]
                centres, made = stage.merge(scores[0], signals["states"][0], leaving, 14)
                positions.append(centres.tolist())
                features.append(round(made.double().sum().item(), 4))
    digest = hashlib.sha256(json.dumps(positions).encode()).hexdigest()[:16]
    return {"positions": digest, "features": features}


def kept_by(name: str) -> dict[str, Any]:
    """Positions as a hash, and of the features, which machines may round differently, some numbers."""
    if not isinstance(build(name), VisionStage):
        return kept_inside(name)
    positions: list[list[int]] = []
    features: list[float] = []
    for variant in VARIANTS:
        if not variant.keys() <= {f.name for f in fields(build(name))}:
            continue
        dropper = build(name, **variant)
        for seed, layout in enumerate(LAYOUTS):
            packed = select(dropper, synthetic_encoding(dropper, layout, seed=seed), layout)
            positions += [packed.partition.tolist(), packed.index.tolist(), packed.newlines_after.tolist()]
            values = packed.features.double().flatten()
            weights = torch.linspace(-1, 1, len(values), dtype=torch.float64)
            features.append(round((values * weights).sum().item(), 4))
    digest = hashlib.sha256(json.dumps(positions).encode()).hexdigest()[:16]
    return {"positions": digest, "features": features}


@pytest.mark.parametrize("name", method_configs())
def test_a_method_keeps_what_its_version_kept(name: str) -> None:
    method = type(build(name))
    key, now = f"{name} {method.VERSION}", kept_by(name)
    known = KNOWN.get(key)
    entry = json.dumps({key: now})[1:-1]
    assert known is not None, (
        f"tests/dropping/versions.json does not know version {method.VERSION}; add {entry}"
    )
    same = now["positions"] == known["positions"] and now["features"] == pytest.approx(
        known["features"], abs=1e-3
    )
    assert same, (
        f"{method.__name__} keeps other tokens than its version {method.VERSION} did. If that is meant, set "
        f"VERSION = {method.VERSION + 1} in its class, so that its runs are not taken for earlier ones, and "
        f"add to tests/dropping/versions.json: {entry}"
    )
