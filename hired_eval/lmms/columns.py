"""Whether documents have the columns that a task reads, found before any question is answered."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any

from datasets import Features, Image, LargeList, List, Value
from jinja2 import UndefinedError
from lmms_eval.api.task import Task
from PIL import Image as Pillow
from pyarrow.parquet import ParquetFile, read_schema

from hired_eval.errors import UserError, first_line
from hired_eval.models.images import UNREADABLE

MISFITS = (LookupError, TypeError, AttributeError, ValueError, AssertionError, UndefinedError)
"""What a task's own functions raise on documents of another schema."""
CONDITIONAL = (ast.If, ast.IfExp, ast.Try, ast.BoolOp, ast.For, ast.While, ast.Lambda, ast.comprehension)


def read_picture_columns(file: Path) -> Features | None:
    """Features of a parquet file that pandas and the like have written, pictures among them; else None.

    `datasets` notes in the file that a column holds pictures. Without that note they are structs of bytes and
    path, or plain bytes.
    """
    with file.open("rb") as stream:
        schema = read_schema(stream)
    if b"huggingface" in (schema.metadata or {}):
        return None
    features = Features.from_arrow_schema(schema)
    pictures = {
        name: found
        for name, feature in features.items()
        if (found := _as_picture(feature)) and _shows_pictures(file, name)
    }
    return Features({**features, **pictures}) if pictures else None


def _shows_pictures(file: Path, column: str) -> bool:
    """Whether the first value of a column, or of its first list, is a picture's file."""
    with ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=1, columns=[column]):
            value = batch.column(0)[0].as_py()
            while isinstance(value, list):
                value = value[0] if value else None
            content = value["bytes"] if isinstance(value, dict) else value
            if content is not None:
                try:
                    Pillow.open(BytesIO(content)).close()
                except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError):
                    return False
                return True
    return False


def _as_picture(feature: Any) -> Image | List | None:
    if isinstance(feature, List | LargeList):
        inner = _as_picture(feature.feature)
        return List(inner) if inner else None
    return Image() if _is_encoded(feature) else None


