"""The data directory: who owns it, and what the owner tells the others."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from bichat.config import Config
from bichat.errors.unusable import DataDirectoryTaken, WrongSetting

_ANNOUNCED, _LOCK = "servers.json", "lock"


class Announced(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the owner of a data directory says (`servers.json`, 0600)."""

    pid: int
    ready: bool = False
    urls: dict[str, str] = {}
    """By the config's field name; only what the owner brought along."""
    api_url: str = ""
    """Where `bichat serve` answers; empty when the owner is another verb."""
    certificate: str = ""
    """The path of the one that it shows there."""


def data_directory(config: Config) -> Path:
    """The data directory, absolute, made when it is not there; raises `WrongSetting`."""
    path = config.bichat_data_dir.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error) from None
    return path


def take(directory: Path) -> int:
    """Lock the directory for as long as this process lives; the kernel lets go of it when we die.

    Raises `DataDirectoryTaken`, or `WrongSetting` when it cannot be written.
    """
    try:
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        if not _locked(lock):
            os.close(lock)
            raise DataDirectoryTaken(path=directory, pid=_named_in(directory))
    except OSError as error:
        raise _unusable(directory, error) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _locked(lock: int) -> bool:
    for _ in range(5):  # someone may be looking whether there is an owner (`owner`)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def owner(directory: Path) -> int | None:
    """The process that owns the directory, `None` when nobody does; raises `WrongSetting`."""
    try:
        with open(directory / _LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named_in(directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(directory, error) from None
    return None


def refuse_if_owned(config: Config) -> None:
    """Raises `DataDirectoryTaken` when another process has the data directory now."""
    path = config.bichat_data_dir.absolute()
    if (pid := owner(path)) is not None:
        raise DataDirectoryTaken(path=path, pid=pid)


def _named_in(directory: Path) -> int:
    """The owner's process id; 0 while it has not written it yet."""
    text = (directory / _LOCK).read_text()
    return int(text) if text.strip().isdigit() else 0


def announce(directory: Path, announced: Announced | None) -> None:
    """Tell the others; `None`: there is nothing any more."""
    if announced:
        write_private(directory / _ANNOUNCED, msgspec.json.encode(announced))
    else:
        (directory / _ANNOUNCED).unlink(missing_ok=True)


def announced(directory: Path) -> Announced | None:
    """What was said last; whoever said it may have been killed since."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((directory / _ANNOUNCED).read_bytes(), type=Announced)
    return None


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only we can read, whole or not at all."""
    making = path.with_name(f"{path.name}.{os.getpid()}")
    making.unlink(missing_ok=True)
    with open(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    making.rename(path)


def _unusable(path: Path, error: OSError) -> WrongSetting:
    return WrongSetting(name="BICHAT_DATA_DIR", reason=f"{path} cannot be used ({error.strerror})")
