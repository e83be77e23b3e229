"""Names are checked before anything is composed."""

import pytest

from hired_eval import help as help_text
from hired_eval.errors import UserError

GOOD = [
    [],
    ["method=full"],
    ["-m", "method=full,hired", "task=docvqa,pope", "budget=0.2,0.4"],
    ["model=llava_next_7b", "model.path=/some/folder", "method.alpha=0.3"],
    ["+method.strength=3"],
    ["hydra.sweep.dir=/tmp/x"],
    ["model.prompt='{images} {question}, please'"],
    ["profile=paper", "data.path=/a/b"],
    ["--cfg", "job"],
]
BAD = [
    (["method=zzz"], "there is no method 'zzz'; known: "),
    (["-m", "task=docvqa,popo"], "there is no task 'popo'; did you mean pope"),
    (["method=full", "method.alpha=1"], "there is no option 'alpha' of method full"),
    (["++limt=3"], "there is no option 'limt'; did you mean limit"),
    (["+tasks=docvqa"], "there is no option 'tasks'; did you mean task"),
]


@pytest.mark.parametrize("arguments", GOOD, ids=" ".join)
def test_names_that_exist_pass(arguments: list[str]) -> None:
    assert help_text.check_names(arguments) is None


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_name_that_does_not_exist_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        help_text.check_names(arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hydra" not in str(refused.value)
