"""P3: a rebuild of all read models with every core, beside a raw copy of the log and the library's runner.

    python -m bench.rebuild --events 1000000

The yardstick is INSERT … SELECT of the whole log into a table of the same columns and indexes. What is
compared with it is the rebuild up to where its builds could serve: loaded, indexed, caught up, switched to.
Before that switch bichat folds the log a second time and compares every row; that is told beside it.
The library's runner is taken for as many read models as ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import psycopg
from msgspec import Struct

from bench import finished, history, tracking
from bench.line import Line, Rounds, compared
from bench.place import MASTER_KEY, Place, place
from bichat.events import schema
from bichat.projections import rebuild, versions
from bichat.projections.processes import Database, cores
from bichat.projections.rebuild import Rebuilt

EVENTS, ROUNDS = 250_000, 2
"""As many as there is time for beside all the other lines; by itself it takes the 1,000,000 of the table."""
TRACKED = 3_000
"""Events for the library's runner."""
TARGET, LIBRARY_TARGET = 0.35, 50.0
BUILDING = ("loading", "indexing", "following")


class Beside(Struct, frozen=True):
    """What else is measured: events per second, and seconds."""

    runner: float
    """Of the library, for one read model."""
    runners: float
    """For as many as ours."""
    rows: float
    """That Postgres takes for the finished rows."""


@contextmanager
def yardstick(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """The table to copy into, for a while."""
    connection.execute("create schema yardstick")
    try:
        connection.execute("create table yardstick.log (like bichat.stored_events including all)")
        yield
    finally:
        connection.execute("drop schema yardstick cascade")


def copied(connection: psycopg.Connection[Any]) -> float:
    """Seconds of one raw copy of the log."""
    with yardstick(connection):
        connection.execute("checkpoint")
        started = time.perf_counter()
        connection.execute("insert into yardstick.log select * from bichat.stored_events")
        return time.perf_counter() - started


def rebuilt(connection: psycopg.Connection[Any], url: str) -> tuple[float, list[Rebuilt]]:
    """Seconds of a rebuild of all read models, and what it tells; what it replaces is dropped."""
    database = Database(url=url, keys_url=url, master_key=MASTER_KEY)
    connection.execute("checkpoint")
    started = time.perf_counter()
    done = rebuild.rebuild(database, versions.MODELS, jobs=cores(), progress=lambda *_: None)
    took = time.perf_counter() - started
    for model in versions.MODELS:
        for build in versions.kept(connection, model):
            versions.drop(connection, build.key)
    return took, done


def building(done: list[Rebuilt]) -> float:
    """Seconds of what the target is about."""
    return sum(done[0].seconds[step] for step in BUILDING) + sum(one.pause for one in done)


def measure(place: Place, events: int = EVENTS, rounds: int = ROUNDS) -> Line:
    """A copy before and after each rebuild, and the library's runner once."""
    copies, took, whole = list[float](), list[float](), list[float]()
    with place.database() as url, schema.connect(url) as connection:
        connection.prepare_threshold = None
        made, seconds = history.made(url, events)
        place.say(f"{made:,} events made in {seconds:.0f} s")
        copies.append(copied(connection))
        for _ in range(rounds):
            all_of_it, done = rebuilt(connection, url)
            whole.append(all_of_it)
            took.append(building(done))
            copies.append(copied(connection))
            place.say(
                f"rebuilt in {took[-1]:.1f} s, verified after {whole[-1]:.1f}; copied in {copies[-1]:.1f}"
            )
        rows = finished.taken(connection, url)
        beside = Beside(*tracking.library(url, TRACKED, len(versions.MODELS)), rows)
    ours, theirs = Rounds([made / s for s in took]), Rounds([made / s for s in copies])
    return line(ours, theirs, Rounds([made / s for s in whole]), beside, done)


def line(ours: Rounds, theirs: Rounds, whole: Rounds, beside: Beside, done: list[Rebuilt]) -> Line:
    fields = compared(ours, theirs)
    times = ours.median / beside.runners
    report, seconds = done[0].report, done[0].seconds
    least = beside.rows + seconds["indexing"]
    steps = ", ".join(f"{step} {took:.1f}" for step, took in seconds.items())
    return Line(
        id="P3", work=f"rebuild of {report.events:,} events, up to its check", unit="events/s",
        target=f"≥ {TARGET}, ≥ {LIBRARY_TARGET:.0f} x the library's runners",
        met=fields["ratio"] >= TARGET and times >= LIBRARY_TARGET,
        notes=[
            f"{len(done)} read models, {cores()} processes: loaded, indexed, caught up, switched to",
            f"with every row compared before the switch: {whole.median:,.0f} events/s,"
            f" ratio {whole.median / theirs.median:.2f}",
            f"seconds of the last one: {steps}; readers waited"
            f" {1000 * max(one.pause for one in done):.0f} ms at most for a switch",
            f"the library's runner, one event one commit: {beside.runners:,.0f} events/s into {len(done)}"
            f" simple read models, a process for each; {times:.0f} x. Into one alone:"
            f" {beside.runner:,.0f}; {ours.median / beside.runner:.0f} x",
            f"only to COPY the finished rows takes {beside.rows:.1f} s: with their indexes, and nothing read"
            f" or folded, that would be {report.events / least / theirs.median:.2f}",
        ],
        **fields,
    )  # fmt: skip


@click.command(help=__doc__)
@click.option("--events", default=1_000_000, show_default=True)
@click.option("--rounds", default=1, show_default=True, help="Rebuilds.")
def main(events: int, rounds: int) -> None:
    with place() as here:
        found = measure(here, events, rounds)
    click.echo(f"{found.ours:,.0f} of {found.yardstick:,.0f} {found.unit}: {found.ratio:.3f}")
    for note in found.notes:
        click.echo(note)


if __name__ == "__main__":
    main()
