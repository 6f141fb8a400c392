"""What a backup is: a directory with a file for each table, a manifest, and the digests of them all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bichat.errors.backup import BackupDamaged

FORM = 1
MANIFEST, DIGESTS = "manifest.json", "SHA256SUMS"
TABLES = {
    "stored_events": "notification_id",
    "receipts": "tenant_id, user_id, key",
    "void_keys": "key_id",
    "seals": "number",
    "seal_leaves": "seal, stream_id",
    "restores": "began_at",
}
"""What is backed up, each table after those it refers to, and in which order its rows are."""
_CHUNK = 1 << 20


class Table(Struct, frozen=True, kw_only=True):
    """One table: COPY's binary format, compressed by zstd."""

    file: str
    columns: dict[str, str]
    """Name and type."""
    rows: int


class Manifest(Struct, frozen=True, kw_only=True):
    """What is in a backup, and what wrote it; digests are in a file that `sha256sum -c` knows."""

    form: int = FORM
    bichat: str
    postgres: int
    made_at: datetime
    migrations: list[str]
    position: int
    """The last event's."""
    seal: int
    """The newest one's number, 0 when there is none."""
    tables: dict[str, Table]


class Backup(Struct, frozen=True, kw_only=True):
    """A backup that was found whole."""

    path: Path
    manifest: Manifest
    digests: dict[str, str]
    digest: str
    """Of all of it."""

    def open(self, file: str) -> BinaryIO:
        """One of its files."""
        return opened(self.path, file)


def opened(path: Path, file: str) -> BinaryIO:
    """A file of a backup: never through a link that leads elsewhere; raises `BackupDamaged`."""
    try:
        number = os.open(path / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if (path / file).is_symlink():
            raise BackupDamaged(path=path, reason=f"{file} is a symbolic link") from None
        raise BackupDamaged(path=path, reason=f"{file}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise BackupDamaged(path=path, reason=f"{file} is no file")
    return os.fdopen(number, "rb")


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """A file, a megabyte at a time."""
    while chunk := file.read(_CHUNK):
        yield chunk
