"""A method in somebody else's package: by name through its entry point, and by `_target_`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.utils import instantiate

from hired_eval.dropping.registry import available_methods, build
from hired_eval.dropping.testing import check_dropper
from hired_eval.errors import UserError
from tests import tiny

MODULE = '''
from dataclasses import dataclass

from hired_eval.dropping import SelectingDropper


@dataclass(frozen=True, kw_only=True)
class Brightest(SelectingDropper):
    """Keep the tokens of highest norm."""

    power: float = 2.0

    def score(self, encoding, layout):
        return encoding.features.float().norm(dim=-1) ** self.power


class NoMethod:
    pass
'''


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution `brightest` with a module; its entry points are written by the test."""
    (tmp_path / "brightest_plugin.py").write_text(MODULE)
    info = tmp_path / "brightest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brightest\nVersion: 1.0\n")
    entry_points(info, "brightest_plugin:Brightest")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield info
    sys.modules.pop("brightest_plugin", None)


def entry_points(info: Path, value: str) -> None:
    (info / "entry_points.txt").write_text(f"[hired_eval.methods]\nbrightest = {value}\n")


def test_by_name_and_by_target(distribution: Path) -> None:
    assert "brightest" in available_methods()
    by_name = build("brightest", budget=0.3, power=1.0)
    by_target = instantiate({"_target_": "brightest_plugin.Brightest", "budget": 0.3, "power": 1.0})
    assert by_name == by_target
    check_dropper(by_name)
    model, processor = tiny.llava_next()
    inputs = processor(images=tiny.picture(112, 112), text="a<image>b", return_tensors="pt")
    with by_name(model):
        answer = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 2


def test_options_are_checked_by_name(distribution: Path) -> None:
    with pytest.raises(UserError, match=r"method brightest has no option 'alpha'; its options: .*power"):
        build("brightest", alpha=0.5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("brightest_plugin:NoMethod", "not a subclass of TokenDropper"),
        ("brightest_plugin:Missing", "method brightest of brightest_plugin:Missing cannot be loaded"),
        ("no_such_module:Brightest", "cannot be loaded: No module named 'no_such_module'"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(distribution: Path, value: str, message: str) -> None:
    entry_points(distribution, value)
    with pytest.raises(UserError, match=message):
        build("brightest")
