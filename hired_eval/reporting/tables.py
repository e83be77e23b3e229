"""What a table of a report is, whatever it is written as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hired_eval.reporting.published import PAPER_MODELS, Published
from hired_eval.reporting.rows import FULL, Row
from hired_eval.reporting.statistics import Difference
from hired_eval.reporting.store import Record, Store, best, score_scale

BENCHMARK_LABELS = {
    "vqav2": "VQAv2",
    "scienceqa": "ScienceQA",
    "textvqa": "TextVQA",
    "docvqa": "DocVQA",
    "ocrbench": "OCRBench",
    "mme": "MME",
    "pope": "POPE",
    "chartqa": "ChartQA",
}
DASH = "-"


@dataclass(frozen=True)
class Cell:
    """One number of a table, with what is needed to trust it.

    Attributes:
        value: measured, on the paper's scale; None where there is none.
        low: lower end of its 95 % interval, where it has one.
        high: upper end.
        n: scored units.
        documents: documents of the whole benchmark.
        digits: digits behind the point.
        published: the paper's number as printed.
        difference: to full execution, paired.
        marks: '*' partial, '+' dummy weights, '#' a share where the benchmark counts points.
        text: instead of a number, e.g. OOM.
        reason: why there is no number.
        run: name of the run it comes from.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    documents: int | None = None
    digits: int = 1
    published: str | None = None
    difference: Difference | None = None
    marks: str = ""
    text: str | None = None
    reason: str | None = None
    run: str | None = None

    def measured_text(self) -> str:
        """The measured number with its interval, or a dash."""
        number = self.number_text()
        if self.low is None or self.high is None:
            return f"{number}{self.n_text()}"
        return f"{number} [{self.low:.{self.digits}f}, {self.high:.{self.digits}f}]{self.n_text()}"

    def n_text(self) -> str:
        """' n=16' where only a part of the benchmark was answered."""
        return f" n={self.n}" if "*" in self.marks and self.n is not None else ""

    def number_text(self) -> str:
        """The measured number with its marks, or a dash."""
        return self.text or DASH if self.value is None else f"{self.value:.{self.digits}f}{self.marks}"

    def difference_text(self) -> str:
        """The difference with its interval, and whether it is beyond noise."""
        d = self.difference
        if d is None:
            return ""
        interval = f"[{d.low:+.{self.digits}f}, {d.high:+.{self.digits}f}]"
        # one image, or the same difference on every image, has no interval
        known = f" {interval}" if d.low < d.high else ""
        # where full execution answered another part of the benchmark, the difference stands on what both did
        shared = "" if d.n == self.n else f" n={d.n}"
        return f"{d.value:+.{self.digits}f}{known} {'!' if d.beyond_noise else '~'}{shared}"


@dataclass(frozen=True)
class TableRow:
    """A row: the block it stands in, its label, how many tokens it kept, its cells."""

    block: str
    label: str
    tokens: str
    cells: Sequence[Cell]


TEST = (
    "(paired test over images at 5 %, not adjusted for the number of cells; over few images it asks for more "
    "than the interval does)"
)
SCORE_NOTE = "Score [95 % interval, bootstrap over images]."
DIFFERENCE_NOTE = (
    'Line "vs Full": difference to full execution on the same documents [95 % interval]; ! beyond noise, ~ '
    f"within it {TEST}."
)


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: e.g. table3; also the name of its files.
        title: one line.
        columns: heads of the cells.
        rows: in order.
        notes: what a reader must know to read it, one line each.
        provenance: model, data, versions, commit, one line each.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    notes: Sequence[str] = field(default_factory=tuple)
    provenance: Sequence[str] = field(default_factory=tuple)


def accuracy_cell(
    store: Store, record: Record | None, full: Record | None, published: str | None, reason: str = ""
) -> Cell:
    """The cell of a run on a benchmark, with its difference to full execution."""
    if record is None:
        return Cell(published=published, reason=reason)
    score = record["score"]
    share = score_scale(record) != record["benchmark"]["scale"]
    # nothing is known of the spread where all questions are about one image
    spread = score["clusters"] > 1
    points = record["benchmark"]["scale"] == 1000 and not share
    marks = "*" * record["partial"] + "+" * (record["weights"] == "dummy") + "#" * share
    same = full is None or full["run"] == record["run"]
    return Cell(
        value=score["value"],
        low=score["low"] if spread else None,
        high=score["high"] if spread else None,
        n=score["n"],
        documents=record["documents"],
        digits=0 if points or record["benchmark"]["scoring"] == "mme" else 1,
        published=published,
        difference=None if same or full is None else store.difference(record, full),
        marks=marks,
        run=record["run"],
    )


