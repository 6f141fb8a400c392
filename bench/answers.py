"""An API process on its own, and how long it takes to answer: nothing is projected or replied meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx

from bench.place import NO_MODEL, Place
from bench.stack import Stack, stack

TIMES, PATIENCE = 40, 30.0


class Answers:
    """Asks as one person, one request after the other."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, **given: str | int) -> httpx.Response:
        """What is answered with 200."""
        return self._client.get(path, params=given).raise_for_status()

    def median(self, path: str, **given: str | int) -> float:
        """Milliseconds until the last byte is here."""
        took = []
        for _ in range(TIMES):
            began = time.perf_counter()
            self.get(path, **given)
            took.append(1000 * (time.perf_counter() - began))
        return statistics.median(took[TIMES // 4 :])


@contextmanager
def answers(place: Place, url: str, user: str, tenant: UUID, **claims: object) -> Iterator[Answers]:
    """The API on this database, and who asks it."""
    with stack(url, place.redis_url, NO_MODEL, place.scratch / "api") as bichat:
        bichat.start("api", "api")
        headers = bichat.headers(user, tenant, **claims)
        with httpx.Client(base_url=bichat.url, headers=headers, timeout=PATIENCE) as client:
            _wait(client, bichat)
            yield Answers(client)


def _wait(client: httpx.Client, bichat: Stack) -> None:
    deadline = time.monotonic() + PATIENCE
    while bichat.processes["api"].poll() is None and time.monotonic() < deadline:
        try:
            if client.get("/health/live").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError((bichat.logs / "api.log").read_text()[-2000:])
