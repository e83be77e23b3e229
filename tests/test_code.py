"""The code that a result depends on: what a method reaches counts; comments and other methods do not."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hired_eval.code import find_code_reached
from hired_eval.runs.plan import plan_run
from tests.spine import run_config

REPOSITORY = Path(__file__).parents[1]
COMMENT = "\n# a comment\n"
METHOD = '''
"""A method of somebody else's."""
from dataclasses import dataclass
from hired_eval.dropping import SelectingDropper
{imports}

@dataclass(frozen=True, kw_only=True)
class Brightest(SelectingDropper):
    weights: str = "none"
    """Weights of the score."""

    def score(self, encoding, layout):
        """Scores."""
        {inside}
        return encoding.features.norm(dim=-1) ** POWER
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the work is done, with modules of one's own in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget_modules()
    return tmp_path


def forget_modules() -> None:
    """As in a process that has just started."""
    for module in [m for m in sys.modules if m.startswith("own_")]:
        del sys.modules[module]
    importlib.invalidate_caches()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def method(imports: str = "POWER = 1", inside: str = "") -> str:
    return METHOD.format(imports=imports, inside=inside)


def name_of_run(target: str, *overrides: str) -> str:
    """The run's name in a process that has just started."""
    forget_modules()
    options = ["method=full", f"method._target_={target}", "method.newline=none", "+method.budget=0.2"]
    return plan_run(run_config(*options, *overrides)).folder.path.name


