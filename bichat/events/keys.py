"""Where the data keys of persons are kept: wrapped by the master key, in a store of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.application import LRUCache
from psycopg_pool import ConnectionPool, PoolTimeout
from uuid_utils.compat import uuid7

from bichat.errors import LogUnavailable
from bichat.errors.unusable import WrongMasterKey
from bichat.events.seal import PersonKey, derive

Person = tuple[UUID, str]
"""Tenant and user."""

T = TypeVar("T")

_HELD = 10_000
_NONCE = 12


class KeyStore:
    """Gives out data keys; safe to use from several threads, and remembers what it unwrapped."""

    def __init__(self, database_url: str, master_key: bytes) -> None:
        """Opens nothing yet; call `unlock` before use."""
        self._wrapper = AESGCM(derive(master_key, b"bichat.wrap.1"))
        self._master = derive(master_key, b"bichat.master.1").hex()[:32]
        self._by_person: LRUCache[Person, PersonKey] = LRUCache(_HELD)
        self._by_id: LRUCache[UUID, PersonKey] = LRUCache(_HELD)
        self._gone: LRUCache[UUID, bool] = LRUCache(_HELD)
        self._pool = ConnectionPool(
            database_url, min_size=0, max_size=4, open=False, timeout=5,
            kwargs={"autocommit": True, "application_name": "bichat keys", "connect_timeout": 5},
        )  # fmt: skip

    def unlock(self) -> None:
        """Checks that the master key is this store's; the first key that an empty store sees is it.

        Raises `WrongMasterKey`.
        """
        self._pool.open()
        with self._connection() as connection, connection.transaction():
            connection.execute("select pg_advisory_xact_lock(hashtextextended('bichat_keys.master', 0))")
            masters = [f for (f,) in connection.execute("select fingerprint from bichat_keys.master")]
            if not masters:
                connection.execute(
                    "insert into bichat_keys.master (fingerprint) values (%s)", (self._master,)
                )
            elif self._master not in masters:
                raise WrongMasterKey()

    def person(self, tenant_id: UUID, user_id: str) -> PersonKey:
        """The key that seals this person's text now; made on first use."""
        person = (tenant_id, user_id)
        if held := self.held(person):
            return held
        self.prepare([person])
        return self._by_person.get(person)

    def held(self, person: Person) -> PersonKey | None:
        """The same, if `prepare` has brought it: never waits."""
        return _held(self._by_person, person)

    def prepare(self, persons: Iterable[Person]) -> None:
        """Makes sure that each person has a key and that it is held, in as few round trips as possible."""
        missing = [person for person in set(persons) if not self.held(person)]
        if not missing:
            return
        with self._connection() as connection:
            found = self._fetch(connection, missing)
            if new := [person for person in missing if person not in found]:
                self._make(connection, new)
                found |= self._fetch(connection, new)
        for person, key in found.items():
            self._by_person.put(person, key)
            self._by_id.put(key.key_id, key)

    def by_id(self, key_id: UUID) -> PersonKey | None:
        """The key that something was sealed with; `None` when it was destroyed."""
        if held := _held(self._by_id, key_id):
            return held
        self.prepare_ids([key_id])
        return _held(self._by_id, key_id)

    def prepare_ids(self, key_ids: Iterable[UUID]) -> None:
        """Fetches the keys that are not held, in one round trip; remembers those that are destroyed."""
        missing = [i for i in set(key_ids) if not _held(self._by_id, i) and not _held(self._gone, i)]
        if not missing:
            return
        with self._connection() as connection:
            rows = connection.execute(
                "select key_id, tenant_id, user_id, wrapped from bichat_keys.data_keys"
                " where key_id = any(%s) and wrapped is not null",
                (missing,),
            ).fetchall()
        for key_id, tenant_id, user_id, wrapped in rows:
            self._by_id.put(key_id, self._unwrap(key_id, (tenant_id, user_id), wrapped))
        for key_id in set(missing) - {row[0] for row in rows}:
            self._gone.put(key_id, True)

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise LogUnavailable(
                reason=f"the data keys cannot be reached ({type(error).__name__})"
            ) from error

    def _fetch(self, connection: psycopg.Connection[Any], persons: list[Person]) -> dict[Person, PersonKey]:
        rows = connection.execute(
            "select distinct on (k.tenant_id, k.user_id) k.key_id, k.tenant_id, k.user_id, k.wrapped"
            " from bichat_keys.data_keys k"
            " join unnest(%s::uuid[], %s::text[]) as p(tenant_id, user_id) using (tenant_id, user_id)"
            " order by k.tenant_id, k.user_id, k.generation desc",
            ([tenant for tenant, _ in persons], [user for _, user in persons]),
        ).fetchall()
        return {(t, u): self._unwrap(key_id, (t, u), wrapped) for key_id, t, u, wrapped in rows if wrapped}

    def _make(self, connection: psycopg.Connection[Any], persons: list[Person]) -> None:
        """A new generation for each; of two processes doing this at once, one wins and both use its key."""
        rows = []
        for tenant_id, user_id in persons:
            key_id = uuid7()
            nonce = os.urandom(_NONCE)
            place = _place(key_id, (tenant_id, user_id))
            wrapped = nonce + self._wrapper.encrypt(nonce, os.urandom(32), place)
            rows.append((key_id, tenant_id, user_id, wrapped))
        connection.execute(
            "insert into bichat_keys.data_keys (key_id, tenant_id, user_id, generation, master, wrapped)"
            " select n.key_id, n.tenant_id, n.user_id, 1 + coalesce((select max(k.generation)"
            "   from bichat_keys.data_keys k where (k.tenant_id, k.user_id) = (n.tenant_id, n.user_id)), 0),"
            "   %s, n.wrapped"
            " from unnest(%s::uuid[], %s::uuid[], %s::text[], %s::bytea[])"
            "   as n(key_id, tenant_id, user_id, wrapped)"
            " where not exists (select from bichat_keys.data_keys k where k.wrapped is not null"
            "   and (k.tenant_id, k.user_id) = (n.tenant_id, n.user_id))"
            " on conflict (tenant_id, user_id, generation) do nothing",
            (self._master, *map(list, zip(*rows, strict=True))),
        )

    def _unwrap(self, key_id: UUID, person: Person, wrapped: bytes) -> PersonKey:
        place = _place(key_id, person)
        return PersonKey(key_id, self._wrapper.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], place))


def _place(key_id: UUID, person: Person) -> bytes:
    return b"bichat.key.1" + key_id.bytes + person[0].bytes + person[1].encode()


def _held(cache: LRUCache[Any, T], key: object) -> T | None:
    try:
        return cache.get(key)
    except KeyError:
        return None
