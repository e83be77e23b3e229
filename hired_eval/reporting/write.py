"""Reports as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from hired_eval.records import explained_disk_errors, replacing
from hired_eval.reporting.figures import FIGURES, STYLE, Drawing
from hired_eval.reporting.gallery import entries
from hired_eval.reporting.html import page, picture_source
from hired_eval.reporting.html_parts import failures, figure, gallery, table
from hired_eval.reporting.paper_tables import TABLES, NothingYetError, nothing_yet
from hired_eval.reporting.render import comma_separated, latex, markdown
from hired_eval.reporting.store import Store

DOTS_PER_INCH = 150
NAMES = tuple(dict.fromkeys([*TABLES, *FIGURES]))
REPORTS = (*NAMES, "gallery", "html", "all")


def write(store: Store, names: Sequence[str], out: Path) -> Iterator[str]:
    """Write reports; what to print comes back piece by piece.

    A table goes to Markdown, LaTeX, CSV and HTML, a figure to PNG and PDF; 'html' is one page of all that has
    runs, and 'all' is everything.

    Args:
        store: the run records.
        names: of `REPORTS`.
        out: folder the files go to.

    Raises:
        UserError: no runs for a report that was asked for by name; the folder cannot be written.
    """
    wanted = list(dict.fromkeys(names))
    with explained_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if "all" in wanted:
            written, missing = [], []
            for name in NAMES:
                try:
                    written += list(_one(store, name, out))
                except NothingYetError as error:
                    missing.append(f"{name}: {error}")
            yield from written
            yield from missing
            wanted = ["html"]
        for name in wanted:
            if name == "html":
                yield _overview(store, out)
            elif name == "gallery":
                yield _page(out / "gallery.html", "Gallery", [_gallery(store)])
            else:
                yield from _one(store, name, out)


def _one(store: Store, name: str, out: Path) -> Iterator[str]:
    """A table, a figure, or both under one name."""
    if name in TABLES:
        made = TABLES[name](store)
        for suffix, text in (
            ("md", markdown(made) + "\n"),
            ("tex", latex(made)),
            ("csv", comma_separated(made)),
        ):
            with replacing(out / f"{name}.{suffix}") as temporary:
                temporary.write_text(text)
        yield markdown(made)
        yield _page(out / f"{name}.html", made.title, [table(made)])
    if name in FIGURES:
        drawing, files = _drawn(store, name, out)
        yield "\n".join([drawing.title, *drawing.notes])
        yield f"written: {', '.join(map(str, files))}"


def _drawn(store: Store, name: str, out: Path) -> tuple[Drawing, list[Path]]:
    """A figure as PNG and PDF."""
    files = [out / f"{name}.png", out / f"{name}.pdf"]
    with matplotlib.rc_context(STYLE):
        drawing = FIGURES[name](store)
        for file in files:
            with replacing(file) as temporary:
                metadata: dict[str, Any] = {"CreationDate": None} if file.suffix == ".pdf" else {}
                drawing.figure.savefig(
                    temporary, format=file.suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata
                )
    return drawing, files


def _overview(store: Store, out: Path) -> str:
    """One page of everything that has runs."""
    parts: list[str] = []
    for name in NAMES:
        try:
            if name in TABLES:
                parts.append(table(TABLES[name](store)))
            if name in FIGURES:
                drawing, files = _drawn(store, name, out)
                parts.append(figure(drawing, picture_source(files[0].read_bytes(), "png")))
        except NothingYetError:
            continue
    if store.measuring("gallery"):
        parts.append(_gallery(store))
    parts += failures(store.failed())
    if not parts:
        raise nothing_yet("table3")
    return _page(out / "report.html", "Visual-token dropping: results", parts)


def _gallery(store: Store) -> str:
    found = entries(store)
    if not found:
        raise nothing_yet("gallery")
    return gallery(found)


def _page(file: Path, title: str, parts: Sequence[str]) -> str:
    with replacing(file) as temporary:
        temporary.write_text(page(title, parts), encoding="utf-8")
    return f"written: {file}"
