"""The sections of the page: tables that sort, figures, the gallery, runs that failed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby
from typing import Any

from hired_eval.records.record import Record
from hired_eval.reporting.comparison import LISTED, Comparison, heads_and_rows, lines
from hired_eval.reporting.configs import Configs
from hired_eval.reporting.figures import Drawing
from hired_eval.reporting.gallery import Entry
from hired_eval.reporting.html import anchor, foreign, picture_source, text
from hired_eval.reporting.rows import label_of
from hired_eval.reporting.tables import Cell, Table, TableRow, n_text


def _section(title: str, body: Iterable[str]) -> str:
    head = f'<section id="{anchor(title)}" aria-label="{text(title)}">\n<h2>{text(title)}</h2>\n'
    return f"{head}{''.join(body)}</section>"


def table(made: Table) -> str:
    """A table whose columns sort by the measured value."""
    parts = []
    for block, rows in groupby(made.rows, key=lambda row: row.block):
        heads = "".join(_head(name) for name in ("method", "tokens", *made.columns))
        body = "".join(_row(row) for row in rows)
        parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{text(block)}">'
            f'<table class="sortable"><caption>{text(block)}</caption><thead><tr>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>\n"
        )
    return _section(made.title, [*parts, *_notes([*made.notes, *made.provenance])])


def _notes(notes: Iterable[str]) -> list[str]:
    return [f'<p class="note">{text(note)}</p>\n' for note in notes]


def _head(name: str) -> str:
    return f'<th scope="col"><button type="button">{text(name)}</button></th>'


def _row(row: TableRow) -> str:
    share = row.tokens.rstrip(" %")
    value = share if share.replace(".", "").isdigit() else ""
    return (
        f'<tr><th scope="row" data-value="{text(row.label)}">{text(row.label)}</th>'
        f'<td data-value="{value}">{text(row.tokens)}</td>{"".join(map(_cell, row.cells))}</tr>\n'
    )


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f"{cell.value:.6g}"
    lines = [f"<div>{text(cell.number_text())}</div>"]
    below = cell.interval_text() + cell.seeds_text() + cell.n_text()
    if below:
        size = "" if cell.n is None or cell.pictures is None else n_text(cell.n, cell.pictures).strip()
        lines.append(f'<div class="range" title="{size}">{text(below.strip())}</div>')
    if cell.difference is not None:
        d = cell.difference
        kind = ("better" if d.value > 0 else "worse") if d.beyond_noise else ""
        meaning = "beyond noise" if d.beyond_noise else "not resolved at this n"
        of_table = "" if cell.p_adjusted is None else f", {cell.p_adjusted:.3g} adjusted for the table"
        lines.append(
            f'<div class="difference {kind}" title="{meaning}, p = {d.p:.3g}{of_table}">vs Full '
            f"{text(cell.difference_text())}</div>"
        )
    if cell.published:
        lines.append(f'<div class="published">published {text(cell.published)}</div>')
    return f'<td data-value="{value}">{"".join(lines)}</td>'


def figure(drawing: Drawing, source: str) -> str:
    """A figure with its notes."""
    image = f'<figure><img src="{source}" alt="{text(drawing.alternative)}"></figure>\n'
    return _section(drawing.title, [image, *_notes(drawing.notes)])


def comparison(made: Comparison) -> str:
    """Two runs beside each other, and the answers that flipped."""
    head, *rows = heads_and_rows(made)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    parts = [
        '<div class="scroll" tabindex="0" role="region" aria-label="runs"><table><thead>'
        f"<tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>\n",
        *_notes(lines(made)),
    ]
    flipped = made.flips.documents
    if len(flipped):
        names = (
            "document",
            "flip",
            "question",
            "accepted",
            "answer of A",
            "answer of B",
            "tokens of A",
            "of B",
        )
        listed = "".join(_flipped(one) for one in flipped.head(LISTED).to_dict("records"))
        parts.append(
            '<div class="scroll" tabindex="0" role="region" aria-label="flipped answers">'
            '<table class="sortable"><caption>Flipped answers</caption><thead>'
            f"<tr>{''.join(map(_head, names))}</tr></thead><tbody>{listed}</tbody></table></div>\n"
        )
        if len(flipped) > LISTED:
            parts += _notes([f"The first {LISTED} of {len(flipped)}; samples.parquet of the runs has all."])
    return _section(made.title, parts)


def _flipped(one: dict[Hashable, Any]) -> str:
    """A row of the table of flipped answers; what a data set or a model says is inert."""
    said = [one[name] for name in ("question", "target", "prediction_before", "prediction_after")]
    foreigns = "".join(
        f'<td data-value="{text(value)}"><div class="answer">{foreign(value)}</div></td>' for value in said
    )
    kind = {"right to wrong": "worse", "wrong to right": "better"}.get(one["kind"], "")
    counts = "".join(f'<td data-value="{one[c]}">{one[c]:g}</td>' for c in ("kept_before", "kept_after"))
    return (
        f'<tr><th scope="row" data-value="{one["doc_id"]}">{one["doc_id"]}</th>'
        f'<td data-value="{text(one["kind"])}" class="{kind}">{text(one["kind"])}</td>'
        f"{foreigns}{counts}</tr>\n"
    )


def gallery(entries: Sequence[Entry], title: str = "Gallery") -> str:
    """Each question with what every method keeps and what the model answers."""
    parts = ['<p class="note">Left: the full-image; right: the sub-images; dropped tokens are faded.</p>\n']
    for i, entry in enumerate(entries):
        figures = "".join(
            f'<figure><img src="{picture_source(s.picture, s.kind)}" '
            f'alt="{text(s.label)}: kept visual tokens marked on the partitions">'
            f"<figcaption><strong>{text(s.label)}</strong>, {s.kept} of {s.full} tokens<br>"
            f'answer: <span class="answer">{foreign(s.prediction)}</span>{_verdict(s.verdict)}'
            "</figcaption></figure>"
            for s in entry.shown
        )
        parts.append(
            f"<details{' open' if i == 0 else ''}><summary>{text(entry.benchmark)}, {text(entry.block)}: "
            f"{foreign(entry.question)}</summary>"
            f'<p>Accepted: <span class="answer">{foreign(entry.target)}</span></p>'
            f'<div class="shown">{figures}</div></details>\n'
        )
    return _section(title, parts)


def _verdict(word: str) -> str:
    """Whether an answer is right, with a sign, so that it is not told by colour alone."""
    if not word:
        return ""
    kind, sign = {"right": ("better", "\u2713 "), "wrong": ("worse", "\u2717 ")}.get(word, ("note", ""))
    return f' <span class="{kind}">{sign}{text(word)}</span>'


def failures(records: Sequence[Record], configs: Configs) -> list[str]:
    """A section that names the runs that failed; none where none did."""
    if not records:
        return []
    same: dict[tuple[str, str], list[str]] = {}
    for r in records:
        name = f"{label_of(r)} on {configs.benchmark_label(r.benchmark.name)}"
        same.setdefault((r.model, r.error or "samples failed"), []).append(name)
    items = [
        f"<li>{text('; '.join(dict.fromkeys(names)))}, {text(model)}: {foreign(error)}</li>"
        for (model, error), names in same.items()
    ]
    return [_section("Runs that failed", ["<ul>", *items, "</ul>\n"])]
