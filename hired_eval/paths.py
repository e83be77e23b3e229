"""Where the package's own files lie, and the user's home folder in paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hired_eval.errors import UserError, first_line

PACKAGE = Path(__file__).parent


def config_folder() -> Path:
    """The Hydra configs: `configs/` of the checkout, or their copy in the installed package."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def published_folder(name: str = "paper") -> Path:
    """Published numbers: a folder of `results/` in the checkout, or its copy in the package.

    Args:
        name: paper, for those of the HiRED paper, or published, for those of others.
    """
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / "results" / name


def home_folder() -> Path | None:
    """The user's home folder; None where there is none, or one that says nothing: `/`, or a relative path."""
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return None
    return home if home.is_absolute() and home != Path(home.anchor) else None


def expand_home(path: str) -> str:
    """A path with `~` or `~user` in front written out; any other path as it is.

    Raises:
        UserError: nobody knows that home folder.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        if Path(path).exists():
            return path
        raise UserError(f"{path}: there is no such home folder here; write the path out") from error


def write_tilde(path: str) -> str:
    """A path below the home folder with `~` in its place; any other path as it is."""
    home = home_folder()
    if home is None or not Path(path).is_relative_to(home):
        return path
    return str("~" / Path(path).relative_to(home))


def hide_home(text: str) -> str:
    """A message with `~` for the home folder wherever a path in it begins with it."""
    home = home_folder()
    if home is None:
        return text
    return re.sub(rf"(?<![\w.~/-]){re.escape(str(home))}(?![\w-]|\.\w)", "~", text)


def read_yaml(file: Path, load: Callable[[str], Any] = yaml.safe_load) -> Mapping[str, Any]:
    """The keys of a config.

    Args:
        file: of the config.
        load: what makes keys and values of its text.

    Raises:
        UserError: it cannot be read, or has none.
    """
    try:
        content = load(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:
        # a scanner notices a key without its colon a line late
        late = isinstance(error, yaml.scanner.ScannerError) and error.context_mark
        mark = late or getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{file}{where} is not YAML ({said}); correct it") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} is no config: it holds no keys")
    return content
