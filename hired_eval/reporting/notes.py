"""What is said below a table of scores."""

from __future__ import annotations

from collections.abc import Sequence

from hired_eval.reporting.tables import BEST_NOTE, SCORE_NOTE, SEQUENCE_NOTE, Cell, difference_note

MARKS = {
    "*": "Mark *: on a part of the benchmark; the published number is for all of it.",
    "+": "Mark +: dummy weights, a number without meaning as accuracy.",
    "#": "Mark #: a share of the questions in %: OCRBench's points need all of its questions.",
}


def score_notes(cells: Sequence[Cell], against: str) -> list[str]:
    """How the numbers of a table of scores are to be read."""
    notes = [SCORE_NOTE]
    if any(cell.best for cell in cells):
        notes.append(BEST_NOTE)
    if any(cell.difference for cell in cells):
        notes.append(difference_note(against))
    if any(cell.answered is not None for cell in cells):
        notes.append(SEQUENCE_NOTE)
    if any(cell.n_text() and cell.answered is None for cell in cells):
        notes.append(
            "n: scored questions, for MME pairs of them, and how many pictures they are about; of a "
            "difference, those that both runs answered."
        )
    if any(cell.seeds for cell in cells):
        notes.append(
            "Several seeds: their mean, with the lowest and the highest; the interval holds what a mean over "
            "so few seeds may be off (Student's t)."
        )
    return notes


def mark_notes(cells: Sequence[Cell]) -> list[str]:
    """What the marks behind numbers mean, of those that there are."""
    marks = {mark for cell in cells for mark in cell.marks}
    return [MARKS[mark] for mark in MARKS if mark in marks]
