"""What a table of a report is, whatever it is written as."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from hired_eval.records.context import context_of
from hired_eval.records.flips import KINDS
from hired_eval.records.goal import read_goal
from hired_eval.records.record import Record
from hired_eval.records.statistics import FEWEST, Difference, adjust_for_many
from hired_eval.records.store import Store, best, scorer_of_run, why_apart
from hired_eval.reporting.rows import FULL, SEED, budget_of, seed_of

DASH = "-"


def interval_text(low: float | None, high: float | None, digits: int, pictures: int, sign: str = "") -> str:
    """' [60.1, 70.2]', or in brackets why there is no interval."""
    if low is None or high is None:
        return " (n too small)" if pictures < FEWEST else " (no interval)"
    return f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def n_text(n: int, pictures: int) -> str:
    """' n=16 (8 pictures)'."""
    return f" n={n} ({pictures} picture{'s' * (pictures != 1)})"


@dataclass(frozen=True)
class Cell:
    """One number of a table, with what is needed to trust it.

    Attributes:
        value: measured, on the benchmark's scale; None where there is none.
        low: lower end of its 95 % interval, where it has one.
        high: upper end.
        n: scored units.
        pictures: different pictures they are about; None where no bootstrap over pictures was made.
        answered: documents that were answered, where they were drawn at random; None elsewhere.
        documents: documents of the whole benchmark.
        digits: digits behind the point.
        published: the published number as printed.
        difference: to full execution or whatever the table compares with, paired.
        settled: what the difference settles of what the run was asked to decide.
        p_adjusted: of its test, for how many differences the table has; None where it has no other, and below
            `FEWEST` pictures.
        seeds: seed -> score, where there are several.
        marks: '*' partial, '+' dummy weights, '#' a share where the benchmark counts points.
        text: instead of a number, e.g. OOM.
        reason: why there is no number.
        run: names of the runs it comes from, with a space between them.
        options: of the method, all of them, as they ran.
        tokens: visual tokens kept, mean of a document with a picture.
        tokens_full: those of full execution.
        best: whether it is the best of its column in its block, full execution apart.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    pictures: int | None = None
    answered: int | None = None
    documents: int | None = None
    digits: int = 1
    published: str | None = None
    difference: Difference | None = None
    settled: str = ""
    p_adjusted: float | None = None
    seeds: Sequence[tuple[int, float]] = ()
    marks: str = ""
    text: str | None = None
    reason: str | None = None
    run: str | None = None
    options: str | None = None
    tokens: float | None = None
    tokens_full: float | None = None
    best: bool = False

    def measured_text(self) -> str:
        """The measured number with its interval, or a dash."""
        return f"{self.number_text()}{self.interval_text()}{self.seeds_text()}{self.n_text()}"

    def interval_text(self) -> str:
        """The interval, or why there is none; '' for a number that has none."""
        if self.value is None or (self.pictures is None and self.low is None):
            return ""
        return interval_text(self.low, self.high, self.digits, self.pictures or 0)

    def seeds_text(self) -> str:
        """' 3 seeds 78.1 to 81.0'; '' where there is one."""
        if not self.seeds:
            return ""
        scores = [score for _, score in self.seeds]
        return f" {len(scores)} seeds {min(scores):.{self.digits}f} to {max(scores):.{self.digits}f}"

    def n_text(self) -> str:
        """' n=16 (8 pictures)' where only a part of the benchmark was answered, or too little of it."""
        if self.n is None or self.pictures is None or ("*" not in self.marks and self.pictures >= FEWEST):
            return ""
        if self.answered is not None:
            return f" {self.answered} of {self.documents} ({self.pictures} pictures)"
        return n_text(self.n, self.pictures)

    def number_text(self) -> str:
        """The measured number with its marks, or a dash."""
        return self.text or DASH if self.value is None else f"{self.value:.{self.digits}f}{self.marks}"

    def difference_text(self) -> str:
        """The difference with its interval, and whether it is beyond noise."""
        d = self.difference
        if d is None:
            return ""
        known = d.clusters >= FEWEST or d.sequence
        surely = self.p_adjusted is not None and self.p_adjusted < 0.05
        mark = (" !" + "!" * surely if d.beyond_noise else " ~") * known
        # where full execution answered another part of the benchmark, the difference stands on what both did
        shared = "" if d.n == self.n else n_text(d.n, d.clusters)
        interval = interval_text(d.shown_low, d.shown_high, self.digits, d.clusters, "+")
        settled = f", {self.settled}" if self.settled else ""
        return f"{d.value:+.{self.digits}f}{interval}{mark}{shared}{settled}"


