"""What proof costs: appending and rebuilding with and without sealed text, and with a sealer beside; verify.

    python -m bench.sealing --server-url postgresql://…/postgres

Makes two databases, one whose text is stored as it is and one whose text is encrypted and committed to, fills
them in turn, rebuilds the read models of each, seals and verifies. Times are of this machine; the ratios are
what counts. Drops what it made.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import click
import psycopg
from tabulate import tabulate
from uuid_utils.compat import uuid7

from bench.writer import CALLERS, MASTER_KEY, ask, by
from bichat.audit import checking
from bichat.commands.dialogue import AddMessage, StartDialogue
from bichat.commands.execute import Executor
from bichat.events import codec, schema
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger
from bichat.events.proof import sealing
from bichat.events.proof.signing import Signer
from bichat.projections import rebuild, versions
from bichat.projections.processes import Database, Pool, cores
from bichat.workers import sealing as loop

QUIET = lambda step, done, total: None  # noqa: E731


@contextmanager
def databases(server: str) -> Iterator[tuple[str, str]]:
    """Two empty ones, migrated; dropped at the end."""
    names = ("bichat_bench_plain", "bichat_bench_sealed")
    urls = [urlsplit(server)._replace(path=f"/{name}").geturl() for name in names]
    with psycopg.connect(server, autocommit=True) as connection:
        for name in names:
            connection.execute(f"drop database if exists {name} with (force)".encode())
            connection.execute(f"create database {name}".encode())
        try:
            for url in urls:
                schema.migrate(url)
                schema.migrate(url, schema.KEYS)
                with schema.connect(url) as one:
                    versions.ensure(one)
            yield urls[0], urls[1]
        finally:
            for name in names:
                connection.execute(f"drop database {name} with (force)".encode())


@contextmanager
def opened(url: str) -> Iterator[tuple[Ledger, Executor]]:
    with ExitStack() as stack:
        keys = KeyStore(url, MASTER_KEY)
        keys.unlock()
        stack.callback(keys.close)
        ledger = Ledger(url, keys)
        stack.callback(ledger.close)
        executor = Executor(ledger)
        executor.start()
        stack.callback(executor.close)
        yield ledger, executor


async def appended(executor: Executor, seconds: float) -> float:
    """Events a second: dialogues of ten messages each, from many callers."""
    end, started, events = time.monotonic() + seconds, time.monotonic(), 0

    async def talk() -> None:
        nonlocal events
        while time.monotonic() < end:
            dialogue_id = uuid7()
            await executor.execute(StartDialogue(dialogue_id=dialogue_id, user_id="u", messages=ask()), by())
            events += 2
            for _ in range(9):
                await executor.execute(AddMessage(dialogue_id=dialogue_id, messages=ask()), by())
                events += 1

    await asyncio.gather(*(talk() for _ in range(CALLERS)))
    return events / (time.monotonic() - started)


def append(url: str, seconds: float, *, sealer: bool = False) -> float:
    """The same, with a sealer beside that seals every second instead of every minute."""
    stop = threading.Event()
    with opened(url) as (ledger, executor), ExitStack() as stack:
        if sealer:
            thread = threading.Thread(target=loop.run, args=(url, Signer(ledger.keys), stop, 1.0))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
        return asyncio.run(appended(executor, seconds))


@contextmanager
def plain_text() -> Iterator[None]:
    """Text is stored as it is: no salt, no commitment, no encryption."""
    before = codec.seal_fields  # type: ignore[attr-defined]
    codec.seal_fields = lambda data, kind, place, key: data  # type: ignore[attr-defined]
    try:
        yield
    finally:
        codec.seal_fields = before  # type: ignore[attr-defined]


def rebuilt(url: str) -> tuple[int, float]:
    """Events, and seconds of a rebuild of all read models by one process."""
    database = Database(url=url, keys_url=url, master_key=MASTER_KEY)
    started = time.perf_counter()
    done = rebuild.rebuild(database, list(versions.MODELS), jobs=1, progress=QUIET)
    return done[0].report.events, time.perf_counter() - started


def sealed(url: str) -> tuple[int, float]:
    """Events, and seconds to seal them all."""
    with opened(url) as (ledger, _), schema.connect(url) as connection:
        started = time.perf_counter()
        made = list(sealing.seal_all(connection, Signer(ledger.keys)))
        return sum(seal.events for seal in made), time.perf_counter() - started


def verified(url: str, jobs: int) -> checking.Verdict:
    database = Database(url=url, keys_url=url, master_key=MASTER_KEY)
    pool = Pool(database, jobs)
    try:
        return checking.verify(database, pool, QUIET)
    finally:
        pool.close()


@click.command(help=__doc__)
@click.option("--server-url", required=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=3.0, show_default=True)
def main(server_url: str, rounds: int, seconds: float) -> None:
    rates: dict[str, list[float]] = {"plain": [], "sealed": [], "alone": [], "sealer": []}
    with databases(server_url) as (plain, secret):
        for _ in range(rounds):
            with plain_text():
                rates["plain"].append(append(plain, seconds))
            rates["sealed"].append(append(secret, seconds))
        events, took = sealed(secret)
        again = {name: rebuilt(url) for name, url in (("plain", plain), ("sealed", secret))}
        for _ in range(rounds):
            rates["sealer"].append(append(secret, seconds, sealer=True))
            rates["alone"].append(append(secret, seconds))
        found = {jobs: verified(secret, jobs) for jobs in sorted({1, cores()})}
    middle = {name: statistics.median(some) for name, some in rates.items()}
    per = {name: seconds / events * 1e6 for name, (events, seconds) in again.items()}
    rows = [
        ("append, text as it is", middle["plain"], "events/s", None),
        ("append, text sealed", middle["sealed"], "events/s", middle["sealed"] / middle["plain"]),
        ("append, text sealed, later", middle["alone"], "events/s", None),
        ("  with a seal every second", middle["sealer"], "events/s", middle["sealer"] / middle["alone"]),
        ("rebuild, text as it is", per["plain"], "us/event", None),
        ("rebuild, text sealed", per["sealed"], "us/event", per["sealed"] / per["plain"]),
        ("sealing", took / events * 1e6, "us/event", None),
    ]
    for jobs, one in found.items():
        assert one.valid, one.findings
        rows.append((f"verify, {jobs} processes", one.events / one.seconds, "events/s", None))
    click.echo(tabulate(rows, headers=("", "", "", "ratio"), tablefmt="plain", floatfmt=",.2f"))


if __name__ == "__main__":
    main()
