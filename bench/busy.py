"""Processor seconds by part while a line is measured, its warm-up included, and of the whole machine."""

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
        return cls(bichat.database_url, {name: process.pid for name, process in bichat.processes.items()})

    def __enter__(self) -> Busy:
        self._before, self._began = self._seconds(), time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        took, spent = time.monotonic() - self._began, self._seconds()
        self.shares = {part: (spent[part] - self._before[part]) / took for part in spent}

    def told(self) -> str:
        """In a line."""
        parts = dict(self.shares)
        whole = parts.pop("all")
        parts["others"] = whole - sum(parts.values())
        told = ", ".join(f"{part} {share:.2f}" for part, share in parts.items())
        return f"busy {whole:.2f} of {psutil.cpu_count()} cores: {told}"

    def _seconds(self) -> dict[str, float]:
        machine = psutil.cpu_times()
        server = [_spent(one) for one in (self._server, *self._server.children())] if self._server else []
        return {
            "all": sum(machine[:8]) - machine.idle - machine.iowait,  # guests are counted among users
            **{name: _spent(process) for name, process in self._processes.items()},
            "postgres": sum(server) + (_ended(self._server) if self._server else 0.0),
        }


def _spent(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _ended(server: psutil.Process) -> float:
    """Of the sessions that were there and are no more."""
    times = server.cpu_times()
    return float(times.children_user + times.children_system)
