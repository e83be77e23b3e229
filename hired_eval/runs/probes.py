"""Measurements that look inside the model: attention in generation, CLS-attention, kept tokens.

Each leaves a record like a run's, with arrays and pictures beside it, so that reports need no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from sys import stderr
from typing import Any

import numpy as np
import pandas as pd
import torch
from lmms_eval.api.task import Task
from PIL import Image
from torch import Tensor

from hired_eval.errors import UserError, first_line
from hired_eval.lmms.scorers import check_scorer, score_reply
from hired_eval.models.answering import DroppingVLM, Prepared, Question
from hired_eval.models.images import UNREADABLE, as_rgb, digest, refuse_deep_pictures, whole_pictures
from hired_eval.models.visual_tokens import VisualTokens
from hired_eval.records.folder import RunFolder, explained_disk_errors, replacing
from hired_eval.records.record import Benchmark, Record
from hired_eval.records.store import ARRAYS, PICTURES
from hired_eval.runs.loading import Models
from hired_eval.runs.plan import Plan, Say, note_place

GENERATED = 8
CURVE = np.linspace(0, 1, 101)
TOP_SHARES = (0.1, 0.2)
SHALLOW = 6


@dataclass
class Findings:
    """What a measurement leaves.

    Attributes:
        arrays: for arrays.npz.
        pictures: file name -> picture.
        rows: of samples.parquet, one a question.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """A question of a benchmark about one picture.

    Attributes:
        doc_id: of the document.
        text: the question as lmms-eval states it.
        picture: RGB.
        target: the accepted answers.
        generation: lmms-eval's generation options.
    """

    doc_id: int
    text: str
    picture: Image.Image
    target: str
    generation: dict[str, Any]


Measurement = Callable[[DroppingVLM, list[Asked]], Findings]


def measure_inside(plan: Plan, say: Say, models: Models) -> tuple[Record, pd.DataFrame]:
    """One measurement inside the model, on the first question about each of the first pictures.

    Raises:
        UserError: see `hired_eval.runs.accuracy.measure_accuracy`.
    """
    config = plan.config
    with whole_pictures():
        task = plan.load_task()
        asked = list(questions(task, plan.limit or len(task.eval_docs)))
        checkpoint = plan.load_checkpoint(models, say)
        llava = DroppingVLM(checkpoint, plan.dropper, config.model.prompt, share_prefix=False)
        say(f"{config.measure}: {len(asked)} pictures of {config.task.name}")
        with torch.inference_mode():
            findings = MEASUREMENTS[config.measure](llava, asked)
        if config.measure == "gallery":
            _score(findings, task, plan.record.benchmark, say)
    record = replace(
        plan.record,
        status="complete",
        samples=len(asked),
        documents=len(task.eval_docs),
        # one question a picture
        partial=len(asked) < len(task.eval_docs),
        timings=note_place(checkpoint),
    )
    _keep(plan.folder, findings)
    return record, pd.DataFrame(findings.rows)


def _score(findings: Findings, task: Task, benchmark: Benchmark, say: Say) -> None:
    """Put each answer's score to it, where lmms-eval can score it alone."""
    try:
        read = check_scorer(task, benchmark)
    except UserError as error:
        say(f"answers are not marked right or wrong: {error}")
        return
    for row in findings.rows:
        row["score"] = score_reply(task, row["doc_id"], row["prediction"], benchmark.metric, read)


def _keep(folder: RunFolder, findings: Findings) -> None:
    """Put arrays and pictures in place, before the record that makes them count."""
    with explained_disk_errors(folder.path):
        (folder.path / PICTURES).mkdir(parents=True, exist_ok=True)
        for name, picture in findings.pictures.items():
            with replacing(folder.path / PICTURES / name) as temporary:
                picture.save(temporary, "PNG")
        with replacing(folder.path / ARRAYS) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **findings.arrays)


