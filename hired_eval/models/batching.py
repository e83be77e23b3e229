"""Which questions are answered together: those of one image side by side, those of like length together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from hired_eval.models.answering import Prepared

Key = TypeVar("Key")

BATCHES_A_WINDOW = 8
LARGE_BATCH = 16
"""Windows of larger batches are not longer, except to hold two batches: what is read ahead fills them."""


class Window(Generic[Key]):
    """Questions that are sorted before they are answered, as they come in the order of work.

    A window is some batches long, and ends early where its images take much memory. Neighbouring questions
    about the same images stay in one window unless it becomes four times as long.

    Args:
        batch_size: questions answered together, at most.
        most_bytes: memory that the visual tokens of a window may take.
        reads_ahead: whether pictures are read while others are answered. The first windows are then short,
            each twice as long as the one before, so that answering begins early.
    """

    def __init__(self, batch_size: int, most_bytes: int, *, reads_ahead: bool = False) -> None:
        self._longest = max(2 * batch_size, BATCHES_A_WINDOW * min(batch_size, LARGE_BATCH))
        self._length = batch_size if reads_ahead else self._longest
        self.most_bytes = most_bytes
        self._questions: list[tuple[Key, Prepared]] = []
        self._bytes: dict[str, int] = {}

    def add(self, key: Key, prepared: Prepared) -> list[tuple[Key, Prepared]]:
        """The questions so far, where the window is full and begins anew with this one; else []."""
        last = self._questions[-1][1] if self._questions else None
        full = len(self._questions) >= self._length or sum(self._bytes.values()) >= self.most_bytes
        same_images = last is not None and bool(prepared.digests) and prepared.digests == last.digests
        ended: list[tuple[Key, Prepared]] = []
        if full and not (same_images and len(self._questions) < 4 * self._longest):
            ended = self.end()
        self._questions.append((key, prepared))
        for digest, image in zip(prepared.digests, prepared.images, strict=True):
            self._bytes[digest] = image.embeddings.nbytes + image.packed.features.nbytes
        return ended

    def end(self) -> list[tuple[Key, Prepared]]:
        """The questions so far; the window is empty then."""
        ended, self._questions, self._bytes = self._questions, [], {}
        self._length = min(2 * self._length, self._longest)
        return ended


def batches(
    window: Sequence[tuple[Key, Prepared]], count_rows: Callable[[int], int]
) -> Iterator[list[tuple[Key, Prepared]]]:
    """The questions of a window in batches, the longest first, so that memory runs out early or never.

    Where two or more questions can share the KV cache of a prefix, they follow each other; a prefix with a
    single question is not shared, since that would only add a forward pass.

    Args:
        window: questions.
        count_rows: how many questions, at least 1, go together if the longest has so many tokens.
    """
    uses = Counter(prepared.prefix.key for _, prepared in window if prepared.shared)
    place = {key: i for i, key in enumerate(uses)}
    sharing: list[tuple[int, int, int, tuple[Key, Prepared]]] = []
    alone: list[tuple[Key, Prepared]] = []
    for key, prepared in window:
        prefix = prepared.prefix.key
        if prepared.shared and uses[prefix] > 1:
            own = len(prepared.input_ids) - prepared.shared
            sharing.append((-prepared.shared, place[prefix], -own, (key, prepared)))
        else:
            alone.append((key, replace(prepared, shared=0)))
    sharing.sort(key=lambda entry: entry[:3])
    alone.sort(key=lambda entry: -len(entry[1].input_ids))
    for questions in ([entry[3] for entry in sharing], alone):
        own = max((len(p.input_ids) - p.shared for _, p in questions if p.shared), default=0)
        start = 0
        while start < len(questions):
            first = questions[start][1]
            # prefixes and questions are padded apart; a prefix is held once more, for two questions at least
            size = count_rows(first.shared * 3 // 2 + own if first.shared else len(first.input_ids))
            yield questions[start : start + size]
            start += size