def accuracy_rows(
    store: Store,
    records: Sequence[Record],
    rows: Iterable[Row],
    benchmarks: Sequence[str],
    paper: Published | None,
) -> list[TableRow]:
    """A block of rows for each model and data source that has runs."""
    rows = list(rows)
    known = [r for row in rows for r in row.of(records)]
    blocks = sorted({(r["model"], r["weights"], r["data"]) for r in known}, key=_block_order)
    result = []
    for model, weights, data in blocks:
        block = [r for r in records if (r["model"], r["weights"], r["data"]) == (model, weights, data)]
        full = {b: best(_on(FULL.of(block), b)) for b in benchmarks}
        for row in rows:
            chosen = {b: best(_on(row.of(block), b)) for b in benchmarks}
            cells = []
            for b in benchmarks:
                where = {"model": PAPER_MODELS.get(model, ""), "benchmark": b, **(row.published or {})}
                printed = paper.value(**where) if paper and row.published else None
                cells.append(
                    accuracy_cell(store, chosen[b], full[b], printed, _reason(store, row, model, data, b))
                )
            label = f"{model}, {data} data" + (", dummy weights" if weights == "dummy" else "")
            result.append(TableRow(label, row.label, token_share([r for r in chosen.values() if r]), cells))
    return result


def _block_order(block: tuple[str, str, str]) -> tuple[int, tuple[str, str, str]]:
    models = list(PAPER_MODELS)
    return (models.index(block[0]) if block[0] in models else len(models)), block


def _on(records: Iterable[Record], benchmark: str) -> list[Record]:
    return [r for r in records if r["benchmark"]["name"] == benchmark]


def _reason(store: Store, row: Row, model: str, data: str, benchmark: str) -> str:
    """Why a cell is empty."""
    failed = [r for r in _on(row.of(store.failed()), benchmark) if (r["model"], r["data"]) == (model, data)]
    name = f"{row.label} on {BENCHMARK_LABELS.get(benchmark, benchmark)}"
    if failed:
        latest = max(failed, key=lambda r: str(r["finished"]))
        return f"{name}: failed ({latest.get('error') or 'samples failed'})"
    return f"{name}: not run"


def token_share(records: Sequence[Record]) -> str:
    """Visual tokens kept, as the mean share of full execution's; a dash where nothing was run."""
    tokens = [r["tokens"] for r in records if r["tokens"]["kept"]]
    if not tokens:
        return DASH
    shares = [t["kept"]["mean"] / t["full"]["mean"] for t in tokens]
    return f"{100 * sum(shares) / len(shares):.0f} %"


def provenance(records: Iterable[Record]) -> list[str]:
    """Models, data, versions and commits behind a report, one line each."""
    records = list(records)

    def listed(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values)))

    versions = [r["identity"]["versions"] for r in records]
    answered = [r for r in records if not r.get("measure", "accuracy").startswith("efficiency")]
    data = f" Data: {listed(r['data'] for r in answered)}. Samples: {listed(map(_samples, answered))}."
    return [
        f"Model: {listed(r['model'] for r in records)}.{data if answered else ''}",
        f"lmms-eval {listed(v['lmms_eval'] for v in versions)}, "
        f"transformers {listed(v['transformers'] for v in versions)}, "
        f"torch {listed(v['torch'] for v in versions)}; "
        f"commit {listed(_commit(r['identity']['git_commit']) for r in records)}; "
        f"{listed(r['timings']['machine'] for r in records if 'timings' in r)}.",
    ]


def _commit(commit: str | None) -> str:
    """Twelve digits, and whether the code was edited."""
    return "unknown" if commit is None else commit[:12] + "+changes" * commit.endswith("+changes")


def _samples(record: Record) -> str:
    name = record["benchmark"]["name"]
    partial = f" of {record['documents']}" if record["partial"] else ""
    return f"{name} {record['samples']}{partial}"
