"""Which columns of a prompt are left, for any batch of prompts."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hired_eval.models.shortening import Shortening, nothing_dropped, shorten
from hired_eval.models.visual_tokens import TokenCounts

Row = list[tuple[int, int, int]]
"""Text tokens, then an image's placeholders, then how many of its tokens are kept; one for each image."""
counts = st.integers(0, 4)
images = st.tuples(counts, st.integers(1, 6), st.integers(0, 7))
rows = st.lists(st.tuples(st.lists(images, max_size=3), counts, counts, counts), min_size=1, max_size=4)


def prompts(drawn: list[tuple[Row, int, int, int]], keep_all: bool) -> tuple[Tensor, Tensor, list[list[Any]]]:
    """Placeholders and mask (B, L) of rows of images and text, and their counts; padded left, then right."""
    texts, kept = [], []
    for row, tail, left, right in drawn:
        places = [False] * 0
        for text, full, _ in row:
            places += [False] * text + [True] * full
        texts.append(([*places, *[False] * tail, False], left, right))
        kept.append([TokenCounts(full if keep_all else keep, None, full) for _, full, keep in row])
    length = max(left + len(text) + right for text, left, right in texts)
    placeholders, mask = torch.zeros(2, len(texts), length, dtype=torch.bool)
    for i, (text, _, right) in enumerate(texts):
        end = length - right
        placeholders[i, end - len(text) : end] = torch.tensor(text)
        mask[i, end - len(text) : end] = True
    return placeholders, mask.long(), kept


@given(rows)
def test_where_all_are_kept_nothing_changes(drawn: list[tuple[Row, int, int, int]]) -> None:
    placeholders, mask, kept = prompts(drawn, keep_all=True)
    if not placeholders.any():
        return
    found = shorten(placeholders, mask, kept)
    assert not found.changes
    values = torch.arange(mask.numel()).view_as(mask)
    assert found.take(values, -7).equal(values)
    assert found.positions(values).equal(values)
    assert not found.dropped.any()


@given(rows)
def test_rows_hold_their_text_and_the_kept_tokens_in_order(drawn: list[tuple[Row, int, int, int]]) -> None:
    placeholders, mask, kept = prompts(drawn, keep_all=False)
    if not placeholders.any():
        return
    found = shorten(placeholders, mask, kept)
    shown = found.mask(mask, mask.shape[1])
    assert shown is not None
    short = found.take(placeholders.long(), 0)
    positions = found.positions((mask.cumsum(-1) - 1).clamp(min=0))
    for i, (row, tail, _, _) in enumerate(drawn):
        text = [place for words, _, keep in row for place in [0] * words + [1] * keep] + [0] * (tail + 1)
        assert short[i, shown[i].bool()].tolist() == text
        assert positions[i, shown[i].bool()].tolist() == list(range(len(text)))


@given(st.integers(0, 3), rows)
def test_a_shortened_prompt_that_follows_another(more: int, drawn: list[tuple[Row, int, int, int]]) -> None:
    placeholders, mask, kept = prompts(drawn, keep_all=False)
    if not placeholders.any():
        return
    one = nothing_dropped(len(mask), mask.device).append(shorten(placeholders, mask, kept), 0)
    length = mask.shape[1]
    both = one.append(shorten(placeholders, mask, kept), length + more)
    between = torch.ones(len(mask), more, dtype=torch.long)
    twice = torch.cat([mask, between, mask], dim=1)
    shown = both.mask(twice, twice.shape[1])
    assert shown is not None
    single = one.mask(mask, length)
    assert single is not None
    assert shown.sum(1).tolist() == (2 * single.sum(1) + more).tolist()
    positions = both.positions((twice.cumsum(-1) - 1).clamp(min=0))
    for row in range(len(mask)):
        seen = positions[row, shown[row].bool()].tolist()
        assert seen == list(range(len(seen)))
    rows = both.rows(torch.tensor([0, 0]))
    assert isinstance(rows, Shortening)
    assert rows.columns[1].equal(both.columns[0])
