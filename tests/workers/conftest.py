"""What workers run on in tests: a world of its own for each, and one doorbell for a file's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llmock.pytest_plugin import LLMock

from bichat.doorbell import Doorbell
from tests.workers.world import World, world


@pytest.fixture(scope="module")
def doorbell(redis_url: str) -> Iterator[Doorbell]:
    """Takes a second to close."""
    doorbell = Doorbell(redis_url)
    yield doorbell
    doorbell.close()


@pytest.fixture
def settings() -> dict[str, object]:
    """A file's own, over those of every world."""
    return {}


@pytest.fixture
def live(
    database_url: str, redis_url: str, llmock: LLMock, doorbell: Doorbell, settings: dict[str, object]
) -> Iterator[World]:
    """With llmock as the model, and the settings of the file."""
    with world(database_url, redis_url, llmock.base_url(), doorbell, **settings) as alive:
        yield alive
