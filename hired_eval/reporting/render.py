"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import groupby

from hired_eval.reporting.tables import DIFFERENCE_NOTE, SCORE_NOTE, TEST, Cell, Table, TableRow

DIFFERENCE, PUBLISHED = "  vs Full", "  published"
CSV_COLUMNS = (
    "table block row column value low high n pictures documents seeds marks difference_to_full "
    "difference_low difference_high p p_adjusted published reason run options"
).split()
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


def lines_of(row: TableRow) -> list[tuple[str, str, list[str]]]:
    """A row as printed lines (label, tokens, cells): measured, difference to Full, published."""
    lines = [(row.label, row.tokens, [cell.measured_text() for cell in row.cells])]
    if any(cell.difference for cell in row.cells):
        lines.append((DIFFERENCE, "", [cell.difference_text() for cell in row.cells]))
    if any(cell.published for cell in row.cells):
        lines.append((PUBLISHED, "", [cell.published or "" for cell in row.cells]))
    return lines


def markdown(table: Table) -> str:
    """The table with its notes below."""
    parts = [f"## {table.title}", ""]
    for block, rows in groupby(table.rows, key=lambda row: row.block):
        body = [[label, tokens, *cells] for row in rows for label, tokens, cells in lines_of(row)]
        parts += [f"**{block}**", "", aligned([["method", "tokens", *table.columns], *body]), ""]
    parts += [f"{note}  " for note in [*table.notes, *table.provenance]]
    return "\n".join(parts)


def latex(table: Table) -> str:
    r"""The table in the paper's layout, for \usepackage{booktabs}: measured, published in grey below."""
    columns = "ll" + "r" * len(table.columns)
    lines = [
        "% needs \\usepackage{booktabs} and \\usepackage{xcolor}",
        "\\begin{table*}[t]",
        "\\centering\\small",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(["Model \\& Method", "Tokens", *map(escaped, table.columns)]) + " \\\\",
    ]
    for block, rows in groupby(table.rows, key=lambda row: row.block):
        lines += [
            "\\midrule",
            f"\\multicolumn{{{len(table.columns) + 2}}}{{l}}{{\\textit{{{escaped(block)}}}}} \\\\",
        ]
        for row in rows:
            lines.append(
                " & ".join([_first(row.label), escaped(row.tokens), *map(_latex_cell, row.cells)]) + " \\\\"
            )
            if any(cell.difference for cell in row.cells):
                differences = map(_latex_difference, row.cells)
                lines.append(" & ".join(["\\quad vs Full", "", *differences]) + " \\\\")
            if any(cell.published for cell in row.cells):
                printed = [f"\\textcolor{{gray}}{{{escaped(c.published or '')}}}" for c in row.cells]
                lines.append(" & ".join(["\\quad\\textcolor{gray}{published}", "", *printed]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{escaped(table.title)}. {_latex_notes(table)}}}"]
    return "\n".join([*lines, f"\\label{{tab:{table.name}}}", "\\end{table*}", ""])


def _first(label: str) -> str:
    """The first cell of a row: behind the row above, a bracket or a star would belong to its line break."""
    return "{}" * label.startswith(("[", "*")) + escaped(label)


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return escaped(cell.text or "--")
    text = escaped(cell.number_text()) + _plus_minus(cell.value, cell.low, cell.high, cell.digits)
    known = "" if cell.low is not None else cell.interval_text()
    small = f"{known}{cell.seeds_text()}{cell.n_text()}".strip()
    return f"{text} {{\\scriptsize {small}}}" if small else text


def _plus_minus(value: float, low: float | None, high: float | None, digits: int) -> str:
    """The larger half of an interval; nothing where there is no interval."""
    if low is None or high is None or low == high:
        return ""
    return f" {{\\scriptsize$\\pm${max(high - value, value - low):.{digits}f}}}"


def _latex_difference(cell: Cell) -> str:
    """The difference to full execution, bold where it is beyond noise."""
    d = cell.difference
    if d is None:
        return ""
    text = f"${d.value:+.{cell.digits}f}$"
    spread = _plus_minus(d.value, d.shown_low, d.shown_high, cell.digits)
    spread = spread or " {\\scriptsize n too small}" * (d.shown_low is None)
    return (f"\\textbf{{\\boldmath {text}}}" if d.beyond_noise else text) + spread


def _latex_notes(table: Table) -> str:
    notes = [note for note in table.notes if note not in (SCORE_NOTE, DIFFERENCE_NOTE)]
    spread = SCORE_NOTE in table.notes
    compared = DIFFERENCE_NOTE in table.notes
    return "".join(
        [
            "$\\pm$: the larger half of the 95\\,\\% interval, bootstrap over images. " * spread,
            f"Bold: beyond noise against full execution on the same documents {escaped(TEST)}, not adjusted. "
            * compared,
            escaped(" ".join([*notes, *table.provenance])),
        ]
    )


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(LATEX_SPECIAL.get(c, c) for c in text)


def comma_separated(table: Table) -> str:
    """One number a line, with everything that is known of it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column, c in zip(table.columns, row.cells, strict=True):
            d = c.difference
            difference = [None] * 4 if d is None else [d.value, d.shown_low, d.shown_high, d.p]
            size = [c.n, c.pictures, c.documents, " ".join(str(seed) for seed, _ in c.seeds)]
            measured = [c.text if c.value is None else c.value, c.low, c.high, *size, c.marks]
            where = [table.name, row.block, row.label, column]
            writer.writerow(
                [*where, *measured, *difference, c.p_adjusted, c.published, c.reason, c.run, c.options]
            )
    return stream.getvalue()
