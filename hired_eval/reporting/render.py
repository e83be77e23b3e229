"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from hired_eval.reporting.tables import SCORE_NOTE, Cell, Table, TableRow, difference_note, interval_text

CSV_COLUMNS = (
    "table block row column value low high n pictures documents tokens_kept tokens_full seeds marks against "
    "difference difference_low difference_high p p_adjusted published reason run options"
).split()
LINES_OF_A_PAGE = 44
"""Of a table's rows; LaTeX's article has room for them below a caption."""
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, the first row being its head."""
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


@dataclass(frozen=True)
class Writer:
    """How a format writes what is in a table.

    Attributes:
        text: of any kind.
        measured: a cell's number with what tells how sure it is.
        difference: a cell's difference.
        published: the published number.
        below: a label as that of a line that belongs to the row above it.
    """

    text: Callable[[str], str]
    measured: Callable[[Cell], str]
    difference: Callable[[Cell], str]
    published: Callable[[str], str]
    below: Callable[[str], str]

    def lines_of(self, row: TableRow, against: str) -> list[list[str]]:
        """A row as printed lines of label, tokens and cells: measured, difference, published."""
        lines = [[self.text(row.label), self.text(row.tokens), *map(self.measured, row.cells)]]
        if any(cell.difference for cell in row.cells):
            lines.append([self.below(self.text(f"vs {against}")), "", *map(self.difference, row.cells)])
        if any(cell.published for cell in row.cells):
            printed = [self.published(cell.published or "") for cell in row.cells]
            lines.append([self.below(self.published("published")), "", *printed])
        return lines


def _markdown_cell(cell: Cell) -> str:
    number = cell.number_text()
    return (f"**{number}**" if cell.best else number) + cell.measured_text().removeprefix(number)


MARKDOWN = Writer(str, _markdown_cell, Cell.difference_text, str, lambda label: f"  {label}")


def markdown(table: Table) -> str:
    """The table with its notes below."""
    parts = [f"## {table.title}", ""]
    for block, rows in groupby(table.rows, key=lambda row: row.block):
        body = [line for row in rows for line in MARKDOWN.lines_of(row, table.against)]
        parts += [f"**{block}**", "", aligned([["method", "tokens", *table.columns], *body]), ""]
    parts += [f"{note}  " for note in [*table.notes, *table.provenance]]
    return "\n".join(parts)


def latex(table: Table) -> str:
    """The table, never wider than a page or its column, in parts where it is longer than a page.

    What does not fit in a caption is a comment.
    """
    caption = f"\\caption{{{_caption(table)}}}\\label{{tab:{table.name}}}"
    continued = f"\\addtocounter{{table}}{{-1}}\\caption{{{escaped(_title(table))} (continued).}}"
    parts = [_float(table, continued if i else caption, body) for i, body in enumerate(_pages(table))]
    lines = [
        *(f"% {' '.join(note.split())}" for note in [*table.notes, *table.provenance]),
        "% needs \\usepackage{booktabs}, \\usepackage{graphicx} and \\usepackage{xcolor}",
    ]
    return "\n".join([*lines, *(line for part in parts for line in part), ""])


def _pages(table: Table) -> Iterator[list[str]]:
    """The lines of a table's rows, as many together as a page has room for; each page names its block."""
    page: list[str] = []
    block = None
    for row in table.rows:
        lines = [f"{' & '.join(line)} \\\\" for line in LATEX.lines_of(row, table.against)]
        if page and len(page) + len(lines) > LINES_OF_A_PAGE:
            yield page
            page, block = [], None
        if row.block != block:
            block = row.block
            head = f"\\multicolumn{{{len(table.columns) + 2}}}{{l}}{{\\textit{{{escaped(block)}}}}}"
            page += ["\\midrule", f"{head} \\\\"]
        page += lines
    yield page


def _float(table: Table, caption: str, body: Sequence[str]) -> list[str]:
    """One part of a table."""
    wide = "*" * (len(table.columns) > 3)
    return [
        f"\\begin{{table{wide}}}[t]",
        f"\\centering\\small{caption}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        "\\toprule",
        " & ".join(["Method", "Tokens", *map(escaped, table.columns)]) + " \\\\",
        *body,
        "\\bottomrule",
        "\\end{tabular}}",
        f"\\end{{table{wide}}}",
    ]


