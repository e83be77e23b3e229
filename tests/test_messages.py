"""Every error a user can meet is listed with its text: in the table of tests/messages.py, or below."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from hired_eval.errors import UserError
from hired_eval.paths import PACKAGE
from tests.messages import MESSAGES
from tests.provocations import Place
from tests.spine import command_line

CLASSES = {"UserError", "HubError", "NothingYetError", "UnboundedError"}
ELSEWHERE = {
    # in tests/reporting/test_parts.py
    "records/scores.py": [
        "task.scale=… sets no bound to what a document can score, so that a part of the benchmark has no "
        "interval that holds whenever one stops; use limit, or answer it whole",
        "the documents have no column …, so that the categories of those not answered are not known and a "
        "part has no interval; answer the benchmark whole",
        "a document scores …, which is not from … to …: a part of this benchmark has no interval; answer it "
        "whole",
        "the metric counts … of … documents, and how many of those not answered it counts is not known: a "
        "part has no interval; answer the benchmark whole",
    ],
    "records/store.py": ["…"],
    # in tests/models/test_qwen.py
    "models/families/qwen_vl.py": [
        "… merges the patches behind the last layer of its vision tower; leave feature_layer out",
        "a picture of … x … pixels is too narrow for …, which takes sides of 1 to … at most; leave it out",
        "… needs image_grid_thw with pixel_values; pass all that its processor made",
        "pixel_values of … patches are not those of … images of … patches, as image_grid_thw has it; pass "
        "both as the processor made them",
        "… counts positions by the whole prompt, and this prompt with images continues a KV cache; give the "
        "whole conversation without it",
        "layer … of … attends within windows, so that attention received says nothing of the whole picture; "
        "let the method's options name a layer that sees all of it: …",
    ],
    "models/checkpoint.py": [
        "…: models of type … see pictures at the resolutions that they were made for; leave it out",
        "… exclude each other; leave square or the others out",
        "square=… must be a multiple of …, the pixels on a side of a token; try square=…",
        "min_pixels=… is more than max_pixels=……; change one of them",
    ],
    # in tests/models/test_layer_stages.py
    "models/prompt.py": [
        "the checkpoint's chat template refuses the task's messages (…); take the simple form, with "
        "--force_simple",
    ],
    "dropping/composed.py": [
        "… both choose tokens before the language model; combine one of them with stages inside it",
    ],
    "models/apply.py": [
        "… drops tokens inside the language model, and this prompt with images continues a KV cache; give "
        "the whole conversation without it",
    ],
    "runs/plan.py": [
        "measure=… does not look at tokens that leave inside the language model, as those of … do; "
        "measure=accuracy, gallery and efficiency do",
    ],
    "dropping/registry.py": [
        "… has no option … of its own; put a method's name in front, e.g. ….…",
    ],
    "method_configs.py": [
        "… names … twice; name each method once",
    ],
    "cli/help.py": [
        "…: … has the options of its methods; write method.NAME.OPTION=VALUE with NAME one of …",
    ],
    # in tests/models/test_question.py
    "dropping/types.py": [
        "this dropping method reads the question, and nothing here says what it is; set text_tower=null, or "
        "give your method a question_tower",
        # in tests/dropping/test_matrix.py
        "….score must give one number for each … = …; it gave …",
    ],
    "models/question.py": [
        "text_tower=… is not a whole CLIP: it lacks …",
        "text_tower=… compares patches of a CLIP, and the vision tower is …; set text_tower=null",
        "text_tower=… is not the CLIP that the vision tower is from: its patches have … channels, and those "
        "of the model …",
    ],
    # in tests/test_local_data.py
    "lmms/local_data.py": [
        "… is … by its name, and the task reads …; found: …. Set data.path to the right folder, or rename "
        "this one if it holds these documents",
        "… holds … commits (…), and refs/main names none of them; set data.path to one of them",
        "data.path=…: the datasets library cannot read a path with '::'; rename it",
        "… holds … documents of split …, and its README.md says …; copy it whole (limit=NUMBER "
        "answers a part)",
        "data.path=… holds … more than once (…); set data.path to one of them",
        "split … of … was found more than once (…); leave one of them",
        "data.path=… holds a split … of its own, and one in …; name a folder with one of them",
        "data.path=… is a file; name the folder that it is in",
        "… holds … not as parquet (…); convert it",
    ],
    "lmms/parquet_files.py": [
        "… was found more than once (…); leave one complete set of files",
        "… lacks … of its … files (…); copy it whole",
        "… holds no documents; …",
        "the folder … cannot be read: …",
        "… holds the same file twice: … and …; copy it again",
        "… and … do not have the same columns (…); they are not parts of one data set",
        "… is a link to …, which does not exist; …",
        "… cannot be read: …",
        "… is a pointer of Git LFS, not data; fetch it with git lfs pull",
    ],
    "lmms/data_cards.py": [
        "… lacks the files of split … of …: its README.md says …; copy the data set whole",
        "… cannot be read (…); copy it again, or delete it",
        "… names files elsewhere: …; copy them here",
    ],
    # in tests/test_columns.py
    "lmms/columns.py": [
        "the documents do not fit task …, which reads …: …; columns found: …",
    ],
    "lmms/tasks.py": [
        "the cache of the datasets library has only config … of …, and … reads the default one; fetch it, or "
        "set data.path=FOLDER",
        "the bundled documents of … replace split … of …, and task … reads split … of …; set "
        "task.lmms_task=…, or data.path=FOLDER",
        # in tests/test_scorers.py and tests/test_tasks.py
        "… is a … of lmms-eval (…); name one of them",
        "… is a task of lmms-eval with code of its own, which is not supported",
        "task … has output type …, which is not supported (… are)",
        "task … is about videos; this model sees only pictures",
        "task … names no data set",
        "task … names neither a test nor a validation split, so nothing can be asked",
        "task … names no metric, so that its answers cannot be scored",
        "task … scores each answer several times (…), which is not supported",
        "metric … of task … is a file for a test server, not a score; choose another metric (…)",
        "no document has task.only=…; correct it, or leave it out",
        "lmms-eval's task … needs the package …, not installed here",
        "lmms-eval's task … cannot be loaded: …: …",
        "task … has a judge behind the network (…), which is not asked here; choose another task",
    ],
    # in tests/test_compare.py
    "reporting/comparison.py": [
        "… is on benchmark … and … on …, or they are scored otherwise; compare runs on one benchmark",
        "… and … answered other documents (… and …); compare runs on the same ones",
        "… and … have no document in common; run both with one limit",
        "… is not a finished run with a score; choose another one",
        # why two parts are not compared, in tests/reporting/test_parts.py
        "…",
    ],
    "runs/redrawn.py": [
        "the checkpoint or the documents of … have changed since; run it again",
        "the picture of document … cannot be read: …",
    ],
    # in tests/test_tasks.py
    "lmms/pictures.py": [
        "picture … is not among the … of …; copy it whole",
    ],
    "lmms/scorers.py": [
        "task.scoring=… needs what MMBench says of a document, and metric … of task … gives …; set "
        "task.scoring=mean",
        "metric … of task … names an aggregation that lmms-eval does not have",
        "metric … of task … is made by a judge behind the network (…), which is not asked here; choose "
        "another metric or task",
        "metric … of task … is not what task.scoring=… and task.scale=… make of its samples: of the same "
        "made-up scores lmms-eval makes … and this would make …; …",
        "metric … of task … gives … for a document, which task.scale=… would make …; set task.scale=1",
        "task … cannot be asked: …",
        "task … cannot be asked: its task gives up: …",
        "lmms-eval cannot score task …: …: …; are these its documents?",
        "metric … of task … gives no number for a document but …, so that its score is not a mean over "
        "documents; choose another metric or task",
        "task.scoring=… needs pairs of questions in categories, and metric … of task … gives …; set "
        "task.scoring=mean",
        "task.scoring=… needs the category of each document, and metric … of task … gives …, none called …; "
        "write category: NAME in the task's config, or set task.scoring=mean",
    ],
    "lmms/scoring.py": [
        "lmms-eval makes … of metric … of task …, and task.scoring=… makes … of the same samples "
        "(task.scale=…); no score is given, and the replies are kept in …",
        "metric … of task … gives … for document …, not a number; choose another metric (the replies are "
        "kept in …)",
    ],
    "lmms/guards.py": [
        "lmms-eval cannot score a reply of task …: ……",
        "……",
    ],
    # in tests/test_lmms.py and tests/test_scorers.py
    "lmms/documents.py": [
        "its question is not text but a …",
        "its task has turns of …, and the prompt has room for one question; use a checkpoint with a chat "
        "template, and leave prompt out",
        "its task shows a …; this model sees only pictures",
    ],
    "lmms/requests.py": [
        "its task gives up: …",
    ],
    # in tests/models/test_decoding.py
    "models/decoding.py": [
        "the generation option until must be a text or a list of texts, got …",
        "the generation option do_sample must be true or false, got …",
        "the generation option …=… is not kept here; take it out of the task's generation_kwargs (kept are "
        "until, do_sample, …)",
        "the generation option top_p must be from 0 to 1, got …",
        "sampling with num_beams=… is not offered; set num_beams or temperature to null in the task's "
        "generation_kwargs",
        "the generation option … must be ……, got …",
        "the generation option … must be a list of token ids, got …",
    ],
    # in tests/test_probes.py
    "runs/probes.py": [
        "…: …",
        "…: its image cannot be read: …",
    ],
    # in tests/dropping/test_matrix.py
    "dropping/base.py": [
        "….reads must be a frozenset of …, got …",
    ],
    # in tests/models/test_own_methods.py
    "models/own_methods.py": [
        "the method … fails: …: … (…, line …, in …)",
    ],
    # in tests/dropping/test_fastv.py
    "dropping/layer_stage.py": [
        "… acts at layer …, before any layer has read the prompt; choose a layer from 1",
        "… and … both act at layer …; give them different layers",
        "… acts at layer …, and the language model has …; choose one from 1 to …",
        "… has … ratios for … layers; give one for each",
        "… cannot keep to … visual tokens, the mean over layers that … allows: the layers in front "
        "see all …, which makes …; set a larger budget, or let tokens leave at an earlier layer",
        "a stage that uses the signal … must name it in `reads`",
    ],
    # in tests/models/test_inside.py and tests/models/test_own_methods.py
    "models/inside.py": [
        "….kept must give a bool for each column, (B, n) = …; it gave …",
        "….kept must keep visual tokens alone, in each row as many as `counts` says",
        "… numbers positions anew, which the rotary embedding of this … does not allow; set "
        "positions=original",
        "visual tokens cannot leave inside …, whose layers are …; known are …",
        "visual tokens cannot leave inside this …, which attends within a window; take a model of full "
        "attention (no sliding_window)",
        "attention_mask must be (rows, columns) where visual tokens leave inside the language model",
        "visual tokens cannot leave a KV cache of fixed size; take the default one (no cache_implementation)",
        "this KV cache is not of the prompts that the language model read last in this `with` block; start "
        "again without it",
        "where visual tokens are is not known; call expect(visual) before each batch",
        "expect was told of a batch of …, and the language model got …; tell it of each batch as the model "
        "gets it, padding included and in one piece",
        "this language model adds to its visual tokens behind each of the first … layers; let them leave at "
        "layer … or later",
    ],
    # in tests/models/test_inside.py
    "models/segments.py": [
        "a prompt ends with a visual token, so that nothing asks for what stays; put the question behind the "
        "image",
    ],
    # provoked in tests/models/test_convert.py
    "models/convert.py": [
        "… holds no weights (model*.safetensors or pytorch_model*.bin)",
        "… exists already; choose another folder",
        "… is not in the original LLaVA layout: its config.json must name mm_vision_tower and one of "
        "the model "
        "types …; its type is …",
        "the weights are not those of a LLaVA-1.5 or ShareGPT4V; …",
        "cannot write …: …",
        "…: …=… is not supported, only … is",
        "… has no tokenizer: neither tokenizer.json nor tokenizer.model",
        "… holds its weights as pickle (…); add --allow-pickle to read tensors, and nothing but "
        "tensors, from it",
        "… cannot be read: …",
        "… holds more than tensors, and is not read: it could run code",
    ],
    # in tests/test_regression.py
    "cli/composing.py": [
        "…",
    ],
    "regression/chosen.py": [
        "--samples must be from 1 to …, as many as the set has",
        "there is no set …; known: …, or a file NAME.yaml",
        "… is not valid YAML: …",
        "… is not a regression set: …; see configs/regression/mini.yaml",
        "the set has no … …; it has …",
    ],
    "regression/command.py": [
        "--update renews the whole reference; leave the options that take a part of it out",
    ],
    "regression/reference.py": [
        "there is no reference in …; make one with --update, and commit it",
        "… was made with the overrides …, and the set has …; …",
        "… has … samples of each benchmark, and the set …; …",
        "the weights differ (…) from those of … (…); …",
        "… has another format than this version reads; renew it with --update",
        "the reference in … is damaged (…); take it from version control again, or renew it with --update",
        "… has … for …, and the set …; …",
        "… lacks the benchmark …; …",
        "the data of … differs (…) from that of … (…); …",
    ],
    "reporting/regression.py": [
        "the reference lacks … of … samples, the first being … on … document …; renew it with --update",
        "other questions than the reference's are asked: … differ, the first being … document …; install the "
        "versions that the reference names, or renew it with --update",
        "tolerance.… must be a number of at least 0, got …",
    ],
}
"""Errors that other tests provoke: file of the package -> their texts, with … for what is filled in."""


@dataclass(frozen=True)
class Provoked:
    """What a line of the table led to.

    Attributes:
        text: of the error.
        expected: regular expression of the text.
        raised: file and line of each UserError made on the way.
    """

    text: str
    expected: str
    raised: frozenset[tuple[str, int]]


@pytest.fixture(scope="module")
def provoke(
    tiny_checkpoint: Path, docvqa_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Provoked]:
    """Provokes a line of the table, once."""

    @cache
    def provoked(line: int) -> Provoked:
        provocation, expected = MESSAGES[line]
        raised = set()

        def noted(self: UserError, *arguments: object) -> None:
            place = sys._getframe(1)
            raised.add((place.f_code.co_filename, place.f_lineno))
            Exception.__init__(self, *arguments)

        tmp = tmp_path_factory.mktemp("place")
        folders = {"model": str(tiny_checkpoint), "data": str(docvqa_folder), "tmp": str(tmp)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(UserError, "__init__", noted)
            if isinstance(provocation, list):
                text = printed(patch, folders, [argument.format(**folders) for argument in provocation])
            else:
                with pytest.raises((UserError, SystemExit)) as refused:
                    provocation(Place(tiny_checkpoint, docvqa_folder, tmp, patch))
                text = str(refused.value).removeprefix("error: ")
        pieces = expected.format(**folders).split("…")
        return Provoked(text, ".*".join(map(re.escape, pieces)), frozenset(raised))

    return provoked


def printed(patch: pytest.MonkeyPatch, folders: dict[str, str], arguments: list[str]) -> str:
    """The one line in which the command line ends."""
    named = {argument.split("=")[0] for argument in arguments}
    base = [f"model.path={folders['model']}", f"data.path={folders['data']}", f"runs_dir={folders['tmp']}"]
    screen = StringIO()
    with redirect_stderr(screen), redirect_stdout(screen):
        flags = [a for a in arguments if a == "-m"]
        arguments = [a for a in arguments if a != "-m"]
        status = command_line(patch, *flags, *[o for o in base if o.split("=")[0] not in named], *arguments)
    lines = screen.getvalue().splitlines()
    assert status == 1
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], screen.getvalue()
    return lines[-1].removeprefix("error: ")


@pytest.mark.parametrize("line", range(len(MESSAGES)), ids=[text[:50] for _, text in MESSAGES])
def test_an_error_is_one_line_with_the_text_of_the_table(
    line: int, provoke: Callable[[int], Provoked]
) -> None:
    found = provoke(line)
    assert re.fullmatch(found.expected, found.text), found.text
    assert found.raised


def errors() -> Iterator[tuple[Path, ast.Call]]:
    """Every place of the package that makes an error for the user."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES:
                yield file, node


def template(node: ast.expr) -> str:
    """The text in the source, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return "".join(map(template, node.values)) if isinstance(node, ast.JoinedStr) else "…"


def test_every_error_of_the_package_is_in_the_table(provoke: Callable[[int], Provoked]) -> None:
    raised = set().union(*(provoke(line).raised for line in range(len(MESSAGES))))
    missing, pinned = [], []
    for file, call in errors():
        text, name = template(call.args[0]), str(file.relative_to(PACKAGE))
        if text in ELSEWHERE.get(name, ()):
            pinned.append((name, text))
        elif not any((str(file), line) in raised for line in range(call.lineno, call.end_lineno + 1)):
            missing.append(f"{name}:{call.lineno} {text}")
    assert not missing
    there = {(n, text) for n, texts in ELSEWHERE.items() if (PACKAGE / n).exists() for text in texts}
    assert there == set(pinned), "a text pinned that the package has no more"
