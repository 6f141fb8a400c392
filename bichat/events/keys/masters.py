"""The master keys: what wraps the data keys, and which of two is the one that does it now."""

from __future__ import annotations

import os
from typing import Any

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bichat.errors import LogUnavailable
from bichat.errors.unusable import KeysMissing, WrongMasterKey
from bichat.events.seal import derive

_NONCE = 12


class Masters:
    """Those that this process was given: the one of today, and the one before while it is being replaced."""

    def __init__(self, key: bytes, old: bytes | None = None) -> None:
        """32 bytes each."""
        self.newest = fingerprint(key)
        self._wrappers = {
            fingerprint(one): AESGCM(derive(one, b"bichat.wrap.1")) for one in (old, key) if one is not None
        }

    def unlock(self, connection: psycopg.Connection[Any], *, new: bool = True) -> None:
        """Checks that they are this store's; the first one that an empty store sees is it.

        Raises `WrongMasterKey`, and unless the store may be `new`, `KeysMissing`.
        """
        with connection.transaction():
            _alone(connection)
            used = [one for (one,) in connection.execute(_IN_USE)]
            if not used and not new:
                raise KeysMissing()
            if not used:
                self.adopt(connection)
            elif not set(used) <= self._wrappers.keys():
                raise WrongMasterKey()

    def current(self, connection: psycopg.Connection[Any]) -> str:
        """The one that wraps now; it stays so until the transaction ends."""
        row = connection.execute(f"{_IN_USE} order by created_at desc limit 1 for share").fetchone()
        return row[0] if row else self.newest

    def adopt(self, connection: psycopg.Connection[Any]) -> None:
        """From now on everybody wraps with the newest."""
        connection.execute(
            "insert into bichat_keys.master as m (fingerprint) values (%s)"
            " on conflict (fingerprint) do update"
            " set created_at = excluded.created_at, retired_at = null where m.retired_at is not null",
            (self.newest,),
        )

    def wrap(self, master: str, secret: bytes, place: bytes) -> bytes:
        """`secret` so that only the holder of this master can read it, and only at `place`."""
        nonce = os.urandom(_NONCE)
        return nonce + self._of(master).encrypt(nonce, secret, place)

    def unwrap(self, master: str, wrapped: bytes, place: bytes) -> bytes:
        """The secret; raises `InvalidTag` when it was changed or moved."""
        cipher = self._of(master)
        try:
            return cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], place)
        except ValueError:  # too short even for a nonce
            raise InvalidTag from None

    def _of(self, master: str) -> AESGCM:
        if found := self._wrappers.get(master):
            return found
        raise LogUnavailable(reason="a data key is wrapped by a master key that this process was not given")


def fingerprint(key: bytes) -> str:
    """Names a master key and tells nothing of it."""
    return derive(key, b"bichat.master.1").hex()[:32]


_IN_USE = "select fingerprint from bichat_keys.master where retired_at is null"


def _alone(connection: psycopg.Connection[Any]) -> None:
    connection.execute("select pg_advisory_xact_lock(hashtextextended('bichat_keys.master', 0))")