def _title(table: Table) -> str:
    """The title without a number, which LaTeX gives."""
    title = re.sub(r"^Table \d+: ", "", table.title)
    return f"{title[0].upper()}{title[1:]}"


def _caption(table: Table) -> str:
    """The title, and what the signs in the table mean."""
    cells = [cell for row in table.rows for cell in row.cells]
    signs = [escaped(f"{_title(table)}.")]
    if SCORE_NOTE in table.notes:
        signs.append("$\\pm$: the longer side of the 95\\,\\% interval.")
    if any(cell.best for cell in cells):
        signs.append("Bold: best, full execution apart.")
    if difference_note(table.against) in table.notes:
        what = f"$\\dagger$: difference to {escaped(table.against)} beyond noise"
        surely = any("!!" in cell.difference_text() for cell in cells)
        signs.append(what + ", $\\ddagger$: adjusted for all of the table too" * surely + ".")
    signs += [escaped(note.removeprefix("Mark ")) for note in table.notes if note.startswith("Mark ")]
    return " ".join(signs)


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return escaped(cell.text or "--")
    number = escaped(cell.number_text())
    text = f"\\textbf{{{number}}}" if cell.best else number
    text += _plus_minus(cell.value, cell.low, cell.high, cell.digits)
    # a page is too narrow for pictures, and for the lowest and the highest of several seeds: the CSV has them
    known = "" if cell.low is not None else cell.interval_text()
    seeds = f" {len(cell.seeds)} seeds" * bool(cell.seeds)
    size = f" n={cell.answered or cell.n}" * bool(cell.n_text())
    small = f"{known}{seeds}{size}".strip()
    return f"{text} {{\\scriptsize {escaped(small)}}}" if small else text


def _plus_minus(value: float, low: float | None, high: float | None, digits: int) -> str:
    """The longer side of an interval; nothing where there is no interval."""
    if low is None or high is None or low == high:
        return ""
    return f" {{\\scriptsize$\\pm${max(high - value, value - low):.{digits}f}}}"


def _latex_difference(cell: Cell) -> str:
    """The difference, with a dagger where it is beyond noise."""
    d = cell.difference
    if d is None:
        return ""
    mark = "^\\ddagger" if "!!" in cell.difference_text() else "^\\dagger" if d.beyond_noise else ""
    spread = _plus_minus(d.value, d.shown_low, d.shown_high, cell.digits)
    if d.shown_low is None:
        why = interval_text(None, None, cell.digits, d.clusters).strip(" ()")
        spread = f" {{\\scriptsize {why}}}"
    return f"${d.value:+.{cell.digits}f}{mark}${spread}"


def _latex_label(label: str) -> str:
    """A label; behind the row above, a bracket or a star would belong to its line break."""
    return "{}" * label.startswith(("[", "*")) + escaped(label)


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(LATEX_SPECIAL.get(c, c) for c in text)


LATEX = Writer(
    _latex_label,
    _latex_cell,
    _latex_difference,
    lambda text: f"\\textcolor{{gray}}{{{escaped(text)}}}" if text else "",
    lambda label: f"\\quad {label}",
)


def comma_separated(table: Table) -> str:
    """One number a line, with everything that is known of it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column, c in zip(table.columns, row.cells, strict=True):
            d = c.difference
            difference = [None] * 5 if d is None else [table.against, d.value, d.shown_low, d.shown_high, d.p]
            size = [c.n, c.pictures, c.documents, c.tokens, c.tokens_full]
            measured = [c.text if c.value is None else c.value, c.low, c.high, *size]
            seeds = " ".join(str(seed) for seed, _ in c.seeds)
            where = [table.name, row.block, row.label, column]
            known = [c.p_adjusted, c.published, c.reason, c.run, c.options]
            writer.writerow([*where, *measured, seeds, c.marks, *difference, *known])
    return stream.getvalue()
