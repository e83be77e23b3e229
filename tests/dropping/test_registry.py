"""A built-in method is its file and its config: nothing else in the package names it."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import hired_eval
from hired_eval import dropping
from hired_eval.dropping.registry import available_methods, build
from hired_eval.errors import UserError
from hired_eval.method_configs import ABOUT, MethodConfig, class_modules, method_configs
from hired_eval.paths import PACKAGE, config_folder
from hired_eval.reporting.rows import label_of
from hired_eval.runs.identity import target_of
from hired_eval.runs.options import build_dropper, read_config
from tests.spine import command_line, config, run_quietly

METHODS = list(method_configs().values())
PRESET = {"spatial_sampling": {"mode": "sampling"}}
"""Options of a config that are not its class's defaults: a name for a choice of them."""
ELSEWHERE = {("lmms/scorers.py", "Random"): "Python's own random.Random"}
METHOD = '''
"""Brightest: a method for a test."""

from dataclasses import dataclass

from hired_eval.dropping.selection import SelectingDropper


@dataclass(frozen=True, kw_only=True)
class Brightest(SelectingDropper):
    """Keep the tokens of highest norm."""

    power: float = 1.0

    def score(self, encoding, layout):
        return encoding.features.float().norm(dim=-1) ** self.power
'''
CONFIG = """\
# Tokens of highest norm
_target_: {module}.Brightest
label: Brightest first
budget: 0.2
power: 1.0
newline: none
spend_leftover: false
"""


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_is_importable_by_the_name_of_its_class(method: MethodConfig) -> None:
    kind = getattr(import_module(method.module), method.class_name)
    assert kind.__module__ == method.module
    assert getattr(hired_eval, method.class_name) is getattr(dropping, method.class_name) is kind
    assert method.class_name in dir(hired_eval)
    assert method.class_name in dir(dropping)
    assert target_of(kind) == f"hired_eval.dropping.{method.class_name}"
    assert available_methods()[method.name] is type(build(method.name)) is kind


def test_the_methods_are_the_configs() -> None:
    assert {m.name for m in METHODS} == {file.stem for file in (config_folder() / "method").glob("*.yaml")}
    assert available_methods().keys() == method_configs().keys()
    with pytest.raises(ImportError, match="FasterVLM"):
        from hired_eval.dropping import FasterVLM  # noqa: F401
    with pytest.raises(UserError, match="there is no method 'HiRED'; did you mean hired"):
        build("HiRED")


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_config_explains_itself_and_names_every_option_with_its_default(method: MethodConfig) -> None:
    file = config_folder() / "method" / f"{method.name}.yaml"
    keeps, source, *_ = file.read_text().splitlines()
    assert keeps.startswith("# ")
    assert source.startswith("# Source: ")
    content = yaml.safe_load(file.read_text())
    assert content["label"].strip()
    dropper = build(method.name)
    assert content.keys() - {*ABOUT} == vars(dropper).keys()
    assert dropper == type(dropper)(**PRESET.get(method.name, {}))
    assert dropper == build_dropper(read_config(config(f"method={method.name}")).method, None)


def test_methods_are_told_apart_by_their_labels_and_places() -> None:
    classes = {(m.label, m.class_name) for m in METHODS}
    assert len({label for label, _ in classes}) == len(classes), "one label for two classes"
    files = [config_folder() / "method" / f"{m.name}.yaml" for m in METHODS]
    places = [yaml.safe_load(file.read_text()).get("place") for file in files]
    assert len(set(places)) == len(places)


def names_in(tree: ast.Module) -> Iterator[str]:
    """What code may call a class by: names, attributes, imports, and whole strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ClassDef | ast.alias):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.rpartition(".")[2]


def test_no_other_file_names_the_class_of_a_method() -> None:
    own = {
        name: f"{module.removeprefix('hired_eval.').replace('.', '/')}.py"
        for name, module in class_modules().items()
    }
    files = {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
    }
    found = {
        (file, name) for file, tree in files.items() for name in names_in(tree) if own.get(name, file) != file
    }
    assert found == ELSEWHERE.keys()


def test_a_file_and_a_config_make_a_method(tmp_path: Path) -> None:
    """In a copy of the package as it is installed."""
    package = tmp_path / "hired_eval"
    shutil.copytree(PACKAGE, package)
    shutil.copytree(config_folder(), package / "configs", dirs_exist_ok=True)
    (package / "dropping" / "brightest.py").write_text(METHOD)
    (package / "configs" / "method" / "brightest.yaml").write_text(
        CONFIG.format(module="hired_eval.dropping.brightest")
    )

    def said(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "  brightest              Tokens of highest norm" in said("-m", "hired_eval", "method", "--help")
    code = (
        "import sys\nfrom hired_eval import Brightest\n"
        "from hired_eval.dropping.testing import check_dropper\n"
        "from hired_eval.dropping.registry import build\nassert build('brightest') == Brightest()\n"
        "from hired_eval.regression.chosen import read_set\n"
        "assert read_set('mini').methods['brightest'] == 'method=brightest budget=0.2'\n"
        "check_dropper(Brightest())\nfrom hired_eval.__main__ import main\nsys.exit(main())"
    )
    run = ["-c", code, "method=brightest", "budget=0.3", "method.power=2", "limit=2", "data=bundled"]
    assert "| Brightest first 30 %, power=2.0 |" in said(*run)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A method of the user's own in a folder of the user's own."""
    (tmp_path / "method").mkdir()
    (tmp_path / "own_brightest.py").write_text(METHOD)
    (tmp_path / "method" / "brightest.yaml").write_text(CONFIG.format(module="own_brightest"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("own_brightest", None)


def test_a_method_of_ones_own_is_shown_by_its_label(
    own: Path, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [f"--config-dir={own}", *tiny_run, "limit=1", f"runs_dir={own}/runs", "method=brightest"]
    assert command_line(monkeypatch, *run) == 0
    assert "| Brightest first 20 % |" in capsys.readouterr().out
    file = own / "method" / "brightest.yaml"
    file.write_text(file.read_text().replace("label: Brightest first\n", ""))
    assert command_line(monkeypatch, *run) == 0
    assert "this run is complete already" in capsys.readouterr().err, "a label is no part of the run"
    assert command_line(monkeypatch, *run, "rerun=true") == 0
    assert "| Brightest 20 % |" in capsys.readouterr().out


def test_two_names_of_one_method_are_one_run_with_the_name_it_had_first(
    tiny_run: list[str], tmp_path: Path
) -> None:
    run = [*tiny_run, "limit=1", f"runs_dir={tmp_path}"]
    first = run_quietly(*run, "method=fastervlm")
    assert label_of(first.record) == "FasterVLM 20 %"
    second = run_quietly(*run, "method=even_split")
    assert second.reused
    assert label_of(second.record) == "FasterVLM 20 %"


def test_what_a_config_says_for_tables_is_no_option() -> None:
    method = read_config(config("method=hired", "method.label=Mine")).method
    assert method.label == "Mine"
    assert not {"label", "place"} & method.options.keys()
    with pytest.raises(UserError, match=r"method\.label must be text, got 3"):
        read_config(config("method.label=3"))
