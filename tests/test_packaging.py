"""What an installed package must hold: the build configuration names it, and nothing ignores it."""

import importlib.metadata
import subprocess
import tomllib
from pathlib import Path

from hired_eval.mini import HASHES, checkpoint_path
from hired_eval.paths import PACKAGE, config_folder

ROOT = Path(__file__).parents[1]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]


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
        "hashes.json",
        *(f"checkpoint/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")),
    ]
    paths = [f"hired_eval/mini/{name}" for name in bundled]
    command = ["git", "-C", str(ROOT), "check-ignore", *paths]
    ignored = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ignored.stdout == ""


def test_the_entry_points_are_registered() -> None:
    (plugin,) = importlib.metadata.entry_points(group="lmms_eval.models", name="hired_llava")
    assert plugin.load().model_id == "hired_llava"
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="hired-eval")
    assert callable(script.load())
    assert (config_folder() / "config.yaml").is_file()
