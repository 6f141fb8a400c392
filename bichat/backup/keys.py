"""The keys store in a file: as it is wrapped, so that the file is worth nothing without the master key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Raw, Struct

from bichat import __version__
from bichat.backup.manifest import FORM, opened
from bichat.backup.sql import filled, statement
from bichat.errors.backup import BackupDamaged, BackupFailed, BackupTooNew, NotABackup
from bichat.events import schema

TABLES = {
    "master": "fingerprint",
    "erasures": "asked_at",
    "data_keys": "key_id",
    "signing_keys": "public_key",
    "anchor": "number",
    "set_backs": "kept",
}
"""What is kept of the keys store, each table after those it refers to, and in which order."""


class First(Struct, frozen=True, kw_only=True):
    """The file's first line."""

    what: str = "bichat keys"
    form: int = FORM
    bichat: str
    made_at: datetime
    migrations: list[str]


class Line(Struct, frozen=True):
    """One row."""

    table: str
    row: Raw


class Last(Struct, frozen=True):
    """The last line: without it the file is torn, or changed."""

    rows: int
    sha256: str
    """Of all lines before."""


def back_up(url: str, path: Path) -> int:
    """Writes the keys store as of one moment into a new file, 0600, and says how many data keys there are.

    Raises `BackupFailed`; then there is no such file.
    """
    path = Path(os.path.realpath(path))
    making = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    if path.exists():
        raise BackupFailed(reason=f"{path} is there already")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(making, flags, 0o600), "wb") as file:
            count = _write(url, file)
            file.flush()
            os.fsync(file.fileno())
        making.rename(path)
    except OSError as error:
        raise BackupFailed(reason=f"{error.filename or path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            making.unlink(missing_ok=True)
    return count


def _write(url: str, file: BinaryIO) -> int:
    sha, rows, keys = hashlib.sha256(), 0, 0

    def line(what: Struct) -> None:
        text = msgspec.json.encode(what) + b"\n"
        sha.update(text)
        file.write(text)

    with schema.connect(url, name="KEYS_DATABASE_URL") as connection, connection.transaction():
        connection.execute(statement("keys", "snapshot"))
        names = schema.applied(connection, schema.KEYS)
        line(First(bichat=__version__, made_at=datetime.now(UTC), migrations=names))
        for table, order in TABLES.items():
            with connection.cursor(table) as cursor:
                cursor.execute(filled("keys", "out", table=table, order=order))
                for (row,) in cursor:
                    line(Line(table, Raw(row.encode())))
                    rows, keys = rows + 1, keys + (table == "data_keys")
    file.write(msgspec.json.encode(Last(rows, sha.hexdigest())) + b"\n")
    return keys


def check(path: Path) -> None:
    """Reads all of the file; raises `NotABackup`, `BackupDamaged` or `BackupTooNew`."""
    sha, rows, last = hashlib.sha256(), -1, None
    with _file(path) as file:
        for n, text in enumerate(file):
            if n == 0:
                _first(path, text, schema.known(schema.KEYS))
            elif last is not None:
                raise BackupDamaged(path=path, reason="it goes on after its end")
            elif text.startswith(b'{"rows":'):
                with suppress(msgspec.MsgspecError):
                    last = msgspec.json.decode(text, type=Last)
                    continue
                raise BackupDamaged(path=path, reason="its last line cannot be understood")
            sha.update(text)
            rows += 1
    if rows < 0:
        raise NotABackup(path=path, reason="it is empty")
    if last is None:
        raise BackupDamaged(path=path, reason="it is cut off")
    if (last.rows, last.sha256) != (rows, sha.hexdigest()):
        raise BackupDamaged(path=path, reason="it is not what it was when it was written")


def lines(path: Path, most: int = 1000) -> Iterator[tuple[str, list[str]]]:
    """The rows of a file that was checked, some of one table at a time."""
    held: list[str] = []
    table = ""
    with _file(path) as file:
        next(file)
        for text in file:
            if text.startswith(b'{"rows":'):
                break
            one = msgspec.json.decode(text, type=Line)
            if held and (one.table != table or len(held) == most):
                yield table, held
                held = []
            table = one.table
            held.append(bytes(one.row).decode())
    if held:
        yield table, held


def _file(path: Path) -> BinaryIO:
    real = Path(os.path.realpath(path))
    if not real.is_file():
        raise NotABackup(path=path, reason="there is no such file")
    return opened(real.parent, real.name)


def _first(path: Path, text: bytes, known: list[str]) -> None:
    try:
        first = msgspec.json.decode(text, type=First)
    except msgspec.MsgspecError:
        raise NotABackup(path=path, reason="it is no file of `bichat keys backup`") from None
    if first.what != First.__struct_defaults__[0]:
        raise NotABackup(path=path, reason="it is no file of `bichat keys backup`")
    newer = [name for name in first.migrations if name not in known]
    if first.form > FORM or newer:
        raise BackupTooNew(path=path, made_by=first.bichat, reason=max(newer, default=f"form {first.form}"))
