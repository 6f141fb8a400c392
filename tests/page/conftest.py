"""A running API, as for its own tests, and people at its page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.api.conftest import Api, api
from tests.page.visitor import Visitor

__all__ = ["api"]


@pytest.fixture
def stranger(api: Api) -> Iterator[Visitor]:
    """Who has not signed in."""
    with Visitor(api) as visitor:
        yield visitor


@pytest.fixture
def anna(api: Api) -> Iterator[Visitor]:
    """Who has."""
    with closing(Visitor(api, "anna")) as visitor:
        yield visitor
