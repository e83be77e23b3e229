"""Confidence sequences: exact where everything is known, and seldom wrong where it is not."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval.records.sequences import Bets, Drawn, interval, sizes
from tests.precision import campaign
from tests.precision.populations import METHODS, SIZES, Population, made_up, stored


def drawn(values: list[float], units: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Drawn:
    """The first of so many units of one document each."""
    n = len(values)
    each = np.full(n, 1 / units)
    return Drawn(np.array(values) / units, each, np.zeros(n, int), np.ones(1), units, 1 / units, bounds)


@given(
    st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=30), st.sampled_from([None, 0.01, 0.3])
)
@settings(max_examples=30, deadline=None)
def test_nothing_is_open_when_all_is_answered(values: list[float], offset: float | None) -> None:
    low, high = interval(drawn(values, len(values)), offset)
    assert (low, high) == (pytest.approx(np.mean(values)), pytest.approx(np.mean(values)))


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=0, max_size=30), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_an_interval_holds_what_is_possible_and_no_more(values: list[float], rest: int) -> None:
    n = len(values) + rest
    low, high = interval(drawn(values, n), 0.05)
    least, most = sum(values) / n, (sum(values) + rest) / n
    assert least - 1e-12 <= low <= high <= most + 1e-12


def test_a_higher_score_has_less_against_it() -> None:
    """What `_lowest` looks for: whoever holds a higher score for true loses less to these bets."""
    rng = np.random.default_rng(0)
    known = drawn(list(rng.choice([-1.0, 0.0, 1.0], 80)), 100, (-1, 1))
    for offset in (None, 0.01, 0.5):
        bets = Bets(known, offset)
        capital = [bets.capital(score).max() for score in np.linspace(*known.possible, 41)]
        assert (np.diff(capital) <= 1e-9).all()


def test_the_other_sign_gives_the_other_end() -> None:
    rng = np.random.default_rng(1)
    known = drawn(list(rng.choice([-1.0, 0.0, 1.0], 60)), 90, (-1, 1))
    low, high = interval(known, 0.1)
    assert interval(known.negative(), 0.1) == (pytest.approx(-high), pytest.approx(-low))


def test_more_units_never_widen_it() -> None:
    rng = np.random.default_rng(2)
    known = drawn(list(rng.choice([0.0, 1.0], 400)), 400)
    ends = np.array([interval(known.head(n), 0.05) for n in range(20, 400, 40)])
    assert (np.diff(ends[:, 0]) >= -1e-6).all()
    assert (np.diff(ends[:, 1]) <= 1e-6).all()


def test_the_first_capital_is_worked_out_by_hand() -> None:
    """Two units of two, one bet: the first is 1 where 0 is held, of which the prediction said 1/2.

    A score of 0.5 means that the two add up to 1. Nothing is known: the prediction for each is 0.5, so that
    the fair mean beyond it is (1 - 2 * 0.5) / 2 = 0, and the unit is 0.5 beyond. Variance before: 1 / 4 ** 2.
    """
    known = drawn([1.0], 2)
    stake = [m * 0.1 / (1 / 16 + (m * 0.1) ** 2) for m in (0.5, 1.0, 2.0, 6.0)]
    # at most 0.75 of the capital can be lost: the unit is 0.5 below the prediction at worst
    won = sum(s * (1 + min(b, 1.5) * 0.5) for b, s in zip(stake, (0.25, 0.45, 0.2, 0.1), strict=True))
    assert Bets(known, 0.1).capital(0.5) == pytest.approx([np.log(won)])


def test_strata_and_sizes_that_tell_all_leave_nothing_open() -> None:
    """Units of two strata, all alike within each: the interval is far narrower than without the strata."""
    rng = np.random.default_rng(3)
    strata = rng.permutation(np.repeat([0, 1], 200))
    values = np.where(strata == 0, 0.9, 0.1)
    by_stratum = Population(values, np.ones(400), strata, (0.0, 1.0)).drawn(np.arange(400))
    by_stratum = replace(by_stratum, first=0).head(100)
    total = by_stratum.totals.sum()
    alone = replace(by_stratum, strata=np.zeros(100, int), totals=np.array([total]))
    widths = [np.diff(interval(part, 0.05 * total))[0] for part in (by_stratum, alone)]
    assert widths[0] < 0.7 * widths[1]


def test_sizes_grow_by_half_and_end_with_everything() -> None:
    assert sizes(200, 1000) == [200, 300, 450, 675, 1000]
    assert sizes(200, 150) == [150]


@pytest.mark.parametrize(
    "population",
    [
        stored("docvqa", "HiRED 20 %"),
        stored("mme", "HiRED 40 %"),
        stored("vqav2", "HiRED 20 %"),
        made_up(3000, 8, 0.3, 0.1, np.random.default_rng(0)),
    ],
    ids=["docvqa", "mme", "vqav2", "made up"],
)
def test_a_short_campaign_misses_seldom(population: Population) -> None:
    """With 5 % of misses allowed, 13 or more of 100 have a probability of 0.1 %."""
    margin = 100.0 if population.scale == 1 else 5.0
    tally = campaign.repeat(population, margin, 100, np.random.default_rng(4))
    assert tally.missed < 13
    assert tally.missed_of_limit < 13
    assert tally.wrong < 13
    assert np.mean(tally.asked) < population.documents


def test_looking_often_with_an_ordinary_test_finds_what_is_not_there() -> None:
    population = made_up(60_000, 8, 0.0, 0.1, np.random.default_rng(0))
    tally = campaign.repeat(population, 1.0, 60, np.random.default_rng(5), longest=8000)
    assert population.truth == pytest.approx(0, abs=0.01)
    assert tally.naive > 9, "15 % at least, of a test that promises 5 %"
    assert tally.wrong == 0


def test_the_committed_campaign_keeps_its_promises() -> None:
    """A row of 1,000 orders may miss 64 by chance where 50 are allowed (2 standard deviations)."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in Path("docs/precision.md").read_text().splitlines()
        if line.startswith("| ") and line.count("|") == 8 and "%" in line
    ]
    assert len(rows) == len(METHODS) * len(SIZES) + 4 * len(campaign.KINDS)
    for name, _, covered, of_limit, wrong, *_ in rows:
        assert float(covered.split()[0]) >= 93.6, name
        assert float(of_limit.split()[0]) >= 93.6, name
        assert float(wrong.split()[0]) <= 5, name


def test_one_point_takes_at_most_15_percent_of_the_questions_of_table_3() -> None:
    (line,) = re.findall(r"^Of all questions.*", Path("docs/precision.md").read_text(), re.MULTILINE)
    shares = {option: float(share) for share, option in re.findall(r"([\d.]+) % with (`[^`]+`)", line)}
    assert list(shares) == list(campaign.ASKED)
    assert shares["`precision=1`"] <= 15
    assert shares["`precision=1 decide=equivalent:1`"] <= 10
