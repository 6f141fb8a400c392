"""Clients that go away at any moment take nothing with them that others need."""

from __future__ import annotations

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.conftest import Api
from tests.api.talk import ask
from tests.api.tokens import token


def drop(url: str, path: str, after: float) -> None:
    """Asks for a stream and leaves `after` seconds later without a word."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as client:
        lines = (f"GET {path} HTTP/1.1", "Host: bichat", f"Authorization: Bearer {token('anna')}", "", "")
        client.sendall("\r\n".join(lines).encode())
        time.sleep(after)


@pytest.mark.timeout(120)
def test_streams_dropped_at_any_moment_leave_every_connection_in_its_pool(
    api: Api, anna: httpx.Client
) -> None:
    path = f"/v1/dialogues/{ask(anna)[0]}/stream"
    rand = random.Random(7)
    with ThreadPoolExecutor(100) as crowd:
        for _ in range(6):
            list(
                crowd.map(lambda after: drop(api.url, path, after), [rand.random() * 0.2 for _ in range(150)])
            )
    lost = 99
    deadline = time.monotonic() + 10
    while lost and time.monotonic() < deadline:
        time.sleep(0.2)
        stats = api.reads._primary._pool.get_stats()
        lost = stats.get("pool_size", 0) - stats.get("pool_available", 0)
    assert lost == 0
    assert anna.get("/v1/dialogues").status_code == 200
