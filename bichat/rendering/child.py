"""Renders one template within hard limits, in a process of its own that imports nothing of bichat.

Run as a script. From stdin: JSON `{template, data}`, without `data` only the syntax is looked at. To
stdout: JSON `{text}` or `{kind, line, reason}`. What breaks a limit ends the process with a signal.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

MEMORY = 256 * 1024 * 1024
"""Bytes of address space; an empty process has some 30 MB."""
SECONDS = 1
"""Of processor time."""
FUEL = 1_000_000
"""Instructions of the template engine: some tenths of a second."""
LONGEST = 200_000
"""Characters of a rendered text."""


def main(packages: str) -> None:
    """`packages`: the directory in which the template engine is."""
    sys.path.append(packages)
    from minijinja import Environment  # noqa: PLC0415 - found only now

    environment = Environment(undefined_behavior="strict", fuel=FUEL, auto_escape_callback=lambda name: False)
    _limit()
    json.dump(_rendered(environment, sys.stdin.buffer.read()), sys.stdout)


def _limit() -> None:
    """From here on there is not much that a template can take."""
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def _rendered(environment: Any, asked: bytes) -> dict[str, Any]:
    from minijinja import TemplateError  # noqa: PLC0415

    try:
        given = json.loads(asked)
    except (RecursionError, ValueError) as error:
        return {"kind": "Data", "line": None, "reason": str(error)}
    try:
        environment.add_template("prompt", given["template"])
        text = environment.render_template("prompt", **given["data"]) if "data" in given else ""
        text.encode()  # a lone surrogate cannot be answered
    except TemplateError as error:
        return {"kind": error.kind, "line": error.line, "reason": error.detail or error.message}
    except (MemoryError, TypeError, ValueError) as error:
        return {"kind": type(error).__name__, "line": None, "reason": str(error)}
    if len(text) > LONGEST:
        return {"kind": "TooLong", "line": None, "reason": ""}
    return {"text": text}


if __name__ == "__main__":
    main(sys.argv[1])
