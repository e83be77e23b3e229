"""Fixtures that several test files share."""

from typing import Any

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def llava_next() -> tuple[Any, Any]:
    return tiny.llava_next()


@pytest.fixture(scope="session")
def llava() -> tuple[Any, Any]:
    return tiny.llava()
