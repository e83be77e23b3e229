"""What makes two runs the same: the weights, and the code of a method, also of one in another package."""

import sys
from pathlib import Path

import pytest

from hired_eval import HiRED, hub
from hired_eval.identity import READ_WHOLE, fingerprint, run_identity, run_name
from hired_eval.local_data import DataSource
from hired_eval.runs import planned
from tests.spine import config

MODEL_CACHE = "models--llava-hf--llava-v1.6-vicuna-7b-hf"
DOCVQA_CACHE = "datasets--lmms-lab-encoder--DocVQA"
METHOD = """
from dataclasses import dataclass
from hired_eval.dropping import SelectingDropper
from outside_methods.helper import POWER

@dataclass(frozen=True, kw_only=True)
class Brightest(SelectingDropper):
    def score(self, encoding, layout):
        return encoding.features.norm(dim=-1) ** POWER
"""
CHILD = """
from outside_methods.brightest import Brightest

class Child(Brightest):
    pass
"""


def name_of_run(target: str) -> str:
    """The run's name in a process that has just started."""
    for name in [m for m in sys.modules if m.startswith("outside_")]:
        del sys.modules[name]
    options = ["method=full", f"method._target_={target}", "method.newline=none", "+method.budget=0.2"]
    return planned(config(*options)).folder.path.name


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "outside_methods"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "brightest.py").write_text(METHOD)
    (folder / "helper.py").write_text("POWER = 1")
    (tmp_path / "outside_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return folder


@pytest.mark.parametrize(
    ("target", "file", "counts"),
    [
        ("outside_methods.brightest.Brightest", "brightest.py", True),
        ("outside_methods.brightest.Brightest", "helper.py", True),
        ("outside_methods.brightest.Brightest", "../outside_child.py", False),
        ("outside_child.Child", "../outside_child.py", True),
        ("outside_child.Child", "helper.py", True),
        ("hired_eval.dropping.Random", "helper.py", False),
    ],
)
def test_changed_code_of_a_plugin_s_method_is_another_run(
    package: Path, target: str, file: str, counts: bool
) -> None:
    before = name_of_run(target)
    assert name_of_run(target) == before
    with (package / file).open("a") as stream:
        stream.write("\n# changed\n")
    assert (name_of_run(target) != before) == counts


@pytest.mark.parametrize("size", [3 << 20, 70 << 20])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.999])
def test_weights_trained_in_any_part_are_other_weights(tmp_path: Path, size: int, place: float) -> None:
    """Also where the last part of the file, often a frozen vision tower, stays as it was."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(size))
    before = fingerprint(tmp_path, "*")
    changed = min(size - 4096, int(place * size))
    with file.open("r+b") as stream:
        stream.seek(changed)
        stream.write(b"1" * min(17 << 20 if size > READ_WHOLE else 4096, size - changed))
    assert fingerprint(tmp_path, "*") != before


def test_a_new_commit_on_the_hub_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub cannot be reached, the commit is the one that was fetched last."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "unreachable", lambda: "the test has no hub")
    names = []
    for weights, documents in (("a1", "b1"), ("a1", "b2"), ("a2", "b2")):
        for kind, known in ((MODEL_CACHE, weights), (DOCVQA_CACHE, documents)):
            (tmp_path / kind / "refs").mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / "refs" / "main").write_text(known)
        hub.commit.cache_clear()
        settings = config("model=llava_next_7b", "data=hub")
        identity = run_identity(settings, settings["model"]["hub_id"], DataSource("hub"), HiRED)
        assert (identity["checkpoint"], identity["documents"]) == (weights, documents)
        names.append(run_name(settings, identity))
    hub.commit.cache_clear()
    assert len(set(names)) == 3


def test_a_checkpoint_s_card_is_not_part_of_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint(tmp_path, "*")
    (tmp_path / "README.md").write_text("# A card")
    assert fingerprint(tmp_path, "*") == before