LAYOUTS: dict[str, tuple[str, dict[str, str], str]] = {
    "a module beside the method's": (
        "own_method.Brightest",
        {"own_method.py": method("from own_helper import POWER"), "own_helper.py": "POWER = 1"},
        "own_helper.py",
    ),
    "what that module imports": (
        "own_method.Brightest",
        {
            "own_method.py": method("import own_helper\nPOWER = own_helper.POWER"),
            "own_helper.py": "from own_deep import POWER",
            "own_deep.py": "POWER = 1",
        },
        "own_deep.py",
    ),
    "imported inside a function": (
        "own_method.Brightest",
        {"own_method.py": method("", "from own_helper import POWER"), "own_helper.py": "POWER = 1"},
        "own_helper.py",
    ),
    "imported by a name in a string": (
        "own_method.Brightest",
        {
            "own_method.py": method(
                "import importlib\nPOWER = importlib.import_module('own_helper').POWER"
            ),
            "own_helper.py": "POWER = 1",
        },
        "own_helper.py",
    ),
    "imported by a computed name, in a package": (
        "own_package.method.Brightest",
        {
            "own_package/__init__.py": "",
            "own_package/method.py": method(
                "import importlib", "POWER = importlib.import_module(f'own_package.{self.weights}').POWER"
            ),
            "own_package/none.py": "POWER = 1",
        },
        "own_package/none.py",
    ),
    "a module of the same package": (
        "own_package.method.Brightest",
        {
            "own_package/__init__.py": "",
            "own_package/method.py": method("from . import helper\nPOWER = helper.POWER"),
            "own_package/helper.py": "POWER = 1",
        },
        "own_package/helper.py",
    ),
    "the package itself": (
        "own_package.method.Brightest",
        {
            "own_package/__init__.py": "POWER = 1",
            "own_package/method.py": method("from . import POWER"),
        },
        "own_package/__init__.py",
    ),
    "a folder without __init__.py": (
        "own_space.inner.method.Brightest",
        {
            "own_space/inner/method.py": method("from ..helper import POWER"),
            "own_space/helper.py": "POWER = 1",
        },
        "own_space/helper.py",
    ),
    "a method passed on by its package": (
        "own_package.Brightest",
        {
            "own_package/__init__.py": "from own_package.method import Brightest",
            "own_package/method.py": method(),
        },
        "own_package/method.py",
    ),
    "a base class elsewhere": (
        "own_child.Child",
        {
            "own_method.py": method(),
            "own_child.py": "from own_method import Brightest\nclass Child(Brightest):\n    pass",
        },
        "own_method.py",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_code_that_a_method_of_somebody_else_s_reaches_is_part_of_its_runs(folder: Path, layout: str) -> None:
    target, files, reached = LAYOUTS[layout]
    write(folder, files | {"own_other.py": "POWER = 1"})
    before = name_of_run(target)
    for file in [*files, "own_other.py"]:
        (folder / file).write_text((folder / file).read_text() + COMMENT)
    (folder / "own_other.py").write_text("POWER = 2")
    assert name_of_run(target) == before, "comments, and a module that is not reached"
    (folder / reached).write_text((folder / reached).read_text() + "\nPOWER = 2\n")
    assert name_of_run(target) != before


def test_prose_and_formatting_are_not_part_of_a_run(folder: Path) -> None:
    write(folder, {"own_method.py": method()})
    before = name_of_run("own_method.Brightest")
    changed = method().replace("Weights of the score", "Other words").replace('"""Scores."""', "")
    changed = changed.replace("(dim=-1)", "(\n            dim=-1,  # channels\n        )").replace(
        '"none"', "'none'"
    )
    write(folder, {"own_method.py": changed})
    assert name_of_run("own_method.Brightest") == before
    write(folder, {"own_method.py": changed.replace("dim=-1,", "dim=-1, p=1,")})
    assert name_of_run("own_method.Brightest") != before


def test_a_file_that_an_option_names_counts_by_its_content(folder: Path) -> None:
    write(folder, {"own_method.py": method(), "a/weights.txt": "1", "b/moved.txt": "1", "c/other.txt": "2"})

    def with_weights(place: str) -> str:
        return name_of_run("own_method.Brightest", f"+method.weights={place}")

    first = with_weights("a/weights.txt")
    assert with_weights("./a/weights.txt") == with_weights(f"{folder}/b/moved.txt") == first
    assert with_weights("c/other.txt") != first
    write(folder, {"a/weights.txt": "3"})
    assert with_weights("a/weights.txt") != first
    in_folder = with_weights("b")
    write(folder, {"b/moved.txt": "4"})
    assert with_weights("b") not in (first, in_folder)


READS_FILE = method("POWER = float(open('power.txt').read())")
READS_BESIDE = method(
    "from pathlib import Path\nHERE = Path(__file__).parent\n"
    "POWER = float((HERE / 'data' / 'power.txt').read_text())"
)
PACKAGE = {"own_package/__init__.py": "", "own_package/own_method.py": method()}


@pytest.mark.parametrize(
    ("files", "data", "counts"),
    [
        ({"own_method.py": READS_FILE}, "power.txt", True),
        ({"own_method.py": READS_BESIDE}, "data/power.txt", True),
        ({"own_method.py": method()}, "power.txt", False),
        (PACKAGE, "own_package/data/1.txt", True),
        (PACKAGE, "own_package/notes.md", False),
    ],
)
def test_data_beside_a_method_counts_where_it_can_be_known(
    folder: Path, files: dict[str, str], data: str, counts: bool
) -> None:
    target = "own_package.own_method.Brightest" if files is PACKAGE else "own_method.Brightest"
    write(folder, files | {data: "1"})
    before = name_of_run(target)
    write(folder, {data: "2"})
    assert (name_of_run(target) != before) == counts


@pytest.mark.parametrize(
    ("statement", "reached"),
    [
        ("from hired_eval import HiRED", {"hired"}),
        ("from hired_eval.dropping import HiRED, VisionZip", {"hired", "visionzip"}),
        ("import hired_eval", {"hired", "visionzip", "divprune"}),
        ("import hired_eval.dropping as d", {"hired", "visionzip", "divprune"}),
        ("from hired_eval.dropping import *", {"hired", "visionzip", "divprune"}),
        ("from hired_eval.dropping import KeptTokens", set()),
    ],
)
def test_a_method_of_this_package_counts_for_one_that_imports_it(
    folder: Path, statement: str, reached: set[str]
) -> None:
    write(folder, {"own_method.py": statement + "\n"})
    found = find_code_reached(["own_method"])
    assert {m for m in ("hired", "visionzip", "divprune") if f"hired_eval.dropping.{m}" in found} == reached


def test_the_version_of_what_is_installed_counts_for_a_method_that_uses_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scipy

    write(folder, {"own_method.py": method("", "import scipy.stats")})
    found = find_code_reached(["own_method"])
    assert found["library scipy"] == scipy.__version__
    assert not any(name.startswith("scipy") for name in found)


EDITS: list[tuple[str, str, dict[str, bool]]] = [
    # file of this package, text put behind it, method -> whether its runs are others
    ("dropping/visionzip.py", COMMENT, {"hired": False, "visionzip": False}),
    ("dropping/visionzip.py", "\nX = 1\n", {"hired": False, "visionzip": True}),
    ("dropping/hired.py", "\nX = 1\n", {"hired": True, "visionzip": False}),
    ("dropping/selection.py", "\nX = 1\n", {"hired": True, "even_split": True, "full": False}),
    ("dropping/even_split.py", "\nX = 1\n", {"fastervlm": True, "hired": False}),
    ("dropping/base.py", "\nX = 1\n", {"hired": True, "full": True}),
    ("dropping/base.py", '\n"""Words."""\n' + COMMENT, {"hired": False, "full": False}),
    ("dropping/registry.py", "\nX = 1\n", {"hired": False}),
    ("method_configs.py", "\nX = 1\n", {"hired": False}),
    ("models/family.py", "\nX = 1\n", {"hired": True, "full": True}),
    ("models/family.py", COMMENT, {"hired": False}),
    ("lmms/model.py", "\nX = 1\n", {"hired": True}),
    ("records/statistics.py", "\nX = 1\n", {"hired": True}),
    ("reporting/figures.py", "\nX = 1\n", {"hired": False}),
    ("runs/efficiency/measure.py", "\nX = 1\n", {"hired": False}),
    ("cli/help.py", "\nX = 1\n", {"hired": False}),
]
CHILD = """
import json, sys
from pathlib import Path
from hired_eval.code import PACKAGE, find_code_reached
from hired_eval.method_configs import method_configs
assert PACKAGE == Path("src/hired_eval").resolve()
answers = []
for file, text, methods in json.load(sys.stdin):
    def reached():
        configs = method_configs()
        return {m: find_code_reached(["hired_eval.runs.accuracy", configs[m].module]) for m in methods}
    before, place = reached(), PACKAGE / file
    content = place.read_text()
    place.write_text(content + text)
    answers.append({m: code != before[m] for m, code in reached().items()})
    place.write_text(content)
print(json.dumps(answers))
"""


def test_a_run_depends_on_the_code_that_its_method_reaches_and_on_no_other(tmp_path: Path) -> None:
    for file in (*REPOSITORY.glob("hired_eval/**/*.py"), *REPOSITORY.glob("configs/method/*.yaml")):
        copy = tmp_path / "src" / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(EDITS), cwd=tmp_path, env={**os.environ, "PYTHONPATH": "src"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    answers = json.loads(done.stdout)
    assert [(file, text, found) for (file, text, _), found in zip(EDITS, answers, strict=True)] == EDITS


def test_each_measurement_counts_its_own_code() -> None:
    def of(room: str) -> set[str]:
        return set(find_code_reached([f"hired_eval.runs.{room}", "hired_eval.dropping.full"]))

    assert "hired_eval.runs.efficiency.measure" in of("efficiency")
    assert "hired_eval.lmms.model" not in of("efficiency")
    assert "hired_eval.runs.probes" in of("probes")
    assert "hired_eval.lmms.scorers" in of("probes"), "a gallery says which answers are right"
    assert not {"hired_eval.runs.accuracy", "hired_eval.lmms.model"} & of("probes")
