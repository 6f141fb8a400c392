"""A light HTTP client that hears streams piece by piece: so that what is measured is the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import httptools

EVENT_STREAM = {"Accept": "text/event-stream"}


class Listener(asyncio.Protocol):
    """One connection, kept for any number of requests, one after another."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """`headers` go with every request."""
        at = urlsplit(url)
        self._host, self._port, self._path = at.hostname or "", at.port or 80, at.path
        told = {"Host": at.netloc, "Content-Type": "application/json", **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        self._transport: asyncio.WriteTransport | None = None
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def post(self, path: str, data: object) -> AsyncIterator[bytes]:
        """The pieces of the answer's body as they come; raises `RuntimeError` when it is not a good one."""
        if self._transport is None:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_connection(lambda: self, self._host, self._port)
            self._parser = httptools.HttpResponseParser(self)
        body = json.dumps(data).encode()
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        while (piece := await self._pieces.get()) is not None:
            if self._parser.get_status_code() >= 300:
                raise RuntimeError(f"{self._parser.get_status_code()}: {piece[:300]!r}")
            yield piece

    def close(self) -> None:
        """Ends the connection."""
        if self._transport:
            self._transport.abort()

    # --- what comes in ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._pieces.put_nowait(body)

    def on_message_complete(self) -> None:
        self._pieces.put_nowait(None)
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pieces.put_nowait(None)
