"""Where the data keys of persons are kept: wrapped by the master key, in a store of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from cryptography.exceptions import InvalidTag
from eventsourcing.application import LRUCache
from psycopg_pool import ConnectionPool, PoolTimeout

from bichat.errors import BeingForgotten, LogUnavailable
from bichat.events.keys import data_keys
from bichat.events.keys.data_keys import Person, Row
from bichat.events.keys.masters import Masters
from bichat.events.seal import PersonKey

T = TypeVar("T")

_HELD = 10_000
_LOOK = 1.0
"""Seconds between two looks at whether keys that are held were destroyed or superseded."""
_SETTLED = 5.0
"""Seconds after a change in which the looks go on: what was read before it may have been put by after it."""
DAMAGED = "the data key of this person is damaged"


class KeyStore:
    """Gives out data keys; safe to use from several threads, and remembers what it unwrapped."""

    def __init__(self, database_url: str, master_key: bytes, old_master_key: bytes | None = None) -> None:
        """Opens nothing yet; call `unlock` before use. The old master key is that of a rotation under way."""
        self.masters = Masters(master_key, old_master_key)
        self.url = database_url
        self._by_person: LRUCache[Person, PersonKey] = LRUCache(_HELD)
        self._by_id: LRUCache[UUID, PersonKey] = LRUCache(_HELD)
        self._gone: LRUCache[UUID, bool] = LRUCache(_HELD)
        self._changes, self._settled = 0, 0.0
        self._closed, self._watcher = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        self._pool = ConnectionPool(
            database_url, min_size=0, max_size=4, open=False, timeout=5,
            reconnect_timeout=1,  # then whoever needs one asks anew: the pool's own waits double, for minutes
            kwargs={"autocommit": True, "application_name": "bichat keys", "connect_timeout": 5},
        )  # fmt: skip

    def unlock(self, *, new: bool = True) -> None:
        """Checks that the master keys are this store's; the first one that an empty store sees is it.

        Raises `WrongMasterKey`, and unless the store may be `new`, `KeysMissing`.
        """
        self._pool.open()
        with self.connection() as connection:
            self.masters.unlock(connection, new=new)

    def watch(self) -> None:
        """From now on, lets go of keys within a second or two of their end; for processes that live long."""
        self._watcher.start()

    def person(self, tenant_id: UUID, user_id: str) -> PersonKey:
        """The key that seals this person's text now; made on first use.

        Raises `BeingForgotten`, and `LogUnavailable` also for a damaged one.
        """
        person = (tenant_id, user_id)
        if held := self.held(person):
            return held
        damaged = self.prepare([person])
        if held := self.held(person):
            return held
        raise LogUnavailable(reason=DAMAGED) if damaged else BeingForgotten()

    def held(self, person: Person) -> PersonKey | None:
        """The same, if `prepare` has brought it: never waits."""
        return _held(self._by_person, person)

    def prepare(self, persons: Iterable[Person]) -> set[Person]:
        """Makes sure that each has a key and that it is held, in as few round trips as possible.

        But for those who are being forgotten, as nobody seals anything for them until that is done, and
        those whose key is damaged, whom it returns: another key would hide that.
        """
        missing = [person for person in set(persons) if not self.held(person)]
        if not missing:
            return set()
        with self.connection() as connection:
            found = data_keys.newest(connection, missing)
            known = {(tenant_id, user_id) for _, tenant_id, user_id, *_ in found}
            if new := [person for person in missing if person not in known]:
                data_keys.make(connection, self.masters, new)
                found += data_keys.newest(connection, new)
        opened = {(row[1], row[2]): self._opened(row) for row in found}
        for person, key in opened.items():
            if key:
                self._by_person.put(person, key)
                self._by_id.put(key.key_id, key)
        return {person for person, key in opened.items() if key is None}

    def by_id(self, key_id: UUID, others: Iterable[UUID] = ()) -> PersonKey | None:
        """The key that something was sealed with; `None` when it was destroyed.

        If it is not held, `others` are fetched along with it. Raises `InvalidTag` when it is damaged.
        """
        if held := _held(self._by_id, key_id):
            return held
        if not _held(self._gone, key_id) and key_id in self.prepare_ids(chain([key_id], others)):
            raise InvalidTag
        return _held(self._by_id, key_id)

    def held_by_id(self, key_id: UUID) -> PersonKey | None:
        """The same after `prepare_ids`: never waits. Raises `LogUnavailable` when that has not brought it."""
        held = _held(self._by_id, key_id)
        if held is None and not _held(self._gone, key_id):
            raise LogUnavailable(reason="a data key that this needs is damaged or cannot be reached")
        return held

    def prepare_ids(self, key_ids: Iterable[UUID]) -> set[UUID]:
        """Fetches the keys that are not held, in one round trip; remembers those that are destroyed.

        Returns those that are damaged.
        """
        missing = [i for i in set(key_ids) if not _held(self._by_id, i) and not _held(self._gone, i)]
        if not missing:
            return set()
        with self.connection() as connection:
            rows = data_keys.living(connection, missing)
        opened = {row[0]: self._opened(row) for row in rows}
        for key_id, key in opened.items():
            if key:
                self._by_id.put(key_id, key)
        for key_id in set(missing) - opened.keys():
            self._gone.put(key_id, True)
        return {key_id for key_id, key in opened.items() if key is None}

    def generations(self, tenant_id: UUID, user_id: str) -> list[PersonKey]:
        """All keys of a person that are neither destroyed nor damaged, newest first."""
        with self.connection() as connection:
            rows = data_keys.generations(connection, (tenant_id, user_id))
        return [key for row in rows if (key := self._opened(row))]

    def forget(self, persons: Iterable[Person]) -> None:
        """Lets go of what is held for sealing: it is looked up anew."""
        for person in persons:
            _drop(self._by_person, person)

    def look(self) -> None:
        """Lets go of what is held and was destroyed, or superseded by a newer generation."""
        with self.connection() as connection:
            if (number := data_keys.changes(connection)) != self._changes:
                self._changes, self._settled = number, time.monotonic() + _SETTLED
            if time.monotonic() > self._settled:
                return
            # Each read at once as far as Python's other threads can see.
            sealing = {
                key.key_id: person for person in tuple(self._by_person.cache) if (key := self.held(person))
            }
            stale = data_keys.stale(connection, [*sealing, *tuple(self._by_id.cache)])
        for key_id, destroyed in stale.items():
            if person := sealing.get(key_id):
                _drop(self._by_person, person)
            if destroyed:
                _drop(self._by_id, key_id)

    def close(self) -> None:
        """Closes the connections."""
        self._closed.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._pool.close()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection to the store, in autocommit mode; raises `LogUnavailable`."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise LogUnavailable(
                reason=f"the data keys cannot be reached ({type(error).__name__})"
            ) from error

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK):
            with suppress(LogUnavailable):  # whoever needs a key now says so
                self.look()

    def _opened(self, row: Row) -> PersonKey | None:
        """The key of a row; `None` when it is damaged."""
        key_id, tenant_id, user_id, master, wrapped = row
        place = data_keys.place_of(key_id, (tenant_id, user_id))
        try:
            return PersonKey(key_id, self.masters.unwrap(master, wrapped, place))
        except InvalidTag:
            return None


def _held(cache: LRUCache[Any, T], key: object) -> T | None:
    try:
        return cache.get(key)
    except KeyError:
        return None


def _drop(cache: LRUCache[Any, Any], key: object) -> None:
    with suppress(KeyError):
        cache.get(key, evict=True)
