"""Whether the Hugging Face hub can be reached."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import datasets
from huggingface_hub import constants


@cache
def unreachable() -> str | None:
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


@contextmanager
def offline() -> Iterator[None]:
    """The hub libraries' offline mode: they look at their caches and do not try the hub for minutes."""
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
