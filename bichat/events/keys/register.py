"""The register of erasures, in the keys store: who asked for what, how far it is, and the end of the keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from psycopg import AsyncConnection, InterfaceError, OperationalError
from psycopg.rows import class_row
from uuid_utils.compat import uuid7

from bichat.errors import LogUnavailable
from bichat.events.envelope import Actor
from bichat.events.keys import data_keys
from bichat.events.keys.store import KeyStore


class Erasure(Struct, frozen=True, kw_only=True):
    """One person to be forgotten, or forgotten."""

    erasure_id: UUID
    tenant_id: UUID
    user_id: str
    actor_kind: str
    actor_id: str
    asked_at: datetime
    ordered_at: datetime | None
    """The log says so; until `destroyed_at` nothing is sealed for the person."""
    destroyed_at: datetime | None
    done_at: datetime | None
    dialogues: int
    """That were told to drop their text."""
    keys: int
    """That were destroyed."""
    unreadable: list[UUID]
    """Dialogues that could not be told: what is sealed in them is gone with the keys all the same."""

    @property
    def actor(self) -> Actor:
        """Who asked for it."""
        return Actor(self.actor_kind, self.actor_id)  # type: ignore[arg-type]  # as it was written


_COLUMNS = ", ".join(Erasure.__struct_fields__)


def ask(keys: KeyStore, tenant_id: UUID, user_id: str, actor: Actor) -> Erasure:
    """Notes that somebody is about to order the erasure of a person; joins one that is under way."""
    columns = (uuid7(), tenant_id, user_id, actor.kind, actor.id)
    return _one(keys, _ASK, columns)


def ordered(keys: KeyStore, erasure: Erasure) -> Erasure:
    """From here on nobody makes a key for the person, and nobody hands one out to seal with."""
    columns = (erasure.erasure_id, erasure.tenant_id, erasure.user_id, *_actor(erasure.actor))
    return _one(keys, _ORDERED, columns)


def drop(keys: KeyStore, erasure_id: UUID) -> None:
    """Takes back what was asked but not ordered."""
    with keys.connection() as connection:
        connection.execute(
            "delete from bichat_keys.erasures where erasure_id = %s and ordered_at is null", (erasure_id,)
        )


def destroy(keys: KeyStore, erasure: Erasure, dialogues: int, unreadable: list[UUID]) -> Erasure:
    """Destroys every key of the person, once; from here on they may come back, with a new one."""
    person = (erasure.tenant_id, erasure.user_id)
    with keys.connection() as connection, connection.transaction():
        if connection.execute(_STILL, (erasure.erasure_id,)).fetchone():
            data_keys.destroy(connection, person)
            connection.execute(_DESTROYED, (dialogues, unreadable, *person, erasure.erasure_id))
    keys.look()
    return find(keys, erasure.erasure_id) or erasure


def keys_of(keys: KeyStore, erasure: Erasure) -> list[UUID]:
    """The keys of the person that are not destroyed yet; none once they were, for a new one is not meant."""
    with keys.connection() as connection, connection.transaction():
        if connection.execute(_STILL, (erasure.erasure_id,)).fetchone():
            return data_keys.of_person(connection, (erasure.tenant_id, erasure.user_id))
    return []


@asynccontextmanager
async def alone(keys: KeyStore, erasure_id: UUID) -> AsyncIterator[bool]:
    """Whether nobody else works on it, for as long as the context lasts; raises `LogUnavailable`."""
    try:
        async with await AsyncConnection.connect(keys.url, autocommit=True, connect_timeout=5) as connection:
            lock = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
            row = await (await connection.execute(lock, (f"bichat_keys.erasure {erasure_id}",))).fetchone()
            yield row == (True,)
    except (OperationalError, InterfaceError) as error:
        raise LogUnavailable(reason=f"the data keys cannot be reached ({type(error).__name__})") from error


def done(keys: KeyStore, erasure: Erasure) -> Erasure:
    """Says that nothing is left to be done."""
    return _one(keys, _DONE, (erasure.erasure_id,))


def find(keys: KeyStore, erasure_id: UUID) -> Erasure | None:
    """The entry of an erasure."""
    found = _many(keys, f"{_SELECT} where erasure_id = %s", (erasure_id,))
    return found[0] if found else None


def of_tenant(keys: KeyStore, tenant_id: UUID, limit: int, before: UUID | None = None) -> list[Erasure]:
    """A tenant's register, the newest first; `before`: older ones than this."""
    query = (
        f"{_SELECT} where tenant_id = %s and ordered_at is not null and (%s::uuid is null or erasure_id < %s)"
        " order by erasure_id desc limit %s"
    )
    return _many(keys, query, (tenant_id, before, before, limit))


def under_way(keys: KeyStore, older: float) -> list[Erasure]:
    """What was asked for more than `older` seconds ago and is not done."""
    query = (
        f"{_SELECT} where done_at is null"
        " and asked_at < clock_timestamp() - make_interval(secs => %s) order by asked_at limit 100"
    )
    return _many(keys, query, (older,))


def unreached(keys: KeyStore) -> tuple[datetime | None, list[UUID]]:
    """When a person's keys were destroyed last, and all dialogues that could not be told."""
    with keys.connection() as connection:
        newest = connection.execute("select max(destroyed_at) from bichat_keys.erasures").fetchone()
        untold = connection.execute("select distinct unnest(unreadable) from bichat_keys.erasures").fetchall()
    return newest[0] if newest else None, [dialogue_id for (dialogue_id,) in untold]


_SELECT = f"select {_COLUMNS} from bichat_keys.erasures"  # noqa: S608 - columns of ours

_ASK = f"""
insert into bichat_keys.erasures as e (erasure_id, tenant_id, user_id, actor_kind, actor_id)
values (%s, %s, %s, %s, %s)
on conflict (tenant_id, user_id) where destroyed_at is null do update set user_id = excluded.user_id
returning {_COLUMNS}
"""  # noqa: S608 - columns of ours

_ORDERED = f"""
insert into bichat_keys.erasures as e (erasure_id, tenant_id, user_id, actor_kind, actor_id, ordered_at)
values (%s, %s, %s, %s, %s, clock_timestamp())
on conflict (erasure_id) do update set ordered_at = coalesce(e.ordered_at, excluded.ordered_at)
returning {_COLUMNS}
"""  # noqa: S608 - columns of ours

_STILL = "select 1 from bichat_keys.erasures where erasure_id = %s and destroyed_at is null for update"

_DESTROYED = """
update bichat_keys.erasures e set destroyed_at = clock_timestamp(), dialogues = %s, unreadable = %s, keys = (
    select count(*) from bichat_keys.data_keys k
    where (k.tenant_id, k.user_id) = (%s, %s) and k.destroyed_at >= e.ordered_at)
where erasure_id = %s
"""

_DONE = f"""
update bichat_keys.erasures set done_at = coalesce(done_at, clock_timestamp()) where erasure_id = %s
returning {_COLUMNS}
"""  # noqa: S608 - columns of ours


def _actor(actor: Actor) -> tuple[str, str]:
    return actor.kind, actor.id


def _one(keys: KeyStore, query: str, parameters: tuple[object, ...]) -> Erasure:
    return _many(keys, query, parameters)[0]


def _many(keys: KeyStore, query: str, parameters: tuple[object, ...]) -> list[Erasure]:
    with keys.connection() as connection, connection.cursor(row_factory=class_row(Erasure)) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()
