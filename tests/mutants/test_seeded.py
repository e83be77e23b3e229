"""Every seeded fault still finds its place in the code; `make mutants` runs them all."""

from pathlib import Path

import pytest

from tests.mutants.seeded import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_its_place_and_is_still_python(mutant: Mutant, tmp_path: Path) -> None:
    (tmp_path / mutant.file).parent.mkdir(parents=True)
    before = (ROOT / mutant.file).read_text()
    (tmp_path / mutant.file).write_text(before)
    mutant.seed(tmp_path)
    after = (tmp_path / mutant.file).read_text()
    assert after != before
    compile(after, mutant.file, "exec")


def test_a_mutant_that_has_lost_its_place_says_so(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\na = 1\n")
    with pytest.raises(ValueError, match="2 times"):
        Mutant("twice", "code.py", "a = 1", "a = 2").seed(tmp_path)
    with pytest.raises(ValueError, match="0 times"):
        Mutant("gone", "code.py", "b = 1", "b = 2").seed(tmp_path)
