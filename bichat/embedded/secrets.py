"""The JWT secret and the master key, made on the first start and kept 0600 in the data directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from bichat.config import Config
from bichat.embedded.directory import data_directory, write_private
from bichat.errors.unusable import WrongSetting


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
