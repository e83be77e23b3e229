"""Whether the Hugging Face hub can be reached."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import datasets
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # in its __all__, for users like this


@cache
def explain_unreachable() -> str | None:
    """Why the hub cannot be reached, or None where it can; asked once, without retries."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        return None  # it answered
    except OSError as error:
        return f"{constants.ENDPOINT} is unreachable: {getattr(error, 'reason', error)}"
    return None


@cache
def commit(repository: str, kind: Literal["model", "dataset"], revision: str | None = None) -> str | None:
    """The commit that a repository's revision is now; where the hub cannot be reached, when last fetched.

    None where that is not known either. Asked once, so that all runs of a sweep have the same.

    Args:
        repository: id on the hub.
        kind: of repository.
        revision: commit, tag or branch; None: the main branch.
    """
    if explain_unreachable() is None:
        try:
            return HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
        except (HfHubHTTPError, OSError, httpx.HTTPError):
            pass  # what cannot be asked for may have been fetched
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)
    reference = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    return reference.read_text().strip() if reference.is_file() else None


@contextmanager
def go_offline() -> Iterator[None]:
    """The hub libraries' offline mode: they look at their caches and do not try the hub for minutes."""
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
