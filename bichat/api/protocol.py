"""HTTP over one connection, as uvicorn speaks it, but no endless headers, and refusals like all others."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bichat.api.problems import PROBLEM_JSON, problem

LARGEST_HEAD = 65_536
"""Bytes of a request's first line and headers together; httptools itself takes any number."""


class _TooLarge(Exception):
    """More head than is read."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _heads = 0
    """Requests whose head has begun."""
    _in_head = False
    _size = 0
    """Of the head that is being read, as far as it has come in whole lines."""
    _pending = 0
    """Of a line that does not end."""

    def data_received(self, data: bytes) -> None:
        """Some more bytes, of whichever requests."""
        heads = self._heads
        super().data_received(data)
        if self._in_head and self._heads == heads:  # so all of it belongs to this head
            self._pending += len(data)
            if self._pending > LARGEST_HEAD and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._heads, self._in_head, self._size, self._pending = self._heads + 1, True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Some of the first line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What follows is the body."""
        self._in_head = False
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > LARGEST_HEAD:
            raise _TooLarge  # httptools gives up, and uvicorn refuses

    def send_400_response(self, msg: str) -> None:
        """Refuses what cannot be read on, and hangs up."""
        if max(self._size, self._pending) > LARGEST_HEAD:
            told = problem("HeadTooLarge", 431, f"The headers are larger than {LARGEST_HEAD} bytes together.")
        else:
            told = problem("Invalid", 400, "This is not HTTP.")
        headers = (*self.server_state.default_headers, (b"connection", b"close"))
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        kind = f"content-type: {PROBLEM_JSON}\r\ncontent-length: {len(told.content)}\r\n\r\n".encode()
        self.transport.write(b"".join([STATUS_LINE[told.status_code or 400], *lines, kind, told.content]))
        self.transport.close()
