"""`python -m tests.precision.campaign`: do the intervals of parts hold, and what do they save? By simulation.

Every benchmark here is known whole, so that what a part says of it can be checked. No model answers anything.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hired_eval.records.sequences import ALPHA, FIRST_LOOK, Bets, Drawn, interval, sizes
from tests.precision.populations import METHODS, SIZES, Population, enlarged, made_up, stored

START, END = "<!-- made by python -m tests.precision.campaign {} -->", "<!-- end -->"
FOLLOWED = 40_000
"""Documents of a made-up benchmark: later ones would take the most time, and `decide` is settled before."""
KINDS = ((5_000, 1), (5_000, 8), (20_000, 8), (214_000, 8))
LIMIT = -math.log(ALPHA / 2)
ASKED = ("`precision=1`", "`decide=equivalent:1`", "`precision=1 decide=equivalent:1`")
"""What each cell of Table 3 is asked."""


@dataclass
class Tally:
    """What happened in the repetitions of one population.

    Attributes:
        repetitions: orders drawn.
        missed: in which the interval left out the true score at some time.
        missed_of_limit: in which the interval of `limit=450` did.
        wrong: in which `decide` said what is not so.
        naive: in which a test at 5 % at each look said "different" where there is no difference.
        asked: documents until `decide` was settled.
        documents: of the benchmark.
        truth: in points.
    """

    documents: int
    truth: float
    repetitions: int = 0
    missed: int = 0
    missed_of_limit: int = 0
    wrong: int = 0
    naive: int = 0
    asked: list[int] = field(default_factory=list)

    @property
    def covered(self) -> float:
        """Share of the repetitions."""
        return 1 - self.missed / self.repetitions


def looks_of(drawn: Drawn, population: Population, order: np.ndarray) -> np.ndarray:
    """Numbers of units at which a run looks."""
    answered = population.sizes[order].cumsum()
    at = sizes(FIRST_LOOK, int(answered[-1]))
    return np.unique(np.minimum(np.searchsorted(answered, at) + 1, drawn.units))


def first_rejections(drawn: Drawn, offset: float | None, scores: Sequence[float]) -> list[float]:
    """Units until each score is rejected as too low; infinity where it never is."""
    bets = Bets(drawn, offset)
    beyond = [bets.capital(score) >= LIMIT for score in scores]
    return [float(b.argmax() + 1) if b.any() else math.inf for b in beyond]


def repeat(
    population: Population,
    margin: float,
    repetitions: int,
    rng: np.random.Generator,
    longest: int | None = None,
) -> Tally:
    """Random orders of a population: coverage at all times, and when "within the margin of Full" is settled.

    Args:
        population: differences.
        margin: in points, of `decide=equivalent:MARGIN`; bets are made for it.
        repetitions: how many orders.
        rng: draws them.
        longest: documents that are followed; None for all.
    """
    tally = Tally(population.documents, population.truth)
    truth, offset = population.truth / population.scale, margin / population.scale
    for _ in range(repetitions):
        order = population.order(rng)
        drawn = population.drawn(order)
        looks = looks_of(drawn, population, order)
        # the last unit leaves nothing open: the sums agree but for rounding
        units = drawn.units - 1
        if longest is not None:
            units = min(units, int(np.searchsorted(population.sizes[order].cumsum(), longest)))
        before = drawn.head(units)
        missed, within_low, outside_high = first_rejections(before, offset, (truth, -offset, offset))
        missed_too, within_high, outside_low = first_rejections(
            before.negative(), offset, (-truth, -offset, offset)
        )
        tally.repetitions += 1
        tally.missed += min(missed, missed_too) < math.inf
        part = drawn.head(int(looks[min(2, len(looks) - 2)]))
        ends = *first_rejections(part, None, [truth]), *first_rejections(part.negative(), None, [-truth])
        tally.missed_of_limit += min(ends) < math.inf
        within, outside = max(within_low, within_high), min(outside_high, outside_low)
        settled = min(within, outside)
        after = looks[looks >= settled]
        look = int(after[0]) if after.size else drawn.units
        if look < drawn.units:
            tally.wrong += (within <= outside) != (abs(truth) < offset)
        tally.asked.append(int(population.sizes[order][:look].sum()))
        tally.naive += naive_difference(drawn, looks)
    return tally


def naive_difference(drawn: Drawn, looks: np.ndarray) -> bool:
    """Whether a test at 5 % at each look ever says that a difference is not 0, before all is answered."""
    t = looks[looks < drawn.units]
    mean = drawn.values.cumsum()[t - 1] / t
    spread = np.maximum((drawn.values**2).cumsum()[t - 1] / t - mean**2, 1e-30)
    return bool((np.abs(mean) / np.sqrt(spread / t) > 1.96).any())


def asked_for_precision(population: Population, precision: float, rng: np.random.Generator) -> int:
    """Documents until the interval is narrower than plus or minus so many points."""
    order = population.order(rng)
    drawn, offset = population.drawn(order), precision / population.scale
    for look in looks_of(drawn, population, order):
        low, high = interval(drawn.head(int(look)), offset)
        if (high - low) / 2 <= offset:
            break
    return int(population.sizes[order][:look].sum())


def stored_rows(repetitions: int, rng: np.random.Generator) -> Iterator[tuple[str, Tally]]:
    """Every method on every mini benchmark; a margin of 5 points, of 100 on MME, since these are small."""
    for benchmark in SIZES:
        for method in METHODS:
            margin = 100.0 if benchmark == "mme" else 5.0
            yield f"{benchmark}, {method}", repeat(stored(benchmark, method), margin, repetitions, rng)


def made_up_rows(
    repetitions: int, kinds: Sequence[tuple[int, int]], rng: np.random.Generator
) -> Iterator[tuple[str, Tally]]:
    """Populations of so many documents and questions a picture, with differences from 0 to 10 points."""
    for documents, questions in kinds:
        for points in (0.0, 0.3, 3.0, 10.0):
            population = made_up(documents, questions, points, max(0.1, 0.015 * points), rng)
            name = f"{documents:,} documents, 1 to {questions} a picture, {points:g} points"
            yield name, repeat(population, 1.0, repetitions, rng, FOLLOWED)


def table3(repetitions: int, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Questions of each cell of Table 3 at the real sizes: benchmark -> row -> mean for each of `ASKED`."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for benchmark, documents in SIZES.items():
        of_row: dict[str, list[tuple[int, ...]]] = {row: [] for row in ("Full", *METHODS)}
        for _ in range(repetitions):
            seed = int(rng.integers(2**32))
            for method in METHODS:
                population = enlarged(stored(benchmark, method), documents, np.random.default_rng(seed))
                precise = asked_for_precision(population, 1.0, np.random.default_rng(seed + 1))
                decided = repeat(population, 1.0, 1, np.random.default_rng(seed + 1)).asked[0]
                # the same bets at the same looks: both together stop at the first of the two
                of_row[method].append((precise, decided, min(precise, decided)))
            own = enlarged(stored(benchmark, "Full", None), documents, np.random.default_rng(seed))
            alone = asked_for_precision(own, 1.0, np.random.default_rng(seed + 1))
            # full execution answers what any method is compared on
            lasts = [of_row[method][-1] for method in METHODS]
            of_row["Full"].append(tuple(max(n) for n in zip((alone, 0, alone), *lasts, strict=True)))
        of_unit = 2 if benchmark == "mme" else 1
        found[benchmark] = {row: of_unit * np.mean(asked, axis=0) for row, asked in of_row.items()}
    return found


def tallied(what: str, rows: Iterator[tuple[str, Tally]]) -> list[str]:
    """Lines of a table of populations."""
    lines = [
        f"{what}:",
        "",
        "| benchmark | true difference | interval holds at every look | that of `limit=450` holds | "
        'wrong decisions | naive test says "different" | questions asked |',
        "|---|---|---|---|---|---|---|",
    ]
    tallies = []
    for name, tally in rows:
        tallies.append(tally)
        n = tally.repetitions
        share = 100 * float(np.mean(tally.asked)) / tally.documents
        naive = f"{100 * tally.naive / n:.1f} %" + " (there is none)" * (abs(tally.truth) < 1e-9)
        lines.append(
            f"| {name} | {tally.truth:+.2f} | {100 * tally.covered:.1f} % | "
            f"{100 * (1 - tally.missed_of_limit / n):.1f} % | {100 * tally.wrong / n:.1f} % | {naive} | "
            f"{share:.0f} % |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    missed = sum(tally.missed for tally in tallies) / sum(tally.repetitions for tally in tallies)
    wrong = max(tally.wrong / tally.repetitions for tally in tallies)
    return [
        *lines,
        "",
        f"Over all rows the interval leaves out the true difference at some look in {100 * missed:.1f} % of "
        f"the orders; the highest share of wrong decisions is {100 * wrong:.1f} %.",
    ]


def of_stored(repetitions: int, rng: np.random.Generator) -> list[str]:
    """Lines on the stored scores of the mini benchmarks."""
    what = (
        "Stored scores of the mini benchmarks, `decide=equivalent:5` (100 on MME; the benchmarks are small)"
    )
    return tallied(f"{what}; {repetitions} orders of each", stored_rows(repetitions, rng))


def of_made_up(repetitions: int, rng: np.random.Generator) -> list[str]:
    """Lines on made-up benchmarks."""
    what = "Made-up benchmarks, `decide=equivalent:1`, followed for 40,000 documents"
    return tallied(f"{what}; {repetitions} orders of each", made_up_rows(repetitions, KINDS, rng))


def of_table3(repetitions: int, rng: np.random.Generator) -> list[str]:
    """Lines on Table 3."""
    cells = table3(repetitions, rng)
    whole = {b: SIZES[b] * (1 + (b == "mme")) for b in SIZES}
    rows = ["Full", *METHODS]
    lines = [
        f"Table 3 at the sizes of the real benchmarks: questions with {' / '.join(ASKED)}, each the mean of "
        f"{repetitions} simulated runs:",
        "",
        f"| benchmark | documents | {' | '.join(rows)} |",
        f"|---|---|{'---|' * len(rows)}",
    ]
    for benchmark, of_row in cells.items():
        numbers = " | ".join(" / ".join(f"{n:,.0f}" for n in of_row[row]) for row in rows)
        lines.append(f"| {benchmark} | {whole[benchmark]:,} | {numbers} |")
    everything = len(rows) * sum(whole.values())
    sums = sum(of_row[row] for of_row in cells.values() for row in rows)
    shares = [
        f"{100 * asked / everything:.1f} % with {option}" for asked, option in zip(sums, ASKED, strict=True)
    ]
    return [*lines, "", f"Of all questions: {', '.join(shares)}."]


PARTS = {"stored": (of_stored, 1000), "made-up": (of_made_up, 1000), "table3": (of_table3, 10)}
"""What a part of the campaign writes, and its repetitions."""


def main() -> None:
    """Simulate, print, and put the result into a page where one is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.precision.campaign", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--repetitions", type=int, help="instead of a part's own number")
    parser.add_argument("--write", type=Path, help="page to put the result into")
    asked = parser.parse_args()
    for part in asked.parts:
        simulate, repetitions = PARTS[part]
        started = time.process_time()
        lines = simulate(asked.repetitions or repetitions, np.random.default_rng(0))
        lines.append(f"\nThis took {time.process_time() - started:.0f} seconds of one core.")
        print("\n".join(lines))
        if asked.write:
            text, start = asked.write.read_text(), START.format(part)
            before, after = text.split(start)
            rest = after.split(END, 1)[1]
            asked.write.write_text(f"{before}{start}\n{chr(10).join(lines)}\n{END}{rest}")


if __name__ == "__main__":
    main()
