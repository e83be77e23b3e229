"""Replies of the model, kept on disk as they come, so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from hired_eval.errors import UserError
from hired_eval.records.folder import REPLIES, RunFolder, explained_disk_errors, replacing

RequestKey = tuple[str, int, int, int]
"""Task name, document id, number of the request within the document, and number of the draw where answers to
a request are sampled several times."""


class ImageTokens(NamedTuple):
    """Visual tokens of one image: given to the LLM, allowed by a budget, and given by the stock model."""

    kept: int
    allowed: int | None
    full: int


@dataclass(frozen=True)
class Reply:
    """One answered request of lmms-eval.

    Attributes:
        text: generated text; empty for a likelihood request or a failed sample.
        loss: mean negative log-likelihood of a likelihood request, in nats per token.
        greedy: of a likelihood request.
        counts: visual tokens of each image.
        images: digest of each image.
        by_layer: visual tokens that each layer of the language model sees, where some leave inside it.
        allowed: their mean that a budget allows.
        error: why the sample failed.
    """

    text: str = ""
    loss: float | None = None
    greedy: bool | None = None
    counts: Sequence[ImageTokens] = field(default_factory=tuple)
    images: Sequence[str] = field(default_factory=tuple)
    by_layer: Sequence[int] = field(default_factory=tuple)
    allowed: float | None = None
    error: str | None = None


class ReplyFile:
    """Replies as they come, one JSON line each; a line cut short by a crash is left out.

    Every process of a run writes a file of its own and knows what all files held when it started.

    Args:
        folder: of the run.
        rank: of this process.
        earlier: of a run on other documents of the same benchmark, whose replies are as good.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, folder: RunFolder, rank: int = 0, earlier: RunFolder | None = None) -> None:
        self.file = folder.path / REPLIES.replace("*", f"-{rank}" if rank else "")
        self.known: dict[RequestKey, Reply] = {}
        for file in [*(earlier.replies() if earlier else ()), *folder.replies()]:
            self._read(file)

    def _read(self, file: Path) -> None:
        """Take in the replies of a file; a line cut short is removed by the process whose file it is."""
        with explained_disk_errors(file):
            content = file.read_bytes()
            if content and not content.endswith(b"\n"):
                content = content[: content.rfind(b"\n") + 1]
                if file == self.file:
                    with replacing(file) as temporary:
                        temporary.write_bytes(content)
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                key, fields = json.loads(line)
                # replies from before requests were drawn several times have no number of the draw
                task, doc_id, index, draw = key if len(key) == 4 else (*key, 0)
                counts = tuple(ImageTokens(*c) for c in fields["counts"])
                images, by_layer = tuple(fields["images"]), tuple(fields.get("by_layer", ()))
                fields = {**fields, "counts": counts, "images": images, "by_layer": by_layer}
                self.known[task, doc_id, index, draw] = Reply(**fields)
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"line {number} of {file} is damaged; delete the file to answer all questions again"
                ) from error

    def get(self, key: RequestKey) -> Reply | None:
        """The reply of an earlier attempt; one that failed is tried again."""
        reply = self.known.get(key)
        return reply if reply is not None and reply.error is None else None

    def add(self, replies: dict[RequestKey, Reply]) -> None:
        """Keep the replies of one batch, on disk before the next begins."""
        lines = [json.dumps([key, asdict(r)]) + "\n" for key, r in replies.items()]
        with explained_disk_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with explained_disk_errors(self.file), self.file.open("a") as stream:
            stream.write("".join(lines))
            stream.flush()
            os.fsync(stream.fileno())
        self.known.update(replies)