@dataclass(frozen=True)
class TableRow:
    """A row: its block, its label, how many tokens it kept, its cells, and whether it may be the best."""

    block: str
    label: str
    tokens: str
    cells: Sequence[Cell]
    competes: bool = True


TEST = "(paired test over images at 5 %; over few images it asks for more than the interval does)"
SCORE_NOTE = (
    f"Score [95 % interval: a bootstrap over images, which needs {FEWEST} of them; exact bounds where all "
    "images have one score]."
)


def in_words(against: str) -> str:
    """What differences are to, in a sentence."""
    return "full execution" if against == FULL.label else against


def difference_note(against: str) -> str:
    """How the lines of differences are to be read."""
    what = f"difference to {in_words(against)} on the same documents [95 % interval]"
    return (
        f'Line "vs {against}": {what}; ! beyond noise, !! also after adjustment (Holm) for all differences '
        f"of the table on {FEWEST} images or more, ~ not resolved at this n {TEST}."
    )


BEST_NOTE = f"Bold: the best of a column, {FULL.label} apart; its interval may overlap with others."


def flips_note(against: str) -> str:
    """How columns of flips are to be read."""
    return (
        "Flips: documents in % whose answer turned from right to wrong (a lower score) / from wrong to right "
        f"(a higher one) / into other text of the same score, compared with {in_words(against)}."
    )


SEQUENCE_NOTE = (
    'A cell with "of" is about pictures drawn at random: its interval and that of its difference are 95 % '
    "confidence sequences, which hold for the whole benchmark, for any number of pictures and whenever the "
    "run stopped; ! where that of the difference leaves out 0, !! where the paired test on the answered "
    "pictures, adjusted as elsewhere, finds a difference as well."
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
        against: what differences are to, as printed behind "vs".
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    notes: Sequence[str] = field(default_factory=tuple)
    provenance: Sequence[str] = field(default_factory=tuple)
    against: str = FULL.label


def repetitions(records: Iterable[Record]) -> list[Record]:
    """The runs of a cell: of each seed the one over most documents and of those the newest, by seed.

    A seed that was run on fewer documents than another is left out, unless both drew them in the same order.
    """
    records = list(records)
    by_seed = {seed: best(r for r in records if seed_of(r) == seed) for seed in sorted(map(seed_of, records))}
    found = [r for r in by_seed.values() if r is not None]
    most = max(found, key=lambda r: r.samples, default=None)
    if most is None:
        return []
    return [r for r in found if r.samples == most.samples or (r.drawing and r.drawing == most.drawing)]


def with_seeds(label: str, runs: Iterable[Record]) -> str:
    """A row's label with the seeds of its runs, where they are not the default alone."""
    runs = list(runs)
    seeds = sorted({seed_of(r) for r in runs})
    if all(seed_of(r) == r.method_defaults.get(SEED, 0) for r in runs):
        return label
    return f"{label}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def accuracy_cell(
    store: Store, runs: Sequence[Record], others: Sequence[Record], published: str | None, reason: str = ""
) -> Cell:
    """The cell of a method on a benchmark, with its difference to another one, full execution as a rule.

    Args:
        store: has the samples.
        runs: see `repetitions`.
        others: those of the other method, likewise.
        published: the published number.
        reason: why there are no runs.
    """
    if not runs:
        return Cell(published=published, reason=reason)
    first = runs[0]
    score, scorer = store.score(runs), scorer_of_run(first)
    marks = "*" * first.partial + "+" * (first.weights == "dummy") + "#" * scorer.share
    pairs = paired(runs, others)
    found = store.difference(pairs) if pairs else None
    goal = read_goal(first.config) if FULL.of(others) else None
    settled = goal and found and found.sequence and goal.decided(found.low, found.high)
    return Cell(
        value=score.value,
        low=score.shown_low,
        high=score.shown_high,
        n=score.n,
        pictures=score.clusters,
        answered=min(r.samples for r in runs) if first.drawing else None,
        documents=first.documents,
        digits=scorer.digits,
        published=published,
        difference=found,
        settled=settled or "",
        seeds=list(zip(map(seed_of, runs), score.seeds, strict=True)) if score.seeds else (),
        marks=marks,
        run=" ".join(r.run for r in runs),
        options=_options_text(runs),
        tokens=first.tokens.kept.mean if first.tokens.kept else None,
        tokens_full=first.tokens.full.mean if first.tokens.full else None,
    )


