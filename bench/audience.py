"""Those who follow streams, as a process of their own: light, so that what is measured is the server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import uvloop
from msgspec import Struct

AT_ONCE = 32
"""Streams that are opened at a time."""
PATIENCE = 30.0
"""Seconds until a stream has to have begun."""
_SAID = re.compile(rb'"text":"(\d+) (\d+) ')
"""A word of `bench.streams`: its number, and the nanosecond in which it was said."""


class Seat(Struct, frozen=True):
    """One stream: where it is, and who follows it."""

    path: str
    headers: Mapping[str, str]


class Heard(Struct):
    """What all of them heard since the last time."""

    words: int = 0
    out_of_order: int = 0
    delays: list[int] = []
    """Nanoseconds from being said to being read here."""


class Follower(asyncio.Protocol):
    """One open stream."""

    def __init__(self, seat: Seat, host: str, heard: Heard) -> None:
        self._seat, self._host, self._heard = seat, host, heard
        self.begun = asyncio.get_running_loop().create_future()
        self._rest, self._last = b"", 0
        self._transport: asyncio.WriteTransport | None = None

    def ask(self, transport: asyncio.WriteTransport) -> None:
        """For the stream."""
        self._transport = transport
        lines = [f"GET {self._seat.path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in self._seat.headers.items()]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        now, heard = time.monotonic_ns(), self._heard
        data = self._rest + data
        end = data.rfind(b"\n\n") + 1
        self._rest = data[end:]
        for number, said in _SAID.findall(data, 0, end):
            heard.words += 1
            heard.delays.append(now - int(said))
            heard.out_of_order += int(number) != self._last + 1
            self._last = int(number)
        if not self.begun.done() and b"event: reply.started" in data:
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(ConnectionError(f"{self._rest[:300]!r}"))

    def close(self) -> None:
        """Leaves."""
        if self._transport:
            self._transport.abort()


def attend(url: str, pipe: Connection) -> None:
    """Takes the seats that come through the pipe, and says what was heard since; ends at None."""
    uvloop.run(_attend(urlsplit(url).netloc, pipe))


async def _attend(netloc: str, pipe: Connection) -> None:
    heard, followers = Heard(), list[Follower]()
    host, _, port = netloc.partition(":")
    room = asyncio.Semaphore(AT_ONCE)

    async def take(seat: Seat) -> None:
        async with room, asyncio.timeout(PATIENCE):
            loop = asyncio.get_running_loop()
            transport, follower = await loop.create_connection(
                lambda: Follower(seat, netloc, heard), host, int(port)
            )
            followers.append(follower)
            follower.ask(transport)
            await follower.begun

    while (asked := await asyncio.to_thread(pipe.recv)) is not None:
        await asyncio.gather(*map(take, asked))
        pipe.send(heard)
        heard.words, heard.out_of_order, heard.delays = 0, 0, []
    for follower in followers:
        follower.close()
