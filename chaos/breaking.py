"""Kills parts of a running bichat and brings them back: processes of bichat, and its servers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import psycopg

from bench.stack import Stack
from bichat.embedded.part import Part
from chaos.world import World

VERBS = {"api": "api", "projector": "projector", "worker 0": "worker", "worker 1": "worker"}

_NAMES = {"worker": "bichat worker's life", "projector": "bichat-projector"}
_SESSION = "select from pg_stat_activity where application_name = %s and backend_start > %s"


class Breaking:
    """From the main thread alone: servers can only be started there."""

    def __init__(self, world: World, stack: Stack) -> None:
        self._world, self._stack = world, stack
        self._servers: dict[str, Part] = {"Postgres": world.postgres, "Redis": world.valkey}

    @property
    def parts(self) -> list[str]:
        """Everything that can be broken."""
        return [*VERBS, *self._servers]

    def kill(self, name: str) -> None:
        """kill -9; of a server either its first process or all of them at once, as when a machine stops."""
        if name in VERBS:
            self._stack.kill(name)
            return
        part = self._servers[name]
        assert part.pid is not None
        if self._world.rng.random() < 0.5:
            os.killpg(part.pid, signal.SIGKILL)
        else:
            os.kill(part.pid, signal.SIGKILL)
        part.stop(5)

    def terminate(self, name: str) -> tuple[int, float]:
        """SIGTERM to a process of bichat: its exit status, and the seconds that it took."""
        process, began = self._stack.processes[name], time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(30), time.monotonic() - began
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(), time.monotonic() - began

    def stop(self, name: str, with_signal: signal.Signals) -> None:
        """Asks a server to stop, in the way that this signal asks for, and waits until it has."""
        part = self._servers[name]
        part.stop_with, usual = with_signal, part.stop_with
        part.stop(20)
        part.stop_with = usual

    def back(self, name: str) -> float:
        """Starts it again; when it was there, by the monotonic clock.

        Servers and the api are there when they answer, workers and projectors when they are in the database.
        """
        if name in self._servers:
            self._servers[name].start()
            return time.monotonic()
        spawned = datetime.now(UTC)
        self._stack.start(name, VERBS[name])
        _until(self._answers if name == "api" else lambda: self._is_in(VERBS[name], spawned), name)
        return time.monotonic()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self._stack.url}/health/live", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def _is_in(self, verb: str, since: datetime) -> bool:
        with psycopg.connect(self._world.server) as connection:
            return connection.execute(_SESSION, (_NAMES[verb], since)).fetchone() is not None


def _until(there: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + 60
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} did not come back")
        time.sleep(0.02)
