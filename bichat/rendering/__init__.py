"""Renders people's templates in a process of its own for each, which may take no more than it is given.

No engine can be bounded inside a process that has anything else to do: Jinja2 cannot be interrupted, and
minijinja, which counts its steps, ends the whole process when it runs out of memory or stack.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from bichat.errors import Invalid, Unavailable
from bichat.rendering import child

PATIENCE = 10.0
"""Seconds that one may take all in all, on a machine that is busy with other things."""
LONGEST_REASON = 300
"""Characters: it may quote the template or the data."""

_BROKEN = {
    -signal.SIGXCPU: f"takes longer than {child.SECONDS} s",
    -signal.SIGKILL: f"takes longer than {child.SECONDS} s",
    -signal.SIGABRT: f"takes more than {child.MEMORY // 1024 // 1024} MB of memory",
    -signal.SIGSEGV: "is nested too deeply",
    -signal.SIGBUS: "is nested too deeply",
}
_KINDS = {
    "OutOfFuel": "takes too many steps",
    "MemoryError": _BROKEN[-signal.SIGABRT],
    "TooLong": f"becomes longer than {child.LONGEST:,} characters",
}


class RendererBusy(Unavailable):
    """Nothing can be rendered right now: try again in a moment."""


class _Asked(Struct, omit_defaults=True):
    template: str
    data: msgspec.Raw | None = None


class _Told(Struct):
    text: str = ""
    kind: str = ""
    line: int | None = None
    reason: str = ""


_told = msgspec.json.Decoder(_Told)


def check(template: str) -> None:
    """Raises `Invalid`, with the line, for what is no template. Blocks for some hundredths of a second."""
    _run(_Asked(template))


def render(template: str, data: bytes) -> str:
    """The text that a template makes of `data`, a JSON object; what is not in there is an error.

    Blocks, for a second at most if the machine is free. Raises `Invalid` for whatever is wrong with
    template or data, also when they take too much time or memory, and `RendererBusy`.
    """
    return _run(_Asked(template, msgspec.Raw(data)))


def _run(asked: _Asked) -> str:
    # Nothing comes along: no settings, no open connections, no modules of people's.
    command = [sys.executable, "-I", "-S", child.__file__, _packages()]
    try:
        done = subprocess.run(  # noqa: S603 - of our own making
            command, input=msgspec.json.encode(asked), capture_output=True, timeout=PATIENCE, check=False,
            env={}, cwd="/",
        )  # fmt: skip
    except (subprocess.TimeoutExpired, OSError):
        raise RendererBusy from None
    if done.returncode in _BROKEN:
        raise Invalid(field="template", reason=_BROKEN[done.returncode])
    if done.returncode or not done.stdout:
        raise RuntimeError(f"rendering ended with {done.returncode}: {done.stderr[-500:]!r}")
    told = _told.decode(done.stdout)
    if told.kind:
        raise _refused(told)
    return told.text


def _refused(told: _Told) -> Invalid:
    field: Literal["data", "template"] = "data" if told.kind in ("UndefinedError", "Data") else "template"
    reason = _KINDS.get(told.kind, told.reason[:LONGEST_REASON])
    return Invalid(field=field, reason=f"line {told.line}: {reason}" if told.line else reason)


@cache
def _packages() -> str:
    found = find_spec("minijinja")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("minijinja")
    return str(Path(found.origin).parent.parent)
