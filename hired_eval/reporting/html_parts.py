"""The sections of the page: tables that sort, figures, the gallery, runs that failed."""

from __future__ import annotations

import json
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


def section(title: str, body: Iterable[str]) -> str:
    """A part of a page under a title, which the page's contents name."""
    head = f'<section id="{anchor(title)}" aria-label="{text(title)}">\n<h2>{text(title)}</h2>\n'
    return f"{head}{''.join(body)}</section>"


def table(made: Table) -> str:
    """A table whose columns sort by the measured value."""
    parts = []
    for block, rows in groupby(made.rows, key=lambda row: row.block):
        heads = "".join(_head(name) for name in ("method", "tokens", *made.columns))
        body = "".join(_row(row, made.against) for row in rows)
        parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{text(block)}">'
            f'<table class="sortable"><caption>{text(block)}</caption><thead><tr>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>\n"
        )
    return section(made.title, [*parts, *notes([*made.notes, *made.provenance])])


def notes(said: Iterable[str]) -> list[str]:
    """What is said below a table or a figure, a paragraph each."""
    return [f'<p class="note">{text(note)}</p>\n' for note in said]


def _head(name: str, kind: str = "") -> str:
    return f'<th scope="col" class="{kind}"><button type="button">{text(name)}</button></th>'


def _row(row: TableRow, against: str) -> str:
    share = row.tokens.rstrip(" %")
    value = share if share.replace(".", "").isdigit() else ""
    cells = "".join(_cell(cell, against) for cell in row.cells)
    label = text(row.label).replace(" %", "&nbsp;%")
    return (
        f'<tr><th scope="row" data-value="{text(row.label)}">{label}</th>'
        f'<td data-value="{value}">{text(row.tokens)}</td>{cells}</tr>\n'
    )


def _cell(cell: Cell, against: str) -> str:
    value = "" if cell.value is None else f"{cell.value:.6g}"
    number = text(cell.number_text())
    lines = [f"<div>{f'<strong>{number}</strong>' if cell.best else number}</div>"]
    size = "" if cell.n is None or cell.pictures is None else n_text(cell.n, cell.pictures).strip()
    lines += [
        f'<div class="range" title="{size}">{text(below.strip())}</div>'
        for below in (cell.interval_text(), cell.seeds_text(), cell.n_text())
        if below
    ]
    if cell.difference is not None:
        d = cell.difference
        kind = ("better" if d.value > 0 else "worse") if d.beyond_noise else ""
        meaning = "beyond noise" if d.beyond_noise else "not resolved at this n"
        of_table = "" if cell.p_adjusted is None else f", {cell.p_adjusted:.3g} adjusted for the table"
        lines.append(
            f'<div class="difference {kind}" title="{meaning}, p = {d.p:.3g}{of_table}">vs {text(against)} '
            f"{text(cell.difference_text())}</div>"
        )
    if cell.published:
        lines.append(f'<div class="published">published {text(cell.published)}</div>')
    return f'<td data-value="{value}">{"".join(lines)}</td>'


def figure(drawing: Drawing, source: str) -> str:
    """A figure with its notes."""
    image = f'<figure><img src="{source}" alt="{text(drawing.alternative)}"></figure>\n'
    return section(drawing.title, [image, *notes(drawing.notes)])


def comparison(made: Comparison) -> str:
    """Two runs beside each other, and the answers that flipped."""
    head, *rows = heads_and_rows(made)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th><td class="words">{text(row[1])}</td>'
        f"{''.join(f'<td>{text(cell)}</td>' for cell in row[2:])}</tr>"
        for row in rows
    )
    heads = "".join(f'<th scope="col" class="{"words" * (i < 2)}">{text(h)}</th>' for i, h in enumerate(head))
    parts = [
        '<div class="scroll" tabindex="0" role="region" aria-label="runs"><table><thead>'
        f"<tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>\n",
        *notes(lines(made)),
    ]
    flipped = made.flips.documents
    if len(flipped):
        words = ("document", "flip", "question", "accepted", "answer of A", "answer of B")
        names = [_head(name, "words") for name in words] + [_head("tokens of A"), _head("of B")]
        listed = "".join(_flipped(one) for one in flipped.head(LISTED).to_dict("records"))
        parts.append(
            '<div class="scroll" tabindex="0" role="region" aria-label="flipped answers">'
            '<table class="sortable"><caption>Flipped answers</caption><thead>'
            f"<tr>{''.join(names)}</tr></thead><tbody>{listed}</tbody></table></div>\n"
        )
        if len(flipped) > LISTED:
            parts += notes([f"The first {LISTED} of {len(flipped)}; samples.parquet of the runs has all."])
    return section(made.title, parts)


def _flipped(one: dict[Hashable, Any]) -> str:
    """A row of the table of flipped answers; what a data set or a model says is inert."""
    said = [
        str(one["question"]).strip(),
        accepted(str(one["target"])),
        str(one["prediction_before"]).strip(),
        str(one["prediction_after"]).strip(),
    ]
    foreigns = "".join(
        f'<td data-value="{text(value)}" class="words"><div class="answer">{foreign(value)}</div></td>'
        for value in said
    )
    kind = {"right to wrong": "worse", "wrong to right": "better"}.get(one["kind"], "")
    counts = "".join(f'<td data-value="{one[c]}">{one[c]:g}</td>' for c in ("kept_before", "kept_after"))
    return (
        f'<tr><th scope="row" data-value="{one["doc_id"]}">{one["doc_id"]}</th>'
        f'<td data-value="{text(one["kind"])}" class="words {kind}">{text(one["kind"])}</td>'
        f"{foreigns}{counts}</tr>\n"
    )


def gallery(entries: Sequence[Entry], title: str = "Gallery") -> str:
    """Each question with what every method keeps and what the model answers."""
    parts = notes(
        ["Left: the full-image; right: the sub-images. Kept tokens have a frame, others are faded."]
    )
    for i, entry in enumerate(entries):
        figures = "".join(
            f'<figure><img src="{picture_source(s.picture, s.kind)}" '
            f'alt="{text(s.label)}: kept visual tokens marked on the partitions">'
            f"<figcaption><strong>{text(s.label)}</strong>, {s.kept} of {s.full} tokens<br>"
            f'answer: <span class="answer">{foreign(s.prediction.strip())}</span>{_verdict(s.verdict)}'
            "</figcaption></figure>"
            for s in entry.shown
        )
        parts.append(
            f"<details{' open' if i == 0 else ''}><summary>{text(entry.benchmark)}, {text(entry.block)}: "
            f"{foreign(entry.question)}</summary>"
            f'<p>Accepted: <span class="answer">{foreign(accepted(entry.target))}</span></p>'
            f'<div class="shown">{figures}</div></details>\n'
        )
    return section(title, parts)


def accepted(target: str) -> str:
    """The accepted answers in words, where a record has them as a list in JSON."""
    try:
        listed = json.loads(target)
    except ValueError:
        return target
    return ", ".join(map(str, listed)) if isinstance(listed, list) else target


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
    return [section("Runs that failed", ["<ul>", *items, "</ul>\n"])]
