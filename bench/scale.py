"""What a billion messages a day would take, from what `make bench` measured: `python -m bench.scale`."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import click
import msgspec
from tabulate import tabulate

from bench.line import Line

LATEST = Path(__file__).with_name("latest.json")
MESSAGES = 1_000_000_000
"""A day; every second one is an answer."""
PEAK = 4
"""Times the average, in the busiest minutes."""
HEADROOM = 0.6
"""Of what was measured at most, so that queues stay short."""
COMMANDS = 1.5
"""A message, and as many events: each turn is asked, started, answered."""
REPLY_SECONDS, WORDS = 10, 200
"""Of one answer of a real model: how long its stream is open, how many deltas Redis is told (20 a second)."""
STREAMS = 1000
"""Open at a time on one API process, as P8 has them."""
REDIS = 50_000
"""Deltas a second through one Redis: an assumption, nothing here came near it."""
COPIES = 3
"""Of the data: the primary, a replica, a backup."""
NEEDED = {"P1": "commands/s of one log", "P2": "questions/s of one API", "P6": "turns/s of one worker",
          "P11": "bytes of one message"}  # fmt: skip


def measured(path: Path) -> dict[str, float]:
    """`ours` of each line that is needed; raises `ClickException` for what was not measured."""
    if not path.exists():
        raise click.ClickException(f"there is no {path.name}: run make bench first")
    lines = msgspec.json.decode(path.read_bytes(), type=list[Line])
    found = {line.id: line.ours for line in lines if line.ours}
    if missing := [f"{name} ({what})" for name, what in NEEDED.items() if name not in found]:
        raise click.ClickException(f"{path.name} lacks {', '.join(missing)}")
    return found


def needed(found: dict[str, float]) -> list[tuple[str, str, str]]:
    """What, how it comes about, and how much of it."""
    average = MESSAGES / 86_400
    peak = average * PEAK
    questions, commands = peak / 2, peak * COMMANDS

    def parts(load: float, each: float) -> str:
        return f"{ceil(load / (each * HEADROOM)):,}"

    words, terabytes = questions * WORDS, MESSAGES * found["P11"] / 1e12
    return [
        ("messages/s", f"average; {peak:,.0f} at the peak", f"{average:,.0f}"),
        ("logs", f"{commands:,.0f} commands/s; P1: {found['P1']:,.0f}/s each", parts(commands, found["P1"])),
        ("api processes", f"{questions:,.0f} questions/s; P2: {found['P2']:,.0f}/s each",
         parts(questions, found["P2"])),
        ("api processes for streams", f"{questions * REPLY_SECONDS:,.0f} open; P8: {STREAMS:,} each",
         parts(questions * REPLY_SECONDS, STREAMS)),
        ("worker processes", f"{questions:,.0f} replies/s; P6: {found['P6']:,.0f}/s each",
         parts(questions, found["P6"])),
        ("Redis", f"{words:,.0f} deltas/s; {REDIS:,}/s each", parts(words, REDIS)),
        ("TB/day", f"P11: {found['P11']:,.0f} bytes a message, one copy", f"{terabytes:,.1f}"),
        ("TB/day", f"{COPIES} copies", f"{COPIES * terabytes:,.1f}"),
    ]  # fmt: skip


@click.command(help=__doc__)
@click.argument("path", default=LATEST, type=click.Path(path_type=Path))
def main(path: Path) -> None:
    click.echo(tabulate(needed(measured(path)), headers=["", "from", "needed"], disable_numparse=True))


if __name__ == "__main__":
    main()
