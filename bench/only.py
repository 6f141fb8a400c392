"""Which lines of a table are wanted: `--only P1,P3`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click


def only(lines: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What turns the option into some of these lines, in their order; all of them when it is empty."""
    known = list(lines)

    def wanted(_: click.Context, __: click.Parameter, value: str) -> list[str]:
        names = {name.strip().upper() for name in value.split(",") if name.strip()}
        if unknown := names - set(known):
            raise click.BadParameter(f"no line {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return [name for name in known if not names or name in names]

    return wanted
