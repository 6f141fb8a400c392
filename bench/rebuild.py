"""A rebuild of all read models beside a raw copy of the log, and what readers notice of one.

    python -m bench.history --database-url postgresql://…/bench --events 1000000
    python -m bench.rebuild --database-url postgresql://…/bench --redis-url redis://…

First the yardstick: INSERT … SELECT of the whole log into a table of the same columns and indexes. Then a
rebuild with nobody else there. Then, through an API and a projector, a load of reads of lists and of
dialogues and one command in ten, for a while without a rebuild and for the whole of a second one. Times
are of this machine; the ratios are what counts. Drops what it made, but for the labels it gave.
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psycopg
from msgspec import Struct
from tabulate import tabulate

from bench.load import Dialogue, Load, Sample, percentile
from bench.stack import Stack, stack
from bichat.cli.output import Progress
from bichat.errors import BichatError
from bichat.events import schema
from bichat.projections import rebuild, versions
from bichat.projections.processes import Database, cores
from bichat.projections.rebuild import Rebuilt

MASTER_KEY = bytes(32)
READ = 500
"""Dialogues that are read."""
AROUND = 2.0
"""Seconds before the end of a rebuild in which its switches fall, all of them."""


class Plan(Struct, frozen=True):
    """What was asked for."""

    database_url: str
    redis_url: str
    rate: float
    seconds: float
    copies: int
    jobs: int


def copied(connection: psycopg.Connection[Any]) -> float:
    """Seconds of one raw copy of the log."""
    connection.execute("truncate yardstick.log")
    connection.execute("checkpoint")
    started = time.perf_counter()
    connection.execute("insert into yardstick.log select * from bichat.stored_events")
    return time.perf_counter() - started


@contextmanager
def yardstick(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """The table to copy into, for a while."""
    connection.execute("drop schema if exists yardstick cascade")
    connection.execute("create schema yardstick")
    try:
        connection.execute("create table yardstick.log (like bichat.stored_events including all)")
        yield
    finally:
        connection.execute("drop schema yardstick cascade")


def rebuilt(plan: Plan) -> tuple[float, list[Rebuilt]]:
    """Seconds of a rebuild of all read models, and what it tells."""
    database = Database(url=plan.database_url, keys_url=plan.database_url, master_key=MASTER_KEY)
    started = time.perf_counter()
    with Progress() as progress:
        done = rebuild.rebuild(database, versions.MODELS, jobs=plan.jobs, progress=progress)
    return time.perf_counter() - started, done


def tidy(connection: psycopg.Connection[Any]) -> None:
    """Drops the builds that are kept for a way back: nobody has to feed them then."""
    for model in versions.MODELS:
        for build in versions.kept(connection, model):
            versions.drop(connection, build.key)


def dialogues(connection: psycopg.Connection[Any], bichat: Stack) -> list[Dialogue]:
    """Some to be read, each by its owner."""
    found = connection.execute(
        "select id, tenant_id, user_id from bichat.transcripts_v2 where state = 'active'"
        " order by random() limit %s", (READ,)
    )  # fmt: skip
    return [Dialogue(str(i), bichat.headers(user, tenant)) for i, tenant, user in found]


def alone(load: tuple[str, list[Dialogue], float], seconds: float) -> list[Sample]:
    """What becomes of requests without a rebuild."""
    with Load(*load) as sent:
        time.sleep(seconds)
    return sent.samples


def row(name: str, samples: list[Sample]) -> dict[str, Any]:
    """A line of the table about a load."""
    reads = [s for s in samples if s.kind != "command"]
    return {
        "load": name, "requests": len(samples), "errors": sum(bool(s.error) for s in samples),
        "p50": percentile(samples, 50), "p95": percentile(samples, 95),
        "reads p50": percentile(reads, 50), "reads p95": percentile(reads, 95),
        "longest (ms)": max(s.ms for s in samples),
    }  # fmt: skip


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what takes too long."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@click.command(help=__doc__)
@click.option("--database-url", required=True, help="A database that bench.history filled.")
@click.option("--redis-url", required=True, help="For the API and the projector.")
@click.option("--rate", default=50.0, show_default=True, help="Requests a second.")
@click.option("--seconds", default=30.0, show_default=True, help="Of the load without a rebuild.")
@click.option("--copies", default=3, show_default=True, help="Of the log; their median counts.")
@click.option("--jobs", default=cores(), show_default="one per core", help="Processes of a rebuild.")
@click.option("--limit", default=3600, show_default=True, help="Seconds after which it gives up.")
def main(limit: int, **plan: Any) -> None:
    wanted = Plan(**plan)
    try:
        schema.migrate(wanted.database_url)
        with at_most(limit), schema.connect(wanted.database_url) as connection:
            connection.prepare_threshold = None
            versions.ensure(connection)
            tidy(connection)
            measure_alone(connection, wanted)
            measure_loaded(connection, wanted)
    except (BichatError, TimeoutError, psycopg.Error) as error:
        raise click.ClickException(str(error)) from None


def measure_alone(connection: psycopg.Connection[Any], plan: Plan) -> None:
    with yardstick(connection):
        copy = statistics.median(copied(connection) for _ in range(plan.copies))
    took, done = rebuilt(plan)
    tidy(connection)
    events, seconds = done[0].report.events, done[0].seconds
    steps = [("raw copy of the log, median", copy), *seconds.items()]
    steps.append(("loading and indexing", seconds["loading"] + seconds["indexing"]))
    steps.append(("rebuild of all, verified", took))
    told = [(name, s, f"{events / s:,.0f}", copy / s) for name, s in steps if s]
    click.echo(f"\n{events:,} events, {plan.jobs} processes")
    click.echo(tabulate(told, headers=["", "seconds", "events/s", "copy / this"], floatfmt=".2f"))
    pauses = ", ".join(f"{one.build.id} {one.pause * 1000:.1f}" for one in done)
    click.echo(f"switches without a load (ms): {pauses}\n")


def measure_loaded(connection: psycopg.Connection[Any], plan: Plan) -> None:
    with (
        tempfile.TemporaryDirectory() as logs,
        stack(plan.database_url, plan.redis_url, "http://127.0.0.1:9/v1", Path(logs)) as bichat,
    ):
        bichat.up(workers=0)
        load = (bichat.url, dialogues(connection, bichat), plan.rate)
        alone(load, 5)  # everybody warms up
        before = alone(load, plan.seconds)
        with Load(*load) as during:
            took, _ = rebuilt(plan)
            ended = time.monotonic()
            time.sleep(AROUND)
        tidy(connection)
    say(before, during.samples, took, ended)


def say(before: list[Sample], during: list[Sample], took: float, ended: float) -> None:
    rows = [row("without a rebuild", before), row(f"during one of {took:.1f} s", during)]
    click.echo(tabulate(rows, headers="keys", floatfmt=".1f"))
    switch = [s.ms for s in during if abs(s.at - ended) < AROUND and s.kind != "command"]
    ratios = [percentile(during, p) / percentile(before, p) for p in (50, 95)]
    click.echo(f"during / without: p50 {ratios[0]:.2f}, p95 {ratios[1]:.2f}")
    click.echo(f"longest read within {AROUND:.0f} s of the switches: {max(switch):.1f} ms")
    for error in sorted({s.error for s in (*before, *during) if s.error})[:10]:
        click.echo(f"  {error}")


if __name__ == "__main__":
    main()
