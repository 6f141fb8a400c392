"""What signs seals, and the anchor: the newest seal, remembered outside of the log."""

from __future__ import annotations

import base64
import binascii
import logging
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct

from bichat.errors.unusable import WrongSetting
from bichat.events.keys.store import KeyStore
from bichat.events.proof.seals import Seal

_NEWEST = (
    "select public_key, master, wrapped from bichat_keys.signing_keys where wrapped is not null"
    " order by created_at desc limit 1"
)
_KEEP = (
    "insert into bichat_keys.signing_keys (public_key, master, wrapped) values (%s, %s, %s)"
    " on conflict do nothing"
)
_ANCHOR = (
    "insert into bichat_keys.anchor (number, hash) values (%s, %s) on conflict (one) do update"
    " set number = excluded.number, hash = excluded.hash, at = clock_timestamp()"
    " where anchor.number < excluded.number"
)


_SET_BACK = (
    "insert into bichat_keys.set_backs (kept, lost, hash) values (%s, %s, %s)"
    " on conflict (kept, lost) do update set hash = excluded.hash, at = clock_timestamp()"
)


log = logging.getLogger(__name__)


class Anchor(Struct, frozen=True):
    """The newest seal, as the keys store remembers it."""

    number: int
    hash: bytes


class SetBack(Struct, frozen=True):
    """Seals after `kept` up to `lost` went when an older backup of the log was restored."""

    kept: int
    lost: int
    hash: bytes
    """Of the seal `lost`: the one after it names that."""


class Remembered(Struct, frozen=True):
    """What the keys store knows of seals."""

    public_keys: frozenset[bytes]
    anchor: Anchor | None
    set_backs: tuple[SetBack, ...] = ()


class Signer:
    """Signs in the name of this installation: with the key `given`, else with one that the keys store has."""

    def __init__(self, keys: KeyStore, given: bytes | None = None) -> None:
        """`given`: the 32 bytes of an Ed25519 private key."""
        self._keys, self._given = keys, given

    def key(self) -> Ed25519PrivateKey:
        """The key given, else the newest one kept, made when there is none; its public key is kept."""
        with self._keys.connection() as connection, connection.transaction():
            connection.execute("select pg_advisory_xact_lock(hashtextextended('bichat_keys.signing', 0))")
            if self._given:
                key = Ed25519PrivateKey.from_private_bytes(self._given)
                public = key.public_key().public_bytes_raw()
                if connection.execute(_KEEP, (public, None, None)).rowcount:
                    # Whoever checks later trusts it: if the setting is wrong, somebody should hear of it now.
                    log.warning("Seals are signed with another key from now on: %s", written(public))
                return key
            found = connection.execute(_NEWEST).fetchone()
            return self._unwrap(*found) if found else self._make(connection)

    def public(self) -> bytes:
        """The public key of what signs now."""
        key = Ed25519PrivateKey.from_private_bytes(self._given) if self._given else self.key()
        return key.public_key().public_bytes_raw()

    def remembered(self) -> Remembered:
        """The public keys that have ever signed here, the anchor, and what restores have said."""
        with self._keys.connection() as connection, connection.transaction():
            keys = connection.execute("select public_key from bichat_keys.signing_keys").fetchall()
            anchor = connection.execute("select number, hash from bichat_keys.anchor").fetchone()
            gone = connection.execute("select kept, lost, hash from bichat_keys.set_backs").fetchall()
        public_keys = frozenset(key for (key,) in keys)
        return Remembered(public_keys, Anchor(*anchor) if anchor else None, tuple(SetBack(*g) for g in gone))

    def anchor(self, seal: Seal) -> None:
        """Remembers `seal`, unless a newer one is remembered."""
        with self._keys.connection() as connection:
            connection.execute(_ANCHOR, (seal.number, seal.hash))

    def set_back(self, newest: int) -> SetBack | None:
        """Says that the log was restored from a backup whose last seal is `newest`; what went with that."""
        anchor = self.remembered().anchor
        if anchor is None or anchor.number <= newest:
            return None
        with self._keys.connection() as connection:
            connection.execute(_SET_BACK, (newest, anchor.number, anchor.hash))
        return SetBack(newest, anchor.number, anchor.hash)

    def _make(self, connection: psycopg.Connection[Any]) -> Ed25519PrivateKey:
        key, master = Ed25519PrivateKey.generate(), self._keys.masters.current(connection)
        public = key.public_key().public_bytes_raw()
        wrapped = self._keys.masters.wrap(master, key.private_bytes_raw(), place_of(public))
        connection.execute(_KEEP, (public, master, wrapped))
        return key

    def _unwrap(self, public: bytes, master: str, wrapped: bytes) -> Ed25519PrivateKey:
        secret = self._keys.masters.unwrap(master, wrapped, place_of(public))
        return Ed25519PrivateKey.from_private_bytes(secret)


def place_of(public_key: bytes) -> bytes:
    """What the wrapped private key of a public key is bound to."""
    return b"bichat.signing.1" + public_key


def written(public_key: bytes) -> str:
    """A public key as people hand it on."""
    return base64.b64encode(public_key).decode()


def public_key(text: str, name: str = "--key") -> bytes:
    """The public key that `text` is (base64 or PEM), or that is in a file of this name.

    Raises `WrongSetting`, naming `name`.
    """
    given = text.strip()
    try:
        if not given.startswith("-----BEGIN") and len(given) != 44 and Path(given).is_file():
            given = Path(given).read_text().strip()
        if given.startswith("-----BEGIN"):
            loaded = load_pem_public_key(given.encode())
            found = loaded.public_bytes_raw() if isinstance(loaded, Ed25519PublicKey) else b""
        else:
            found = base64.b64decode(given, validate=True)
    except (OSError, ValueError, binascii.Error):
        found = b""
    if len(found) != 32:
        raise WrongSetting(
            name=name, reason="must be an Ed25519 public key in base64 or PEM, or a file with one"
        )
    return found
