"""Measures every line of the table beside its yardstick: `make bench`, or `make bench ONLY=P1,P3`.

Each line runs on a Postgres and a Valkey of its own run, on loopback, for a bounded time; everything is gone
afterwards but the table and its JSON. Let the machine rest meanwhile: ratios bear noise, times do not.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import click
import msgspec
import psycopg
from msgspec.structs import replace
from tabulate import tabulate

from bench.line import Line, Machine, machine
from bench.only import only
from bench.place import Place, place

LINES = {
    "P1": "bench.writer",
    "P2": "bench.posting",
    "P3": "bench.rebuild",
    "P4": "bench.visible",
    "P5": "bench.first_word",
    "P6": "bench.turns",
    "P7": "bench.growth",
    "P8": "bench.streams",
    "P9": "bench.audit",
    "P10": "bench.lists",
    "P11": "bench.size",
}
"""The module of each line; its `measure(place)` gives the `Line`."""
LATEST = Path(__file__).with_name("latest.json")
LIMIT = 420
"""Seconds that one line may take; all of them together stay under 15 minutes."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what takes too long with `TimeoutError`."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def measured(name: str, here: Place, where: Machine) -> Line:
    """One line; of what could not be measured it says why, and is not met."""
    click.echo(f"{name}  {LINES[name]}", err=True)
    started = time.monotonic()
    try:
        with at_most(LIMIT):
            line: Line = import_module(LINES[name]).measure(here)
    except Exception as error:
        traceback.print_exc()
        why = f"not measured: {type(error).__name__}: {error}"
        line = Line(id=name, work=LINES[name], ours=None, unit="", target="", met=False, notes=[why])
    took = round(time.monotonic() - started, 1)
    return replace(line, seconds=took, at=datetime.now(UTC).replace(microsecond=0), machine=where)


def keep(lines: list[Line], path: Path) -> None:
    """Writes these, and leaves those that were measured before and not now."""
    before = msgspec.json.decode(path.read_bytes(), type=list[Line]) if path.exists() else []
    all_ = {line.id: line for line in (*before, *lines)}
    kept = [all_[name] for name in LINES if name in all_]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def table(lines: list[Line]) -> str:
    """What a person reads; the notes below it."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"

    def spread(value: float | None) -> str:
        return "" if value is None else f"± {50 * value:.0f} %"

    rows = [
        (
            line.id, line.work, shown(line.ours), spread(line.spread), line.unit, shown(line.yardstick),
            spread(line.yardstick_spread), shown(line.ratio), line.target, "yes" if line.met else "NO",
        )
        for line in lines
    ]  # fmt: skip
    head = ["", "work", "ours", "", "unit", "yardstick", "", "ratio", "target", "met"]
    notes = [f"{line.id}: {note}" for line in lines for note in line.notes]
    return "\n".join([tabulate(rows, headers=head, disable_numparse=True), "", *notes])


@click.command(help=__doc__)
@click.option(
    "--only", default="", metavar="P1,P3", callback=only(LINES), help="These lines; else all of them."
)
@click.option("--json", "path", default=LATEST, type=click.Path(path_type=Path), help="Where to write them.")
def main(only: list[str], path: Path) -> None:
    with place() as here:
        with psycopg.connect(here.server) as connection:
            where = machine(connection.info.parameter_status("server_version") or "")
        lines = [measured(name, here, where) for name in only]
    keep(lines, path)
    click.echo(table(lines))
    click.echo(f"\n{where.processor}, {where.cores} cores, Postgres {where.postgres}; also in {path.name}")
    sys.exit(any(line.ours is None for line in lines))


if __name__ == "__main__":
    main()
