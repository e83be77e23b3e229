"""Two finished runs on the same documents: the difference of their scores, and the answers that flipped."""

from __future__ import annotations

from dataclasses import dataclass

from hired_eval.errors import UserError
from hired_eval.records.context import context_of, differing
from hired_eval.records.flips import KINDS, Flips, find_flips
from hired_eval.records.record import Record
from hired_eval.records.scores import difference
from hired_eval.records.statistics import FEWEST, Difference, Estimate
from hired_eval.records.store import Store, part_of, scorer_of_run, why_apart
from hired_eval.reporting.regression_report import quote_value
from hired_eval.reporting.render import aligned
from hired_eval.reporting.rows import label_of
from hired_eval.reporting.tables import interval_text

PRINTED = 20
"""Flipped documents in the terminal; the page has more."""
LISTED = 1000
"""Flipped documents on the page."""


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        record: the run.
        label: its method with budget and options, and its model where that is another one.
        score: on all that it answered.
        digits: of the score.
    """

    record: Record
    label: str
    score: Estimate
    digits: int


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        before: the first run.
        after: the second run.
        difference: second minus first, on the documents that both answered.
        flips: these documents' answers.
        settings: how the second differs beside its method, '' for not at all.
    """

    before: Side
    after: Side
    difference: Difference
    flips: Flips
    settings: str

    @property
    def title(self) -> str:
        """The comparison in one line."""
        return f"{self.after.label} compared with {self.before.label}, {self.before.record.benchmark.name}"


def compare(before: tuple[Store, Record], after: tuple[Store, Record]) -> Comparison:
    """A run beside another one.

    Args:
        before: a run, with the store that has its samples.
        after: likewise; its score minus the other's is the difference.

    Raises:
        UserError: they did not answer the same documents, or parts in different orders, or samples cannot be
            read.
    """
    (store, one), (other_store, other) = before, after
    for record in (one, other):
        if record.status != "complete" or record.measure != "accuracy" or record.score is None:
            raise UserError(f"{record.run} is not a finished run with a score; choose another one")
    if one.benchmark != other.benchmark:
        raise UserError(
            f"{one.run} is on benchmark {one.benchmark.name} and {other.run} on {other.benchmark.name}, or "
            "they are scored otherwise; compare runs on one benchmark"
        )
    if (one.data, one.identity.documents) != (other.data, other.identity.documents):
        raise UserError(
            f"{one.run} and {other.run} answered other documents ({one.data} and {other.data}); compare runs "
            "on the same ones"
        )
    if reason := why_apart(one, other):
        raise UserError(reason)
    samples, part = (store.samples(one), other_store.samples(other)), part_of(other) or part_of(one)
    scorer = scorer_of_run(one if one.partial else other)
    found = difference([(samples[1], samples[0])], scorer, part=part)
    if found is None:
        raise UserError(f"{one.run} and {other.run} have no document in common; run both with one limit")
    labels = label_of(one), label_of(other)
    if one.model != other.model or labels[0] == labels[1]:
        labels = f"{labels[0]}, {one.model}", f"{labels[1]}, {other.model}"
    sides = [
        Side(record, label, place.score([record]), scorer_of_run(record).digits)
        for (place, record), label in zip((before, after), labels, strict=True)
    ]
    settings = differing(context_of(other), context_of(one))
    return Comparison(sides[0], sides[1], found, find_flips(*samples), settings)


def heads_and_rows(made: Comparison) -> list[list[str]]:
    """The two runs as a table, heads first."""
    head = ["", "run", "score", "95 % interval", "documents", "tokens kept"]
    return [head, *([name, *_cells(side)] for name, side in (("A", made.before), ("B", made.after)))]


def _cells(side: Side) -> list[str]:
    record, score = side.record, side.score
    kept = record.tokens.kept
    partial = f" of {record.documents}" if record.partial else ""
    return [
        f"{side.label} ({record.run})",
        f"{score.value:.{side.digits}f}",
        interval_text(score.shown_low, score.shown_high, side.digits, score.clusters).strip(),
        f"{record.samples}{partial}",
        "-" if kept is None else f"{kept.mean:.1f}",
    ]


def lines(made: Comparison) -> list[str]:
    """What was found, a line each."""
    d, flips, digits = made.difference, made.flips, made.after.digits
    known = d.clusters >= FEWEST or d.sequence
    noise = (", beyond noise" if d.beyond_noise else ", not resolved at this n") * known
    interval = interval_text(d.shown_low, d.shown_high, digits, d.clusters, "+")
    counts = ", ".join(f"{kind} {flips.count(kind)} ({flips.percent(kind):.1f} %)" for kind in KINDS)
    if d.sequence:
        p, how = "", "95 % interval for the whole benchmark"
    else:
        p, how = f", p = {d.p:.2g}", "95 % interval and paired test over pictures"
    return [
        f"B - A: {d.value:+.{digits}f}{interval}{p}{noise} (n={d.n}, {d.clusters} pictures; {how})",
        f"Flips from A to B, of {flips.compared} documents: {counts}",
        "Right to wrong is a lower score, wrong to right a higher one; other text has the same score.",
        *([f"B also differs from A in {made.settings}"] if made.settings else []),
    ]


def printed(made: Comparison) -> str:
    """The comparison for the terminal, with the first of the flipped documents."""
    flipped = made.flips.documents
    parts = [made.title, "", aligned(heads_and_rows(made)), "", *lines(made)]
    if len(flipped):
        head = ["document", "flip", "question", "answer of A", "answer of B", "tokens of A", "of B"]
        rows = [
            [
                str(one["doc_id"]),
                str(one["kind"]),
                *(quote_value(str(one[c])) for c in ("question", "prediction_before", "prediction_after")),
                *(f"{one[c]:g}" for c in ("kept_before", "kept_after")),
            ]
            for one in flipped.head(PRINTED).to_dict("records")
        ]
        parts += ["", aligned([head, *rows])]
        if len(flipped) > PRINTED:
            parts.append(f"... and {len(flipped) - PRINTED} more")
    return "\n".join(parts)
