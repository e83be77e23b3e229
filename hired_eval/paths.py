"""Where the package's own files lie, in a checkout and when installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def config_folder() -> Path:
    """The Hydra configs: `configs/` of the checkout, or their copy in the installed package."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def published_folder() -> Path:
    """The paper's published numbers: `results/paper/` of the checkout, or their copy in the package."""
    installed = PACKAGE / "paper"
    return installed if installed.is_dir() else PACKAGE.parent / "results" / "paper"
