"""Names are checked before anything is composed."""

import re
from pathlib import Path

import pytest

from hired_eval.cli import help as help_text
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
    (["shwo", "x.png"], "there is no command 'shwo'; did you mean show"),
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


@pytest.fixture
def own_configs(tmp_path: Path) -> str:
    """A folder with a method of the user's own."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "brightest.yaml").write_text("_target_: my_package.Brightest\nbudget: 0.2\n")
    return str(tmp_path)


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_a_config_of_the_users_own_is_known(own_configs: str, flag: str) -> None:
    help_text.check_names([flag, own_configs, "method=brightest", "method.budget=0.3"])
    help_text.check_names(["-m", f"{flag}={own_configs}", "method=full,brightest"])


def test_help_lists_configs_of_the_users_own_and_defaults(own_configs: str) -> None:
    text = help_text.text(Path(own_configs))
    assert re.search(r"^  method=hired +brightest, ", text, re.MULTILINE)
    assert "method.budget=0.2" in help_text.text(Path(own_configs), ["method=brightest"])
    assert "brightest" not in help_text.text()


def test_options_of_the_users_own_config_are_checked(own_configs: str) -> None:
    with pytest.raises(UserError, match=r"there is no option 'alpha' of method brightest; .*known: budget"):
        help_text.check_names(["--config-dir", own_configs, "method=brightest", "method.alpha=1"])
    with pytest.raises(UserError, match="there is no method 'brightest'"):
        help_text.check_names(["method=brightest"])


def test_a_config_has_the_options_of_the_one_it_builds_on(own_configs: str) -> None:
    (Path(own_configs) / "model").mkdir()
    file = Path(own_configs) / "model" / "own.yaml"
    file.write_text("defaults:\n  - llava_next_7b\n  - _self_\nname: own\n")
    help_text.check_names(["--config-dir", own_configs, "model=own", "model.alpha=0.3", "model.path=x"])
    with pytest.raises(UserError, match="there is no option 'pth' of model own; did you mean path"):
        help_text.check_names(["--config-dir", own_configs, "model=own", "model.pth=x"])


def test_a_config_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="--config-dir nowhere is not a folder"):
        help_text.check_names(["--config-dir", "nowhere", "method=full"])
