"""The JWT secret and the master key, made on the first start and kept 0600 in the data directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from bichat.config import Config
from bichat.errors import WrongSetting


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    jwt_secret: str
    master_key: bytes


def with_secrets(config: Config) -> Config:
    """`config` with both secrets: those given, else those kept. Only with bichat's own database."""
    signs = config.bichat_jwt_secret or config.bichat_jwt_public_key
    if not config.brings_postgres or (signs and config.bichat_master_key):
        return config
    kept = _kept(data_directory(config) / "secrets.json")
    return msgspec.structs.replace(
        config,
        bichat_jwt_secret=config.bichat_jwt_secret if signs else kept.jwt_secret,
        bichat_master_key=config.bichat_master_key or kept.master_key,
    )


def data_directory(config: Config) -> Path:
    """The data directory, absolute, made when it is not there; raises `WrongSetting`."""
    path = config.bichat_data_dir.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{path} cannot be used ({error.strerror})"
        raise WrongSetting(name="BICHAT_DATA_DIR", reason=reason) from None
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only we can read, whole or not at all."""
    making = path.with_name(f"{path.name}.{os.getpid()}")
    making.unlink(missing_ok=True)
    with open(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    making.rename(path)


def _kept(path: Path) -> _Kept:
    try:
        if not path.exists():
            fresh = _Kept(secrets.token_urlsafe(32), secrets.token_bytes(32))
            _write_once(path, msgspec.json.encode(fresh))
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError) as error:
        raise WrongSetting(name="BICHAT_DATA_DIR", reason=f"{path} cannot be used ({error})") from None


def _write_once(path: Path, content: bytes) -> None:
    """As `write_private`, but the first of two processes wins and both then read the same."""
    making = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    write_private(making, content)
    try:
        os.link(making, path)
    except FileExistsError:
        pass
    finally:
        making.unlink()
