"""Who has the processors while a line is measured: where all are taken, that is why it is not faster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

import psutil
import psycopg

from bench.stack import Stack


class Busy:
    """A `with` block: `shares` are then processor seconds per second, by process and of all Postgres."""

    def __init__(self, database_url: str, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        with psycopg.connect(database_url) as connection:
            self._server = psutil.Process(connection.info.backend_pid).parent()
        self.shares: dict[str, float] = {}

    @classmethod
    def of(cls, bichat: Stack) -> Busy:
        """By its parts."""
        pids = {name.split()[0]: process.pid for name, process in bichat.processes.items()}
        return cls(bichat.database_url, pids)

    def __enter__(self) -> Busy:
        self._before, self._began = self._seconds(), time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        took, spent = time.monotonic() - self._began, self._seconds()
        self.shares = {part: (spent[part] - self._before[part]) / took for part in spent}

    def told(self, **others: float) -> str:
        """In a line; `others` are shares that somebody else has counted."""
        all_of_them = {**self.shares, **others}
        parts = ", ".join(f"{part} {share:.2f}" for part, share in all_of_them.items())
        return f"busy of {psutil.cpu_count()} cores: {sum(all_of_them.values()):.2f} ({parts})"

    def _seconds(self) -> dict[str, float]:
        backends = self._server.children() if self._server else []
        return {
            **{name: _spent(process) for name, process in self._processes.items()},
            "postgres": sum(map(_spent, backends)),
        }


def _spent(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
