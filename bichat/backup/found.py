"""Finds a backup whole, or says what is wrong with it, before anything is done with it."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from bichat.backup.manifest import DIGESTS, FORM, MANIFEST, TABLES, Backup, Manifest, chunks, opened
from bichat.errors.backup import BackupDamaged, BackupTooNew, NotABackup
from bichat.projections.verify import Progress

T = TypeVar("T")

_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")
_MOST = 1 << 20
"""Bytes in a list of digests."""


def found(directory: Path, known: list[str], progress: Progress) -> Backup:
    """The backup in a directory, every byte of it checked.

    `known` are the migrations of this code. Raises `NotABackup`, `BackupDamaged` or `BackupTooNew`.
    """
    path = Path(os.path.realpath(directory))
    if not path.is_dir():
        raise NotABackup(path=path, reason="there is no such directory")
    try:
        with opened(path, DIGESTS) as file:
            listed = file.read(_MOST)
    except BackupDamaged:
        raise NotABackup(path=path, reason=f"it has no {DIGESTS}, so it is no backup of bichat") from None
    digests = _listed(path, listed)
    manifest = _manifest(path, digests, known)
    _check(path, digests, progress)
    return Backup(path=path, manifest=manifest, digests=digests, digest=hashlib.sha256(listed).hexdigest())


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
    manifest, said = _decoded(text, Manifest), _decoded(text, _Said) or _Said()
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


def _decoded(text: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


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
