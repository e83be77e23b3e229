"""What `python -m bench gpu` found: tables, targets, and the files that they are written to."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hired_eval.errors import UserError, first_line
from hired_eval.reporting.render import aligned

WHOLE = "whole pipeline, percent of the GPU side alone"
METHODS = {"Full": {}, "HiRED 40 %": {"budget": 0.4}, "HiRED 20 %": {"budget": 0.2}}
CHEAP = ("hired", "topk_cls", "even_split", "random", "spatial")
DEAR = ("prumerge", "prumerge_plus", "visionzip", "divprune")
RATES = "Questions a second, a question a page"
SHARED = "Questions a second, several questions a page"
BATCH = "One batch, in milliseconds"
IMAGE = "One page, in milliseconds"
SELECTION = "Selection beside the vision tower, in milliseconds a page"
TABLE4 = "The measure of Table 4, in seconds and GB"
DECODING = "Decoding, in milliseconds a step"
FAILURES = (
    UserError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    AssertionError, OSError, ImportError,
)  # fmt: skip
"""Of a part, after which the others go on: of this package, of PyTorch and its compiler, of the machine."""
LIMITS = "What the machine can do at best"

Row = dict[str, Any]
"""What was measured, by the head of its column; None: it could not be."""


@dataclass
class Report:
    """What was measured so far, written whenever a part has ended.

    Attributes:
        out: folder.
        about: card, driver, versions, date, setting.
        tables: rows of each.
        failed: why a part has no result.
    """

    out: Path
    about: dict[str, Any]
    tables: dict[str, list[Row]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    def add(self, table: str, **row: Any) -> Row:
        """A row, which comes back; names of columns are written with spaces for underscores."""
        added = {k.replace("_", " "): v for k, v in row.items()}
        self.tables.setdefault(table, []).append(added)
        return added

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part, after which all is written; where it fails, its name and the reason are noted."""
        print(f"[{time.monotonic() - self.start:4.0f} s] {name}", file=sys.stderr, flush=True)
        try:
            yield
        except FAILURES as error:
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {first_line(error)}"
        finally:
            self.write()

    def write(self) -> None:
        """Both files."""
        self.out.mkdir(parents=True, exist_ok=True)
        found = {
            "about": self.about | {"seconds": time.monotonic() - self.start},
            "targets": targets(self.tables),
            "tables": self.tables,
            "failed": self.failed,
        }
        (self.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (self.out / "gpu.md").write_text(self.markdown())

    def markdown(self) -> str:
        """All tables, the targets first."""
        lines = [f"# {self.about['card']}, {self.about['date']}", ""]
        lines += [f"{name}: {value}  " for name, value in self.about.items()]
        for title, rows in {"Targets": targets(self.tables), **self.tables}.items():
            if rows:
                heads = list(dict.fromkeys(head for row in rows for head in row))
                body = [[_shown(row.get(head)) for head in heads] for row in rows]
                lines += ["", f"## {title}", "", aligned([heads, *body])]
        if self.failed:
            lines += ["", "## Without a result", ""]
            lines += [f"- {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join(lines) + "\n"


def targets(tables: dict[str, list[Row]]) -> list[Row]:
    """What is aimed at on a GPU, what was measured, and whether it is reached; None: not measured."""
    rates = {row["method"]: row for row in tables.get(RATES, [])}
    chosen = {row["method"]: row.get("share of the tower percent") for row in tables.get(SELECTION, [])}
    last = max((row["batch"] for row in tables.get(TABLE4, [])), default=None)
    vision = {r["method"]: r.get("vision side") for r in tables.get(TABLE4, []) if r["batch"] == last}
    stock, ours = vision.get("stock"), vision.get("Full")
    found = [_target(f"{m}: {WHOLE}", rates.get(m, {}).get("share of it percent"), least=90) for m in METHODS]
    found += [
        _target(f"{m}: times llava_hf", rates.get(m, {}).get("times llava hf"), least=least)
        for m, least in (("Full", 3), ("HiRED 20 %", 7))
    ]
    found += [
        _target(
            f"vision side at batch {last or 16}, Full over stock",
            ours / stock if stock and ours else None,
            most=1,
        )
    ]
    for names, most in ((CHEAP, 5), (DEAR, 20)):
        found += [_target(f"{n}: selection, percent of the tower", chosen.get(n), most=most) for n in names]
    return found


def _target(
    what: str, measured: float | None, *, least: float | None = None, most: float | None = None
) -> Row:
    aim = f"at least {least}" if least is not None else f"at most {most}"
    if measured is None:
        return {"target": what, "aim": aim, "measured": None, "reached": None}
    reached = measured >= least if least is not None else most is not None and measured <= most
    return {"target": what, "aim": aim, "measured": measured, "reached": "yes" if reached else "no"}


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
