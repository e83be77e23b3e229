"""Reports as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

from hired_eval.errors import UserError, unknown
from hired_eval.records.context import blocks_of
from hired_eval.records.folder import explained_disk_errors, replacing
from hired_eval.records.store import Store
from hired_eval.reporting.choosing import NothingYetError, nothing_yet
from hired_eval.reporting.configs import PACKAGED, Configs
from hired_eval.reporting.figures import FIGURES, STYLE, Drawing, tokens_per_sample
from hired_eval.reporting.gallery import entries
from hired_eval.reporting.html import page, picture_source
from hired_eval.reporting.html_parts import failures, figure, gallery, notes, section, table
from hired_eval.reporting.kinds import KINDS
from hired_eval.reporting.render import comma_separated, latex, markdown
from hired_eval.reporting.rows import rows_of
from hired_eval.reporting.spec import RowSpec, TableSpec
from hired_eval.reporting.tables import Table, days_of

DOTS_PER_INCH = 150
PAGES = ("gallery", "html", "all")


def reports(configs: Configs = PACKAGED) -> list[str]:
    """Names of all reports."""
    return [*names_of(configs), *PAGES]


def names_of(configs: Configs) -> list[str]:
    """Names of all tables and figures, the paper's tables first."""
    return sorted(
        {*configs.files("report"), *FIGURES}, key=lambda name: (name.rstrip("0123456789") != "table", name)
    )


def write(
    store: Store,
    names: Sequence[str | TableSpec],
    out: Path,
    configs: Configs = PACKAGED,
    against: RowSpec | None = None,
) -> Iterator[str]:
    """Write reports; what to print comes back piece by piece.

    Records that are damaged are named and left out.

    A table goes to Markdown, LaTeX, CSV and HTML, a figure to PNG and PDF; 'html' is one page of all that has
    runs, and 'all' is everything.

    Args:
        store: the run records.
        names: of `reports`, or files that describe a table, or descriptions.
        out: folder the files go to.
        configs: what tables show, and how things are called.
        against: what the differences of all tables are to; None for what each table says.

    Raises:
        UserError: there is no such report, it has no runs, or the folder cannot be written.
    """
    wanted = list(dict.fromkeys(names))
    with explained_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        yield from (f"left out: {line}" for line in store.damaged)
        for name in wanted:
            if name in ("html", "all"):
                yield from _overview(store, out, configs, against, files=name == "all")
            elif name == "gallery":
                yield _page(out / "gallery.html", "Gallery", [_gallery(store, configs)])
            else:
                stem = name.name if isinstance(name, TableSpec) else Path(name).stem
                yield from _one(_made(store, name, configs, against), stem, out)


def _made(
    store: Store, name: str | TableSpec, configs: Configs, against: RowSpec | None
) -> tuple[Table | None, Drawing | None, str]:
    """A table, a figure, or both under one name, and why there is no figure beside a table.

    Raises:
        NothingYetError: it has no runs.
        UserError: there is no such report.
    """
    if isinstance(name, TableSpec):
        spec: TableSpec | None = name
    elif not name.endswith(".yaml") and name not in (known := reports(configs)):
        raise UserError(unknown(f"report {name!r}", name, known))
    else:
        spec = None if name in FIGURES and name not in configs.files("report") else configs.spec(name)
    if spec and against:
        spec = replace(spec, against=against)
    made = KINDS[spec.kind](spec, store, configs) if spec and spec.kind in KINDS else None
    if made and (isinstance(name, TableSpec) or name not in FIGURES):
        return made, None, ""
    with matplotlib.rc_context(STYLE):
        try:
            if spec and not made:
                return made, tokens_per_sample(spec, store, configs), ""
            return made, FIGURES[str(name)](store, configs), ""
        except NothingYetError as error:
            if made is None:
                raise
            return made, None, f"no figure: {error}"


def _one(parts: tuple[Table | None, Drawing | None, str], name: str, out: Path) -> Iterator[str]:
    """The files of a table, a figure, or both; what to print comes back."""
    made, drawing, no_figure = parts
    if made is not None:
        for suffix, text in (
            ("md", markdown(made) + "\n"),
            ("tex", latex(made)),
            ("csv", comma_separated(made)),
        ):
            with replacing(out / f"{name}.{suffix}") as temporary:
                temporary.write_text(text)
        yield markdown(made)
        yield _page(out / f"{name}.html", made.title, [table(replace(made, provenance=()))], made.provenance)
    if drawing is not None:
        files = [out / f"{name}.png", out / f"{name}.pdf"]
        for file in files:
            with replacing(file) as temporary:
                temporary.write_bytes(_picture(drawing, file.suffix[1:]))
        yield "\n".join([drawing.title, *drawing.notes])
        yield f"written: {', '.join(map(str, files))}"
    if no_figure:
        yield no_figure


def _picture(drawing: Drawing, kind: str) -> bytes:
    """A figure as PNG or PDF."""
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
    stream = BytesIO()
    with matplotlib.rc_context(STYLE):
        drawing.figure.savefig(stream, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return stream.getvalue()


def _overview(
    store: Store, out: Path, configs: Configs, against: RowSpec | None, files: bool
) -> Iterator[str]:
    """One page of everything that has runs; with `files`, the files of each table and figure as well."""
    found: list[tuple[Table | None, Drawing | None]] = []
    missing: list[str] = []
    for name in names_of(configs):
        try:
            made = _made(store, name, configs, against)
        except NothingYetError as error:
            missing.append(f"{name}: {error}")
            continue
        if files:
            yield from _one(made, name, out)
        found.append(made[:2])
    times = Counter(note for made_table, _ in found if made_table for note in made_table.notes)
    shared = [note for note, number in times.items() if number > 1]
    parts = [section("How to read the tables", notes(shared))] if shared else []
    for made_table, drawing in found:
        if made_table is not None:
            own = [note for note in made_table.notes if note not in shared]
            parts.append(table(replace(made_table, notes=own)))
        if drawing is not None:
            parts.append(figure(drawing, picture_source(_picture(drawing, "png"), "png")))
    if files:
        yield from missing
    if store.measuring("gallery"):
        parts.append(_gallery(store, configs))
    parts += failures(store.failed(), configs)
    if not parts:
        raise nothing_yet("table3")
    yield _page(out / "report.html", "Visual-token dropping: results", parts, _summary(store, configs))


def _summary(store: Store, configs: Configs) -> list[str]:
    """A line for each block of runs: when it was finished, of what model, and how much there is."""
    lines = []
    for block in blocks_of(store.accuracy()):
        methods = {row.target for row in rows_of(block.records)}
        names = ", ".join(map(configs.benchmark_label, configs.benchmarks_of(block.records)))
        lines.append(
            f"{block.label}: {len(block.records)} runs of {len(methods)} methods on {names}, "
            f"{days_of(block.records)}."
        )
    failed = store.failed()
    return [*lines, *([f"{len(failed)} runs failed; they are listed at the end."] if failed else [])]


def _gallery(store: Store, configs: Configs) -> str:
    found = entries(store, configs)
    if not found:
        raise nothing_yet("gallery")
    return gallery(found)


def _page(file: Path, title: str, parts: Sequence[str], summary: Sequence[str] = ()) -> str:
    with replacing(file) as temporary:
        temporary.write_text(page(title, parts, summary), encoding="utf-8")
    return f"written: {file}"
