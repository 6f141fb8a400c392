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
        names = _names(environment, given.get("data", {}))
    except (RecursionError, TemplateError, ValueError) as error:
        reason = getattr(error, "detail", None) or str(error)
        return {"kind": "Data", "line": None, "reason": reason}
    try:
        environment.add_template("prompt", names + given["template"])
        text = environment.render_template("prompt") if "data" in given else ""
        text.encode()  # a lone surrogate cannot be answered
    except TemplateError as error:
        return {"kind": error.kind, "line": error.line, "reason": error.detail or error.message}
    except (MemoryError, TypeError, ValueError) as error:
        return {"kind": type(error).__name__, "line": None, "reason": str(error)}
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust's, and of no module: no memory for the text
            raise
        return {"kind": "MemoryError", "line": None, "reason": ""}
    if len(text) > LONGEST:
        return {"kind": "TooLong", "line": None, "reason": ""}
    return {"text": text}


def _names(environment: Any, data: dict[str, Any]) -> str:
    """What a template begins with to have the data: values of the engine's own, which its language writes.

    Python's would bring their attributes and methods along: `items` would always be there, and `d.clear()`.
    """
    written, names = ["{% set null = none %}"], []
    for place, (name, value) in enumerate(data.items()):
        if _can_be_named(environment, name):
            told = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
            written.append(f"{{% set value{place} = {told} %}}")
            names.append(f"value{place} as {name}")
        elif not isinstance(value, (dict, list)):
            environment.add_global(name, value)  # `self` and `loop`; the rest no template can name
    environment.add_template("data", "".join(written))
    return f"{{% from 'data' import {', '.join(names)} %}}" if names else ""


def _can_be_named(environment: Any, name: str) -> bool:
    from minijinja import TemplateError  # noqa: PLC0415

    if not name.isidentifier():
        return False
    try:
        environment.add_template("data", f"{{% from 'data' import value as {name} %}}")
    except TemplateError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])