def questions(task: Task, limit: int) -> Iterator[Asked]:
    """The first question about each of the first `limit` different pictures of a benchmark.

    Raises:
        UserError: the benchmark has no question about a single picture, or a picture cannot be read.
    """
    with redirect_stdout(stderr):
        task.build_all_requests(limit=None, rank=0, world_size=1)
    seen: set[str] = set()
    for instance in task.instances:
        text, generation, to_visual, doc_id, _, split = instance.args
        name = f"{task.config.task} document {doc_id}"
        try:
            document = task.dataset[split][doc_id]
            refuse_deep_pictures(document)
            pictures = to_visual(document) or []
            if len(pictures) != 1 or not isinstance(generation, dict):
                continue
            picture = as_rgb(pictures[0])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        except UNREADABLE as error:
            raise UserError(f"{name}: its image cannot be read: {first_line(error)}") from error
        key = digest(picture)
        if key in seen:
            continue
        seen.add(key)
        yield Asked(doc_id, text, picture, join_accepted(task, document), dict(generation))
        if len(seen) == limit:
            return
    if not seen:
        raise UserError(f"{task.config.task} has no questions about a single picture")


def join_accepted(task: Task, document: dict[str, Any]) -> str:
    """The accepted answers of a document, each once, separated by commas."""
    target = task.doc_to_target(document)
    if target == task.config.doc_to_target and "answers" in document:
        # of VQAv2 and TextVQA lmms-eval gives the name of a column that is not there
        target = document["answers"]
    answers = target if isinstance(target, list) else [target]
    return ", ".join(dict.fromkeys(str(a["answer"] if isinstance(a, dict) else a) for a in answers))


def generation_attention(llava: DroppingVLM, asked: list[Asked]) -> Findings:
    """Which tokens of the prompt the LLM attends to while it generates (the paper's Figure 2, Table 2)."""
    found = Findings()
    kinds = ("system", "text", "full-image", "sub-images")
    mass, shares, lengths, cumulative, top = [], [], [], [], []
    for one in asked:
        prepared = llava.prepare(Question(one.text, (one.picture,)))
        attention, answer = read_attention(llava, prepared)
        visual = np.array(prepared.input_ids) == llava.family.config.image_token_id
        first = int(visual.argmax())
        partition = np.full(len(visual), -1)
        partition[visual] = partition_of_placeholders(prepared)
        position = np.arange(len(visual))
        masks = [position < first, ~visual & (position > first), partition == 0, partition > 0]
        mass.append([attention[m].sum() for m in masks])
        shares.append([m.mean() for m in masks])
        lengths.append([m.sum() for m in masks])
        of_visual = np.sort(attention[visual])[::-1]
        curve = np.concatenate([[0.0], np.cumsum(of_visual)]) / of_visual.sum()
        cumulative.append(np.interp(CURVE, np.linspace(0, 1, len(curve)), curve))
        layout = prepared.images[0].layout
        if (layout.rows, layout.cols) == (2, 2):
            order = partition[visual][np.argsort(-attention[visual], kind="stable")]
            counts = [np.bincount(order[: int(s * len(order))], minlength=5) for s in TOP_SHARES]
            top.append(counts)
        found.rows.append(
            {"doc_id": one.doc_id, "question": one.text, "prediction": answer, "target": one.target}
        )
    tokens = np.array(shares)
    used = tokens.sum(axis=0) > 0
    found.arrays = {
        "kinds": np.array(kinds)[used],
        "mass": np.array(mass)[:, used],
        "token_share": tokens[:, used],
        "tokens": np.array(lengths)[:, used],
        "cumulative": np.array(cumulative),
        "top_tokens": np.array(top, dtype=np.int64).reshape(len(top), len(TOP_SHARES), 5),
    }
    return found


