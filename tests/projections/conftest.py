"""Async tests run on asyncio, through anyio's plugin (anyio comes with httpx)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bichat.projections.reads import Reads


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def reads(database_url: str) -> AsyncIterator[Reads]:
    reads = Reads(database_url, size=2)
    await reads.open()
    yield reads
    await reads.close()
