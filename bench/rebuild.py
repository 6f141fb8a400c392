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

from bench import history, tracking
from bench.line import Line, Rounds, compared
from bench.place import MASTER_KEY, Place, place
from bichat.events import schema
from bichat.projections import rebuild, versions
from bichat.projections.processes import Database, cores
from bichat.projections.rebuild import Rebuilt

EVENTS, ROUNDS = 1_000_000, 1
TRACKED = 3_000
"""Events for the library's runner."""
TARGET, LIBRARY_TARGET = 0.35, 50.0
BUILDING = ("loading", "indexing", "following")


class Library(Struct, frozen=True):
    """Events per second of the library's runner."""

    runner: float
    """For one read model."""
    runners: float
    """For as many as ours."""


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
        library = Library(*tracking.library(url, TRACKED, len(versions.MODELS)))
    ours, theirs = Rounds([made / s for s in took]), Rounds([made / s for s in copies])
    return line(ours, theirs, Rounds([made / s for s in whole]), library, done)


def line(ours: Rounds, theirs: Rounds, whole: Rounds, library: Library, done: list[Rebuilt]) -> Line:
    fields = compared(ours, theirs)
    times = ours.median / library.runners
    report, seconds = done[0].report, done[0].seconds
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
            f"the library's runner, one event one commit: {library.runners:,.0f} events/s into {len(done)}"
            f" simple read models, a process for each; {times:.0f} x. Into one alone:"
            f" {library.runner:,.0f}; {ours.median / library.runner:.0f} x",
        ],
        **fields,
    )  # fmt: skip


@click.command(help=__doc__)
@click.option("--events", default=EVENTS, show_default=True)
@click.option("--rounds", default=ROUNDS, show_default=True, help="Rebuilds.")
def main(events: int, rounds: int) -> None:
    with place() as here:
        found = measure(here, events, rounds)
    click.echo(f"{found.ours:,.0f} of {found.yardstick:,.0f} {found.unit}: {found.ratio:.3f}")
    for note in found.notes:
        click.echo(note)


if __name__ == "__main__":
    main()
