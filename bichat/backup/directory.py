"""A directory that appears whole or not at all, for its owner only."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from bichat.errors.backup import BackupFailed

LEVEL = 1
"""Most of a log is sealed text, which no level makes smaller."""


@contextmanager
def new(directory: Path) -> Iterator[Making]:
    """A directory to write in, which gets its name at the end; an error leaves nothing behind.

    What a killed process has left is cleared by the next one that makes the same. Raises `BackupFailed`.
    """
    path = Path(os.path.realpath(directory))
    making = path.with_name(f"{path.name}.unfinished")
    try:
        _refuse(path)
        held = _hold(making)
        try:
            yield Making(making)
            _sync(making)
            os.rename(making, path)  # over an empty directory, if there is one
            _sync(path.parent)
        finally:
            shutil.rmtree(making, ignore_errors=True)
            os.close(held)
    except OSError as error:
        raise BackupFailed(reason=f"{error.filename or path}: {error.strerror}") from None


def _refuse(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise BackupFailed(reason=f"{path} is not a directory")
    if any(path.iterdir()):
        raise BackupFailed(reason=f"{path} is not empty")
    if path.is_mount():
        raise BackupFailed(reason=f"{path} is where something is mounted: name a new directory in it")


def _hold(making: Path) -> int:
    """Makes the directory, or one anew that a killed process has left; nobody else has it then."""
    making.mkdir(mode=0o700, exist_ok=True)
    held = os.open(making, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(held).st_uid != os.geteuid():
            raise BackupFailed(reason=f"{making} belongs to somebody else")
        os.fchmod(held, 0o700)
        for left in making.iterdir():
            left.unlink()
    except BlockingIOError:
        os.close(held)
        raise BackupFailed(reason="another process is making it right now") from None
    except BaseException:
        os.close(held)
        raise
    return held


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class Making:
    """Where files are written, 0600, and their digests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests: dict[str, str] = {}
        self.size = 0
        """Bytes so far."""

    def plain(self, name: str, content: bytes) -> None:
        """Writes one small file."""
        with self._file(name) as file:
            file.write(content)

    @contextmanager
    def compressed(self, name: str) -> Iterator[zstandard.ZstdCompressionWriter]:
        """A file that is compressed as it is written."""
        compressor = zstandard.ZstdCompressor(LEVEL)
        with self._file(name) as file:
            sink = cast(BinaryIO, file)  # `write` is all that is asked of it
            with compressor.stream_writer(sink, closefd=False) as writer:
                yield writer

    @contextmanager
    def _file(self, name: str) -> Iterator[_Digested]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.path / name, flags, 0o600), "wb", buffering=0) as raw:
            digested = _Digested(raw.fileno())
            yield digested
            os.fsync(raw.fileno())
        self.digests[name] = digested.sha.hexdigest()
        self.size += digested.size


class _Digested:
    """Writes to a file, and what it writes into a digest."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.sha = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """All of it, or an error."""
        self.sha.update(data)
        self.size += len(data)
        left = memoryview(data)
        while left:
            left = left[os.write(self._number, left) :]
        return len(data)
