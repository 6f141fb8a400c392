"""New keys without a word of the log rewritten: another key to seal with, another master to wrap all keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from msgspec import Struct
from psycopg import Connection

from bichat.errors.unusable import KeysDamaged
from bichat.events.keys import data_keys
from bichat.events.keys.store import KeyStore
from bichat.events.proof import signing

Progress = Callable[[str, int, int], None]

_CHUNK = 1000


def now(keys: KeyStore) -> datetime:
    """By the store's clock."""
    with keys.connection() as connection:
        return connection.execute("select clock_timestamp()").fetchone()[0]  # type: ignore[index,no-any-return]


def renew(
    keys: KeyStore, before: datetime, tenant_id: UUID | None, user_id: str | None, progress: Progress
) -> int:
    """Seals from now on with a new key for each person whose newest is older than `before`; how many.

    All older ones stay readable. Who is being forgotten, or has no key, gets none.
    """
    made, seen, place = 0, 0, (UUID(int=0), "")
    wanted = {"before": before, "tenant": tenant_id, "user": user_id}
    with keys.connection() as connection:
        total = connection.execute(_HOW_MANY, wanted | _after(place)).fetchone()
        while persons := connection.execute(_NEXT, wanted | _after(place)).fetchall():
            made += data_keys.make(connection, keys.masters, persons, again=True)
            seen, place = seen + len(persons), persons[-1]
            progress("renewing", seen, total[0] if total else seen)
    return made


class _Damaged(Struct):
    """What no master key of these opens: it is left as it is."""

    keys: dict[UUID, str] = {}
    """Each with whose it is."""
    signing: set[bytes] = set()

    def __str__(self) -> str:
        signing = [f"the signing key {signing_key.hex()}" for signing_key in sorted(self.signing)]
        return "; ".join([*self.keys.values(), *signing])


def rewrap(keys: KeyStore, progress: Progress) -> int:
    """Wraps everything with the newest master, and retires the others; how many keys that were.

    It can be broken off at any time, and then both are needed until it was run again. So it is when there
    are damaged keys: raises `KeysDamaged` once all others are wrapped.
    """
    done, newest, damaged = 0, keys.masters.newest, _Damaged()
    with keys.connection() as connection:
        keys.masters.adopt(connection)
        row = connection.execute(_COUNT, (newest,)).fetchone()
        total = int(row[0]) if row else 0
        while not _retired(connection, newest, damaged):
            last: UUID | None = UUID(int=0)
            while last is not None:
                wrapped, last = _rewrap_some(connection, keys, last, damaged)
                done += wrapped
                progress("wrapping", done, max(done, total))
            done += _rewrap_signing(connection, keys, damaged)
    if named := str(damaged):
        raise KeysDamaged(named=named)
    return done


def _rewrap_some(
    connection: Connection[Any], keys: KeyStore, after: UUID, damaged: _Damaged
) -> tuple[int, UUID | None]:
    """How many that were, and the last one looked at."""
    newest, wrapped = keys.masters.newest, dict[UUID, bytes]()
    with connection.transaction():
        rows = connection.execute(_SOME, (newest, after, _CHUNK)).fetchall()
        for key_id, tenant_id, user_id, master, old in rows:
            try:
                wrapped[key_id] = _again(keys, master, old, data_keys.place_of(key_id, (tenant_id, user_id)))
            except InvalidTag:
                damaged.keys[key_id] = f"{key_id} of {user_id!r} of tenant {tenant_id}"
        connection.execute(_REWRAP, (newest, list(wrapped), list(wrapped.values())))
    return len(wrapped), rows[-1][0] if rows else None


def _rewrap_signing(connection: Connection[Any], keys: KeyStore, damaged: _Damaged) -> int:
    newest, done = keys.masters.newest, 0
    with connection.transaction():
        for public_key, master, old in connection.execute(_SIGNING, (newest,)).fetchall():
            try:
                wrapped = _again(keys, master, old, signing.place_of(public_key))
            except InvalidTag:
                damaged.signing.add(public_key)
                continue
            connection.execute(_REWRAP_SIGNING, (newest, wrapped, public_key))
            done += 1
    return done


def _again(keys: KeyStore, master: str, wrapped: bytes, place: bytes) -> bytes:
    secret = keys.masters.unwrap(master, wrapped, place)
    return keys.masters.wrap(keys.masters.newest, secret, place)


def _retired(connection: Connection[Any], newest: str, damaged: _Damaged) -> bool:
    """Whether nothing but what is damaged is wrapped by the other masters: without that, retires them."""
    with connection.transaction():
        # Waits for whoever wraps with one of them right now.
        connection.execute("select from bichat_keys.master where fingerprint <> %s for update", (newest,))
        left = (newest, list(damaged.keys), newest, list(damaged.signing))
        if connection.execute(_LEFT, left).fetchone() == (True,):
            return False
        if not str(damaged):
            connection.execute(
                "update bichat_keys.master set retired_at = clock_timestamp()"
                " where fingerprint <> %s and retired_at is null",
                (newest,),
            )
    return True


def _after(place: tuple[UUID, str]) -> dict[str, Any]:
    return {"after_tenant": place[0], "after_user": place[1]}


_OLD = """
select tenant_id, user_id from bichat_keys.data_keys
where (tenant_id, user_id) > (%(after_tenant)s, %(after_user)s)
and (%(tenant)s::uuid is null or tenant_id = %(tenant)s) and (%(user)s::text is null or user_id = %(user)s)
group by tenant_id, user_id having max(created_at) < %(before)s and bool_or(wrapped is not null)
order by tenant_id, user_id
"""
_HOW_MANY = f"select count(*) from ({_OLD}) old"  # noqa: S608 - text of ours
_NEXT = f"{_OLD} limit {_CHUNK}"
_COUNT = "select count(*) from bichat_keys.data_keys where master <> %s and wrapped is not null"
_SOME = """
select key_id, tenant_id, user_id, master, wrapped from bichat_keys.data_keys
where master <> %s and wrapped is not null and key_id > %s order by key_id limit %s for update
"""
_REWRAP = """
update bichat_keys.data_keys k set master = %s, wrapped = n.wrapped
from unnest(%s::uuid[], %s::bytea[]) as n(key_id, wrapped) where k.key_id = n.key_id
"""
_SIGNING = "select public_key, master, wrapped from bichat_keys.signing_keys where master <> %s for update"
_REWRAP_SIGNING = "update bichat_keys.signing_keys set master = %s, wrapped = %s where public_key = %s"
_LEFT = """
select exists (
    select from bichat_keys.data_keys
    where master <> %s and wrapped is not null and key_id <> all(%s::uuid[]))
or exists (select from bichat_keys.signing_keys where master <> %s and public_key <> all(%s::bytea[]))
"""
