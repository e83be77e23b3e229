"""More than 500 documents through the whole chain: each is right, or refused by name."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lmms_eval.tasks import TaskManager

from hired_eval.models.answering import DroppingVLM, Prepared
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from hired_eval.models.family import Family
from hired_eval.models.images import digest
from hired_eval.runs.loading import Models
from tests.fuzzed import Case, corpus, write_corpus, write_task
from tests.spine import run_quietly

METHODS = [
    ["method=hired", "budget=0.2"],
    ["method=hired", "budget=0.03"],
    ["method=full"],
    ["method=prumerge_plus"],
    ["method=visionzip", "budget=0.4"],
]


@dataclass
class Watch:
    """What is looked at while the chain runs: numbers that are none, and placeholders that are not images."""

    not_a_number: int = 0
    wrong_placeholders: int = 0


class WatchedModels(Models):
    """Checkpoints whose logits are looked at."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch, self.checkpoint = watch, None

    def get(self, *arguments: Any, **options: Any) -> Checkpoint:
        if self.checkpoint is None:
            self.checkpoint = super().get(*arguments, **options)
            self.checkpoint.model.lm_head.register_forward_hook(self._look)
        return self.checkpoint

    def _look(self, module: Any, inputs: Any, logits: torch.Tensor) -> None:
        self.watch.not_a_number += int(logits.isnan().sum())


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def outcomes(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, watch: Watch
) -> list[tuple[Case, dict[str, Any], list[str]]]:
    """Each case with its row of the record and the method that met it."""
    folder = tmp_path_factory.mktemp("fuzz")
    manager = TaskManager(
        verbosity="ERROR", include_path=str(write_task(folder / "task")), include_defaults=False
    )
    prepare = DroppingVLM.prepare
    seen = []
    models = WatchedModels(watch)

    def watched(llava: DroppingVLM, *arguments: Any) -> Prepared:
        prepared = prepare(llava, *arguments)
        placeholders = prepared.input_ids.count(llava.family.config.image_token_id)
        watch.wrong_placeholders += placeholders != sum(count.kept for count in prepared.counts)
        return prepared

    cases = corpus(seed=0)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("lmms.tasks", "runs.accuracy"):
            patch.setattr(f"hired_eval.{module}.task_manager", lambda name: manager)
        patch.setattr(DroppingVLM, "prepare", watched)
        for number, method in enumerate(METHODS):
            part = cases[number :: len(METHODS)]
            options = [f"model.path={tiny_checkpoint}", f"runs_dir={folder / 'runs'}", "on_error=record"]
            options += [f"data.path={write_corpus(part, folder / f'data{number}')}", *method]
            task = ["task.name=fuzzed", "task.lmms_task=fuzzed", "task.metric=exact_match"]
            outcome = run_quietly(*options, *task, models=models)
            samples = pd.read_parquet(outcome.folder / "samples.parquet").to_dict("records")
            seen += [(case, row, method) for case, row in zip(part, samples, strict=True)]
    return seen


def test_every_case_is_right_or_refused_by_name(outcomes: list[Any], llava_next: tuple[Any, Any]) -> None:
    encoder, wrong, tally = family_of(llava_next[0]), [], Counter[str]()
    for case, row, method in outcomes:
        fault = refused_wrongly(case, row) if row["error"] else answered_wrongly(case, row, method, encoder)
        tally["refused" if row["error"] else "right"] += fault is None
        if fault:
            wrong.append(f"{case.name} ({' '.join(method)}): {fault}")
    print(f"{len(outcomes)} cases: {tally['right']} right, {tally['refused']} refused by name")
    assert not wrong, "\n".join(wrong)
    assert len(outcomes) >= 500
    assert min(tally["right"], tally["refused"]) > 80


def refused_wrongly(case: Case, row: dict[str, Any]) -> str | None:
    """What is wrong with a refusal, if anything."""
    if case.refused == "":
        return f"refused: {row['error']}"
    if case.refused is not None and case.refused not in row["error"]:
        return f"refused for another reason: {row['error']}"
    if row["score"] is not None and not math.isnan(row["score"]):
        return "a failed sample has a score"
    return None if row["error"].count("\n") == 0 else "more than one line"


def answered_wrongly(case: Case, row: dict[str, Any], method: list[str], encoder: Family) -> str | None:
    """What is wrong with an answer, if anything."""
    if case.refused:
        return "it was answered"
    pictures = case.pictures() if case.refused is not None else []
    if case.refused is not None and (row["image"] or "").split() != [digest(p) for p in pictures]:
        return "it saw other pictures"
    layouts = [encoder.layout((p.height, p.width)) for p in pictures]
    budget = float(method[1].split("=")[1]) if len(method) > 1 else 1.0
    # newline tokens of full execution come on top of P * N
    newlines = sum(layout.stock_tokens for layout in layouts) if method == ["method=full"] else 0
    if case.refused is not None and row["kept"] > newlines + sum(
        math.floor(budget * layout.total_tokens) for layout in layouts
    ):
        return f"kept {row['kept']} tokens"
    if row["kept"] and not row["full"]:
        return "kept tokens of nothing"
    return None if row["prediction"] and row["score"] in (0.0, 1.0) else f"no answer: {row['prediction']!r}"


@pytest.mark.usefixtures("outcomes")
def test_no_logit_is_nan_and_text_is_no_placeholder(watch: Watch) -> None:
    assert watch == Watch(0, 0)
