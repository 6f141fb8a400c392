"""What a backup is: a directory with a file for each table, a manifest, and the digests of them all."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from bichat.errors.backup import BackupDamaged, BackupTooNew, NotABackup
from bichat.projections.verify import Progress

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
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")
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


def found(directory: Path, known: list[str], progress: Progress) -> Backup:
    """The backup in a directory, every byte of it checked.

    `known` are the migrations of this code. Raises `NotABackup`, `BackupDamaged` or `BackupTooNew`.
    """
    path = Path(os.path.realpath(directory))
    if not path.is_dir():
        raise NotABackup(path=path, reason="there is no such directory")
    try:
        with opened(path, DIGESTS) as file:
            listed = file.read(_CHUNK)
    except BackupDamaged:
        raise NotABackup(path=path, reason=f"it has no {DIGESTS}, so it is no backup of bichat") from None
    digests = _listed(path, listed)
    manifest = _manifest(path, digests, known)
    _check(path, digests, progress)
    return Backup(path=path, manifest=manifest, digests=digests, digest=hashlib.sha256(listed).hexdigest())


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


def _listed(path: Path, text: bytes) -> dict[str, str]:
    digests = {}
    for line in text.decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            raise BackupDamaged(path=path, reason=f"a line of {DIGESTS} names no digest")
        digests[match[2]] = match[1]
    if MANIFEST not in digests:
        raise BackupDamaged(path=path, reason=f"{DIGESTS} does not name {MANIFEST}")
    return digests


def _manifest(path: Path, digests: dict[str, str], known: list[str]) -> Manifest:
    with opened(path, MANIFEST) as file:
        text = file.read()
    if hashlib.sha256(text).hexdigest() != digests[MANIFEST]:
        raise BackupDamaged(path=path, reason=f"{MANIFEST} is not what {DIGESTS} says")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError:
        manifest = None
    said = msgspec.json.decode(text, type=_Said) if manifest is None else manifest
    if said.form > FORM:
        raise BackupTooNew(path=path, made_by=said.bichat, reason=f"form {said.form}, this one knows {FORM}")
    if manifest is None:
        raise BackupDamaged(path=path, reason=f"{MANIFEST} cannot be understood")
    newer = [name for name in manifest.migrations if name not in known]
    if newer:
        raise BackupTooNew(path=path, made_by=manifest.bichat, reason=f"migration {max(newer)}")
    missing = [table.file for table in manifest.tables.values() if table.file not in digests]
    if missing or not set(manifest.tables) <= set(TABLES):
        raise BackupDamaged(path=path, reason=f"{MANIFEST} and {DIGESTS} name other files")
    return manifest


class _Said(Struct):
    """What any form of a manifest says."""

    form: int = 0
    bichat: str = "?"


def _check(path: Path, digests: dict[str, str], progress: Progress) -> None:
    sizes = {}
    for name in digests:
        with opened(path, name) as file:
            sizes[name] = os.fstat(file.fileno()).st_size
    done, total = 0, sum(sizes.values())
    progress("checking", 0, total)
    for name, digest in digests.items():
        with opened(path, name) as file:
            sha = hashlib.sha256()
            for chunk in chunks(file):
                sha.update(chunk)
                done += len(chunk)
                progress("checking", min(done, total), total)
        if sha.hexdigest() != digest:
            raise BackupDamaged(path=path, reason=f"{name} is not what {DIGESTS} says")


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """A file, a megabyte at a time."""
    while chunk := file.read(_CHUNK):
        yield chunk