def paired(runs: Sequence[Record], others: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Runs, each with the other method's of its seed, or its first; [] where they do not compare."""
    if not others or {r.run for r in others} & {r.run for r in runs}:
        return []
    of_seed = {seed_of(r): r for r in others}
    pairs = [(r, of_seed.get(seed_of(r), others[0])) for r in runs]
    return [] if any(why_apart(*pair) for pair in pairs) else pairs


def flips_cell(store: Store, runs: Sequence[Record], others: Sequence[Record], reason: str = "") -> Cell:
    """The cell of a method on a benchmark that says how many answers turned, compared with another method.

    Args:
        store: has the samples.
        runs: see `repetitions`.
        others: those of the other method, likewise.
        reason: why there are no runs.
    """
    if not runs:
        return Cell(reason=reason)
    if not (pairs := paired(runs, others)):
        return Cell()
    found = [store.flips(*pair) for pair in pairs]
    shares = [sum(flips.percent(kind) for flips in found) / len(found) for kind in KINDS]
    return Cell(text=" / ".join(f"{share:.1f}" for share in shares), run=" ".join(r.run for r in runs))


def adjusted(rows: Sequence[TableRow]) -> list[TableRow]:
    """Rows whose differences have p-values adjusted for how many there are in all of the table."""
    tested = [
        cell.difference.p
        for row in rows
        for cell in row.cells
        if cell.difference and cell.difference.clusters >= FEWEST
    ]
    if len(tested) < 2:
        return list(rows)
    of_cells = iter(adjust_for_many(tested))
    return [
        replace(
            row,
            cells=[
                replace(cell, p_adjusted=next(of_cells))
                if cell.difference and cell.difference.clusters >= FEWEST
                else cell
                for cell in row.cells
            ],
        )
        for row in rows
    ]


def with_best(rows: Sequence[TableRow], higher: Sequence[bool]) -> list[TableRow]:
    """Rows with the best number of each column marked, block by block, where two runs or more compete.

    Args:
        rows: of a table.
        higher: of each column whether a higher number is better; none of the others is marked.
    """
    found: dict[tuple[str, int], dict[str | None, float]] = {}
    for row in rows:
        for i, c in enumerate(row.cells):
            if row.competes and c.value is not None and higher[i]:
                found.setdefault((row.block, i), {})[c.run] = c.value
    best = {where: max(values.values()) for where, values in found.items() if len(values) > 1}

    def marked(row: TableRow) -> list[Cell]:
        highest = [best.get((row.block, i)) for i in range(len(row.cells))]
        return [
            replace(c, best=row.competes and c.value is not None and c.value == top)
            for c, top in zip(row.cells, highest, strict=True)
        ]

    return [replace(row, cells=marked(row)) for row in rows]


def _options_text(runs: Sequence[Record]) -> str:
    """All options of a cell's method as they ran; the seed where it is one."""
    method, budget = runs[0].method, budget_of(runs[0])
    options = {"_target_": method.target, **method.options}
    options = {k: v for k, v in options.items() if k != SEED or len(runs) == 1}
    return json.dumps(options if budget is None else {**options, "budget": budget})


def token_share(records: Sequence[Record]) -> str:
    """Visual tokens kept, as the mean share of full execution's; a dash where nothing was run."""
    shares = [r.kept_share for r in records if r.kept_share is not None]
    if not shares:
        return DASH
    return f"{100 * sum(shares) / len(shares):.0f} %"


def provenance(records: Iterable[Record]) -> list[str]:
    """Models, data, versions and commits behind a report, one line each."""
    records = list(records)

    def listed(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values)))

    versions = [r.identity.versions for r in records]
    answered = [r for r in records if not r.measure.startswith("efficiency")]
    data = f" Data: {listed(r.data for r in answered)}. Samples: {listed(map(_samples, answered))}."
    return [
        f"Model: {listed(r.model for r in records)}. Protocol: "
        f"{listed(context_of(r)['protocol'] for r in records)}.{data if answered else ''}",
        f"lmms-eval {listed(v['lmms_eval'] for v in versions)}, "
        f"transformers {listed(v['transformers'] for v in versions)}, "
        f"torch {listed(v['torch'] for v in versions)}; "
        f"commit {listed(_commit(r.identity.git_commit) for r in records)}; {days_of(records)}; "
        f"{listed(r.timings.machine for r in records if r.timings.machine)}.",
    ]


def days_of(records: Sequence[Record]) -> str:
    """When runs were finished."""
    days = sorted(r.finished[:10] for r in records)
    first, last = days[0], days[-1]
    return first if first == last else f"{first} to {last}"


def _commit(commit: str | None) -> str:
    """Twelve digits, and whether the code was edited."""
    return "unknown" if commit is None else commit[:12] + "+changes" * commit.endswith("+changes")


def _samples(record: Record) -> str:
    name = record.benchmark.name
    partial = f" of {record.documents}" if record.partial else ""
    return f"{name} {record.samples}{partial}"
