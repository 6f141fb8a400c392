"""A program on a terminal of its own, and somebody who reads there and types."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

PATIENCE = 30
"""Seconds that a program may take to say what is waited for."""


class Terminal:
    """What stands on it, and the program's end."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.said = b""
        self._heard = 0
        """How much of it was waited for."""
        self._process = process
        self._keyboard = keyboard

    def types(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def hears(self, pattern: bytes, key: bytes = b"") -> None:
        """Reads on until what is new matches; presses `key` for it, again when nothing comes, as people do.

        One that comes before a program waits for it may be thrown away.
        """
        wanted, deadline = re.compile(pattern, re.DOTALL), time.monotonic() + PATIENCE
        if not wanted.search(self.said, self._heard):
            self.types(key)
        while not (found := wanted.search(self.said, self._heard)):
            assert time.monotonic() < deadline, f"{pattern!r} was not said: {self.said[-500:]!r}"
            if not self._reads():
                self.types(key)
        self._heard = found.end()

    def leaves(self, key: bytes) -> int:
        """The exit status, after `key`."""
        deadline = time.monotonic() + PATIENCE
        self.types(key)
        with suppress(OSError):  # the end of what is said: nobody has the terminal any more
            while time.monotonic() < deadline:
                if not self._reads():
                    self.types(key)
        return self._process.wait(PATIENCE)

    def _reads(self) -> bool:
        """Whether something came within a second."""
        if not select.select([self._keyboard], [], [], 1)[0]:
            return False
        self.said += os.read(self._keyboard, 65_536)
        return True


@contextmanager
def on_terminal(argv: Sequence[str], env: dict[str, str] | None = None) -> Iterator[Terminal]:
    """Starts a program that has this terminal for its own; it does not outlive the block."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)
