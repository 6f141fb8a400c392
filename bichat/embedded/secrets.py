"""The JWT secret and the master key, made on the first start and kept 0600 in the data directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from bichat.config import Config
from bichat.embedded.directory import data_directory, write_private
from bichat.errors.unusable import SecretsLost, WrongSetting

_FILE = "secrets.json"


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is in the file."""

    jwt_secret: str
    master_key: bytes
    old_master_key: bytes | None = None
    """The one before, while it is being replaced."""


def with_secrets(config: Config) -> Config:
    """`config` with both secrets: those given, else those kept. Only with bichat's own database."""
    signs = config.bichat_jwt_secret or config.bichat_jwt_public_key
    if not config.brings_postgres or (signs and config.bichat_master_key):
        return config
    kept = read(data_directory(config))
    given = config.bichat_master_key
    return msgspec.structs.replace(
        config,
        bichat_jwt_secret=config.bichat_jwt_secret if signs else kept.jwt_secret,
        bichat_master_key=given or kept.master_key,
        bichat_old_master_key=config.bichat_old_master_key or (None if given else kept.old_master_key),
    )


def read(directory: Path) -> Kept:
    """The secrets of a data directory, made when it is new; raises `SecretsLost`, or `WrongSetting`."""
    path = directory / _FILE
    try:
        if not path.exists():
            if (directory / "postgres").exists():
                raise SecretsLost(path=path)
            fresh = Kept(secrets.token_urlsafe(32), secrets.token_bytes(32))
            _write_once(path, msgspec.json.encode(fresh))
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError) as error:
        raise WrongSetting(name="BICHAT_DATA_DIR", reason=f"{path} cannot be used ({error})") from None


def replace_master(directory: Path) -> Kept:
    """Makes a new master key and keeps the one before beside it, unless that was done before."""
    kept = read(directory)
    if kept.old_master_key is None:
        kept = Kept(kept.jwt_secret, secrets.token_bytes(32), kept.master_key)
        write_private(directory / _FILE, msgspec.json.encode(kept))
    return kept


def drop_old_master(directory: Path) -> None:
    """Forgets the one before: nothing is wrapped with it any more."""
    kept = read(directory)
    write_private(directory / _FILE, msgspec.json.encode(Kept(kept.jwt_secret, kept.master_key)))


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
