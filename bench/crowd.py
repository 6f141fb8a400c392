"""Many connections that post and wait for the answer: a process of its own, and a light one.

`python -m bench.crowd` reads a `Crowd` from stdin and writes what it was `Told` to stdout. It is httptools on
uvloop, about 30 µs a request, because a client that costs more than the server would be what is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import httptools
import msgspec
import uvloop
from msgspec import Struct, field

QUESTION = "In week {} of {}, which region sold most of the new line, and by how much did it beat the others?"


class Target(Struct, frozen=True):
    """Where some of them post, and what else they say in the head."""

    path: str
    headers: dict[str, str] = {}


class Crowd(Struct, frozen=True):
    """Who posts what, where, how fast and how long."""

    port: int
    targets: list[Target]
    """Taken in turn."""
    seconds: float
    warm_up: float = 1.0
    """Seconds before the first answer that counts."""
    connections: int = 64
    rate: float = 0.0
    """Posts a second of all together, if they can; 0: each posts again as soon as it is answered."""
    once: bool = False
    """Whether each post has an Idempotency-Key of its own."""


class Told(Struct, frozen=True):
    """What became of the posts that count."""

    accepted: int
    refused: dict[str, int]
    """By status, or what went wrong with the connection."""
    since: float
    """When the first that counts were answered, by the machine's monotonic clock."""
    seconds: float
    milliseconds: list[float]
    """From the post to the answer: the 50th and the 99th of a hundred."""
    busy: float
    """Share of a core that the crowd itself took."""

    @property
    def rate(self) -> float:
        """Accepted posts a second."""
        return self.accepted / self.seconds


class _Tally(Struct):
    since: float
    until: float
    took: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0


class _Connection(asyncio.Protocol):
    """Posts, reads the answer, posts again; at its pace if it has one."""

    def __init__(self, posts: Iterator[bytes], tally: _Tally, pace: float, first: float) -> None:
        self._posts, self._tally, self._pace, self._due = posts, tally, pace, first
        self._loop = asyncio.get_running_loop()
        self._answer = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self.over = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer.feed_data(data)

    def on_message_complete(self) -> None:
        now, status, tally = time.monotonic(), self._answer.get_status_code(), self._tally
        if tally.since <= now < tally.until:
            if status in (201, 202):
                tally.took.append(now - self._sent)
            else:
                tally.refused[str(status)] += 1
        if now >= tally.until:
            self._transport.close()
        else:
            self._answer = httptools.HttpResponseParser(self)
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if time.monotonic() < self._tally.until:
            self._tally.refused[type(error).__name__ if error else "closed"] += 1
        if not self.over.done():
            self.over.set_result(None)

    def _next(self) -> None:
        if self._pace:
            self._due = max(self._due + self._pace, time.monotonic())
            self._loop.call_at(self._due, self._post)
        else:
            self._post()

    def _post(self) -> None:
        self._sent = time.monotonic()
        self._transport.write(next(self._posts))


def _posts(crowd: Crowd) -> Iterator[bytes]:
    """Whole requests, each of other words."""
    mine = secrets.token_hex(4)
    heads = [
        f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
        for target in crowd.targets
    ]
    for number, head in enumerate(itertools.cycle(heads)):
        key = f"Idempotency-Key: {mine}-{number}\r\n" if crowd.once else ""
        body = f'{{"content": "{QUESTION.format(number, mine)}"}}'
        yield f"{head}{key}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def _run(crowd: Crowd) -> _Tally:
    loop, started = asyncio.get_running_loop(), time.monotonic()
    tally = _Tally(started + crowd.warm_up, started + crowd.warm_up + crowd.seconds)
    posts, pace = _posts(crowd), crowd.connections / crowd.rate if crowd.rate else 0.0
    everybody = []
    for n in range(crowd.connections):
        first = started + pace * (n / crowd.connections - 1)
        person = partial(_Connection, posts, tally, pace, first)
        _, one = await loop.create_connection(person, "127.0.0.1", crowd.port)
        everybody.append(one.over)
    await asyncio.sleep(max(0.0, tally.since - time.monotonic()))
    spent = time.process_time()
    await asyncio.sleep(max(0.0, tally.until - time.monotonic()))
    tally.busy = (time.process_time() - spent) / crowd.seconds
    await asyncio.wait(everybody, timeout=10)  # what was posted is answered
    return tally


def run(crowd: Crowd) -> Told:
    """Lets a crowd loose in a process of its own, and returns when it is done."""
    program = [sys.executable, "-m", "bench.crowd"]
    limit = crowd.warm_up + crowd.seconds + 30
    made = subprocess.run(
        program, input=msgspec.json.encode(crowd), stdout=subprocess.PIPE, timeout=limit, check=True
    )
    return msgspec.json.decode(made.stdout, type=Told)


def main() -> None:
    crowd = msgspec.json.decode(sys.stdin.buffer.read(), type=Crowd)
    tally = uvloop.run(_run(crowd))
    took = sorted(tally.took)
    at = [1000 * took[len(took) * share // 100] if took else 0.0 for share in (50, 99)]
    told = Told(len(took), dict(tally.refused), tally.since, crowd.seconds, at, tally.busy)
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