def _is_encoded(feature: Any) -> bool:
    """Whether a column holds files' contents, alone or as `datasets` stores a picture, with its path."""
    if isinstance(feature, dict) and feature.keys() == {"bytes", "path"}:
        return _is_encoded(feature["bytes"])
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def check_documents(task: Task, asked: object, schema: Features | None) -> None:
    """Put the first, the middle and the last document through the task's functions.

    Scoring is not tried, since it may keep totals or ask a judge: the columns it reads are taken from its
    source.

    Args:
        task: with its documents.
        asked: what the task reads, for the message.
        schema: of the real documents, where it is known.

    Raises:
        UserError: naming the column that is missing or of another type, and those that are there.
    """
    documents = task.eval_docs
    features = documents.features
    needed, mentioned = _columns_of_scoring(task)
    target = task.config.doc_to_target
    if isinstance(target, str) and not task.config.process_results and "{" not in target:
        needed.add(target)
    if missing := sorted(needed - features.keys() | (mentioned & (schema or {}).keys()) - features.keys()):
        raise explain_misfit(task.config.task, asked, f"column {missing[0]!r} is missing", features)
    for name in sorted((mentioned | needed) & (schema or {}).keys()):
        if schema and _kind(features[name]) != _kind(schema[name]):
            reason = f"column {name!r} holds {_kind(features[name])}, not {_kind(schema[name])}"
            raise explain_misfit(task.config.task, asked, reason, features)
    misfits: list[tuple[str, Exception | None]] = []
    for number in sorted({0, len(documents) // 2, len(documents) - 1}):
        try:
            document = documents[number]
        except UNREADABLE:
            continue  # a picture that cannot be read is that sample's failure, told when it is answered
        try:
            task.doc_to_text(document)
            task.doc_to_target(document)
            unmarked = _unmarked(document, task.doc_to_visual(document))
        except MISFITS as error:
            misfits.append((reason_of(error, document), error))
            continue
        except SystemExit:
            return  # a task that gives up says why when its questions are asked
        if unmarked is None:
            return
        misfits.append((unmarked, None))
    if misfits:
        # where some fit, the others are samples that fail on their own
        reason, cause = misfits[0]
        raise explain_misfit(task.config.task, asked, reason, features) from cause


def _unmarked(document: dict[str, Any], visuals: Any) -> str | None:
    """What is wrong with a document's pictures, where they are bytes; None where nothing is."""
    for visual in visuals if isinstance(visuals, list | tuple) else ():
        if isinstance(visual, bytes | dict):
            column = next((name for name, value in document.items() if value is visual), "of pictures")
            return f"column {column!r} holds bytes that are not pictures"
    return None


def explain_misfit(name: str, asked: object, reason: str, columns: Any) -> UserError:
    """The error for documents of another schema than the task's."""
    return UserError(
        f"the documents do not fit task {name}, which reads {asked}: {reason}; columns found: "
        f"{', '.join(columns)}"
    )


def reason_of(error: BaseException, document: dict[str, Any] | None = None) -> str:
    """What a task's function stumbled over, in words.

    Args:
        error: what it raised.
        document: that it was given.
    """
    if isinstance(error, KeyError) and error.args:
        return f"column {error.args[0]!r} is missing"
    if isinstance(error, AttributeError) and document:
        for name, value in document.items():
            if value is not None and value is error.obj:
                return f"column {name!r} holds values of type {type(value).__name__}, without {error.name!r}"
    return f"{type(error).__name__}: {first_line(error)}"


def _kind(feature: Any) -> str:
    if isinstance(feature, List | LargeList | list):
        return "lists"
    if isinstance(feature, Image) or _is_encoded(feature):
        return "pictures"
    return "single values"


def _columns_of_scoring(task: Task) -> tuple[set[str], set[str]]:
    """The columns that a task's `process_results` reads in any case, and all that it speaks of."""
    scoring = task.config.process_results
    scoring = scoring.func if isinstance(scoring, partial) else scoring
    needed: set[str] = set()
    mentioned: set[str] = set()
    if isinstance(scoring, FunctionType):
        for column, always in _columns(scoring, 0, set()):
            mentioned.add(column)
            if always:
                needed.add(column)
    return needed, mentioned


def _columns(function: FunctionType, position: int, seen: set[str]) -> Iterator[tuple[str, bool]]:
    """Columns that a function reads of its argument, and whether it does so unconditionally.

    Functions of the same module that the document is handed on to are followed.
    """
    if function.__name__ in seen:
        return
    seen.add(function.__name__)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return  # no source to be had
    (definition,) = tree.body
    if not isinstance(definition, ast.FunctionDef) or position >= len(definition.args.args):
        return
    document = definition.args.args[position].arg
    written = {
        node.slice.value
        for node in ast.walk(definition)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.slice, ast.Constant)
    }
    for node, always in _nodes(definition, True):
        for column in _read_in(node, document):
            yield column, always and isinstance(node, ast.Subscript) and column not in written
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            inner = function.__globals__.get(node.func.id)
            if not isinstance(inner, FunctionType) or inner.__module__ != function.__module__:
                continue
            for place, argument in enumerate(node.args):
                if isinstance(argument, ast.Name) and argument.id == document:
                    for column, inside in _columns(inner, place, seen):
                        yield column, always and inside


def _nodes(node: ast.AST, always: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below one, and whether they are come to in any case."""
    for child in ast.iter_child_nodes(node):
        yield child, always
        yield from _nodes(child, always and not isinstance(child, CONDITIONAL))


def _read_in(node: ast.AST, document: str) -> Iterator[str]:
    """The column that a node reads, asks for, or gets: doc["a"], "a" in doc, doc.get("a")."""

    def text(value: ast.AST) -> Iterator[str]:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value

    def named(value: ast.AST) -> bool:
        return isinstance(value, ast.Name) and value.id == document

    if isinstance(node, ast.Subscript) and named(node.value):
        yield from text(node.slice)
    if isinstance(node, ast.Compare) and any(map(named, node.comparators)):
        yield from text(node.left)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and named(node.func.value):
        yield from (found for argument in node.args[:1] for found in text(argument))
