"""The seeded faults fit the code as it is now, so that a campaign does not end halfway."""

from pathlib import Path

import pytest

from tests.mutants.seeded import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


def test_names_differ() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_occurs_once_and_the_tests_are_there(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.right) == 1
    assert mutant.right != mutant.wrong
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests)