def read_attention(llava: DroppingVLM, prepared: Prepared) -> tuple[np.ndarray, str]:
    """Attention that the prompt's tokens get from generated tokens, and the text generated.

    Args:
        llava: loaded with the eager attention backend.
        prepared: one question.

    Returns:
        (prompt length,) mean over generated tokens, layers and heads, scaled to sum to 1.
    """
    model = llava.model
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([prepared.input_ids], device=device)
    mask = torch.ones_like(ids)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        **llava.family.inputs([image.embeddings for image in prepared.images]),
    )
    total = torch.zeros(ids.shape[1])
    generated: list[int] = []
    for _ in range(GENERATED):
        token: Tensor = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        if generated and int(token) == llava.tokenizer.eos_token_id:
            break
        generated.append(int(token))
        mask = torch.cat([mask, torch.ones_like(token)], dim=1)
        output = model(
            input_ids=token, attention_mask=mask, past_key_values=output.past_key_values, use_cache=True,
            output_attentions=True,
        )  # fmt: skip
        for layer in output.attentions:
            total += layer[0, :, -1, : ids.shape[1]].float().mean(dim=0).cpu()
    return (total / total.sum()).numpy(), llava.tokenizer.decode(generated, skip_special_tokens=True)


def partition_of_placeholders(prepared: Prepared) -> np.ndarray:
    """(kept,) the partition of each visual token of a question's image, newline tokens with their row's."""
    tokens = prepared.images[0]
    behind = 1 + tokens.packed.newlines_after.cpu().numpy()
    return np.repeat(places_of(tokens)[:, 0], behind)


def places_of(tokens: VisualTokens) -> np.ndarray:
    """(n, 2) partition and position in it of each kept token; the full-image counts as partition 0."""
    layout = tokens.layout
    partition = (tokens.packed.partition - layout.full_image) % layout.partitions
    return torch.stack([partition, tokens.packed.index], dim=1).cpu().numpy()


def cls_attention(llava: DroppingVLM, asked: list[Asked]) -> Findings:
    """CLS-attention of the full-image, layer by layer (the paper's Figure 3)."""
    found = Findings()
    count = len(llava.family.layers)
    final = llava.family.feature_layer
    layers = sorted({0, 1, count // 2, final, count - 1}) if count > SHALLOW else list(range(count))
    maps = []
    for i, one in enumerate(asked):
        size = (one.picture.height, one.picture.width)
        picture = llava.pictures.read(one.picture)
        pixels = picture.pixels[picture.layout.full_image][None]
        encoding = llava.family.encode(pixels, llava.dropper.vision, also=frozenset(layers))
        maps.append([encoding.attention_at(layer)[0].sum(dim=0).cpu().numpy() for layer in layers])
        found.pictures[f"{i}.png"] = one.picture
        found.rows.append({"doc_id": one.doc_id, "question": one.text, "height": size[0], "width": size[1]})
    found.arrays = {"maps": np.array(maps), "layers": np.array(layers)}
    return found


def gallery(llava: DroppingVLM, asked: list[Asked]) -> Findings:
    """What a method keeps of each picture, and what the model then answers."""
    found = Findings()
    for i, one in enumerate(asked):
        prepared = llava.prepare(Question(one.text, (one.picture,)))
        answer = llava.answer([prepared], one.generation)[0].text
        tokens = prepared.images[0]
        layout = tokens.layout
        side_by_side = np.concatenate(list(partitions_of(llava, one.picture)), axis=1)
        found.pictures[f"{i}.png"] = Image.fromarray(side_by_side)
        found.arrays[f"kept_{i}"] = places_of(tokens)
        found.arrays[f"layout_{i}"] = np.array([layout.rows, layout.cols, layout.tile[0]])
        found.rows.append(
            {"doc_id": one.doc_id, "question": one.text, "prediction": answer, "target": one.target,
             "kept": tokens.counts.kept, "full": tokens.counts.full, "image": prepared.digests[0]}
        )  # fmt: skip
    return found


def partitions_of(llava: DroppingVLM, picture: Image.Image) -> np.ndarray:
    """(P, S, S, 3) uint8: the picture's partitions as the vision tower sees them, the full-image first."""
    processor = llava.processor.image_processor
    read = llava.pictures.read(picture)
    values = read.pixels.float().roll(-read.layout.full_image, dims=0)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (processor.image_mean, processor.image_std))
    pixels: np.ndarray = (
        ((values * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    )
    return pixels


MEASUREMENTS: dict[str, Measurement] = {
    "generation_attention": generation_attention,
    "cls_attention": cls_attention,
    "gallery": gallery,
}
