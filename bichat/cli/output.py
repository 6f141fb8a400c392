"""What verbs print: tables for people or JSON for programs, and how far long work has come."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from tabulate import tabulate
from tqdm import tqdm

from bichat import config, logs
from bichat.errors import BichatError
from bichat.errors.unusable import RebuildRuns
from bichat.terminal import printable

EVERY = 5.0
"""Seconds between two lines about one step, where there is no terminal to draw a bar on."""

_UNITS = {"indexing": " builds", "checking": "B", "restoring": "B", "forgetting": " persons"}
"""What a step counts, if not events."""

_CONTROLS = re.compile("[\x7f-\x9f]")

log = logging.getLogger(__name__)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def table(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Prints rows under their names, or as one JSON array."""
    if as_json:
        click.echo(json_text(rows))
    elif not rows:
        click.echo("Nothing.", err=True)
    else:
        click.echo(
            tabulate([_row(row) for row in rows], headers="keys", tablefmt="plain", disable_numparse=True)
        )


def json_text(value: object) -> str:
    """As JSON that steers no terminal: other control characters than JSON's own are escaped too."""
    text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _row(row: dict[str, Any]) -> dict[str, str]:
    return {name: "-" if value in (None, "") else printable(str(value)) for name, value in row.items()}


class Progress:
    """Told how far each step has come: a bar with rate and time left on a terminal, else lines; on stderr."""

    def __init__(self, unit: str = " events") -> None:
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._step = ""
        self._bar: tqdm[Any] | None = None
        self._began = self._said = time.monotonic()

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` of `total` events, or whatever the step consists of."""
        if total == 0:
            return
        if step != self._step:
            self.close()
            self._step, self._began, self._said = step, time.monotonic(), 0.0
            if self._terminal:
                width = shutil.get_terminal_size((80, 24)).columns
                unit = _UNITS.get(step, self._unit)
                self._bar = tqdm(
                    desc=f"{step:10}", unit=unit, unit_scale=total >= 10_000, total=0, ncols=width
                )
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said > EVERY or done >= total > 0:
            self._said = time.monotonic()
            click.echo(f"{step}: {done:,} of {total:,}{self._left(done, total)}", err=True)

    def _left(self, done: int, total: int) -> str:
        elapsed = time.monotonic() - self._began
        if not done or done >= total or elapsed < 1:
            return ""
        rate = done / elapsed
        return f", {rate:,.0f}/s, {(total - done) / rate:,.0f} s left"

    def close(self) -> None:
        """Leaves the last bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def told(logged: bool) -> Iterator[tuple[Callable[[str], object], Callable[[str, int, int], None]]]:
    """How to say something, and how far it is: to who typed it, or in the log of who started us."""
    if not logged:
        with Progress() as progress:
            yield click.echo, progress
        return
    logs.begin(config.load().bichat_log)
    try:
        yield log.info, _logged
    except RebuildRuns as error:  # another projector was asked as well
        log.info("%s", error)
    except BichatError as error:
        log.error("%s", error)  # noqa: TRY400 - it says all there is
        sys.exit(1)


def _logged(step: str, done: int, total: int) -> None:
    if done == total > 0:
        log.info("%s: %d", step, done)
