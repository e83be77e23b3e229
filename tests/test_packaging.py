"""What an installed package must hold: the build configuration names it, and nothing ignores it."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from hired_eval.mini import HASHES, checkpoint_path
from hired_eval.paths import PACKAGE, config_folder

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = CONFIG["tool"]["hatch"]["build"]["targets"]


def test_a_wheel_holds_package_configs_and_bundled_data() -> None:
    wheel = BUILD["wheel"]
    assert wheel["packages"] == ["hired_eval"]
    assert wheel["force-include"]["configs"] == "hired_eval/configs"
    for target in wheel["force-include"]:
        assert (ROOT / target).exists()
    assert {HASHES.parent, checkpoint_path().parent} == {PACKAGE / "mini"}


def test_an_sdist_holds_what_a_wheel_is_made_of() -> None:
    included = BUILD["sdist"]["include"]
    assert {"hired_eval", *BUILD["wheel"]["force-include"]} <= set(included)
    for folder in included:
        assert (ROOT / folder).exists()


def test_git_ignores_none_of_the_bundled_files() -> None:
    """Hatch leaves out what git ignores."""
    bundled = [
        "../py.typed",
        "hashes.json",
        *(f"checkpoint/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")),
    ]
    paths = [f"hired_eval/mini/{name}" for name in bundled]
    command = ["git", "-C", str(ROOT), "check-ignore", *paths]
    ignored = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ignored.stdout == ""
    assert all((ROOT / path).is_file() for path in paths)


def test_the_entry_points_are_registered() -> None:
    (plugin,) = importlib.metadata.entry_points(group="lmms_eval.models", name="hired_llava")
    both, simple = plugin.load()
    assert (both.model_id, simple.model_id) == ("hired_vlm", "hired_llava")
    assert both.chat_class_path
    assert simple.chat_class_path is None
    assert both.simple_class_path == simple.simple_class_path
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="hired-eval")
    assert callable(script.load())
    assert (config_folder() / "config.yaml").is_file()


def test_the_version_is_the_same_everywhere() -> None:
    version = CONFIG["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ('[{"name": "a", "version": "1", "skip_reason": "not reached"}]', 1, "error: nothing was audited"),
        ('[{"name": "a", "version": "1", "vulns": [{"id": "V-1"}]}]', 1, "a 1: V-1\n1 of 1 packages audited"),
        ('[{"name": "a", "version": "1", "vulns": []}]', 0, "1 of 1 packages audited, 0 found"),
    ],
)
def test_an_audit_says_what_it_reached(tmp_path: Path, packages: str, status: int, said: str) -> None:
    """A stand-in for pip-audit, which asks a service on the network."""
    (tmp_path / "pip_audit.py").write_text(f"print('{{\"dependencies\": {packages}}}')")
    command = [sys.executable, str(ROOT / "scripts" / "audit.py")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
