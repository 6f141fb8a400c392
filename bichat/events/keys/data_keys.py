"""The table of data keys, each wrapped by a master key: which are there, and how new ones are made."""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from bichat.events.keys.masters import Masters

Person = tuple[UUID, str]
"""Tenant and user."""

Row = tuple[UUID, UUID, str, str, bytes]
"""Key id, tenant, user, master, and the wrapped key."""


_LIVE = (
    "select key_id, tenant_id, user_id, master, wrapped from bichat_keys.data_keys where wrapped is not null"
)
_BY_ID = f"{_LIVE} and key_id = any(%s)"
_GENERATIONS = f"{_LIVE} and (tenant_id, user_id) = (%s, %s) order by generation desc"

_FORGETTING = """
exists (
    select from bichat_keys.erasures e where (e.tenant_id, e.user_id) = (p.tenant_id, p.user_id)
    and e.ordered_at is not null and e.destroyed_at is null
)"""

_NEWEST = f"""
select distinct on (k.tenant_id, k.user_id) k.key_id, k.tenant_id, k.user_id, k.master, k.wrapped
from unnest(%s::uuid[], %s::text[]) as p(tenant_id, user_id)
join bichat_keys.data_keys k using (tenant_id, user_id)
where not {_FORGETTING} order by k.tenant_id, k.user_id, k.generation desc
"""  # noqa: S608 - text of ours

_MAKE = f"""
insert into bichat_keys.data_keys (key_id, tenant_id, user_id, generation, master, wrapped)
select p.key_id, p.tenant_id, p.user_id, 1 + coalesce(old.generation, 0), %s, p.wrapped
from unnest(%s::uuid[], %s::text[], %s::uuid[], %s::bytea[]) as p(tenant_id, user_id, key_id, wrapped)
left join lateral (
    select max(k.generation) as generation, bool_or(k.wrapped is not null) as live
    from bichat_keys.data_keys k where (k.tenant_id, k.user_id) = (p.tenant_id, p.user_id)
) old on true
where coalesce(old.live, false) = %s and not {_FORGETTING}
on conflict (tenant_id, user_id, generation) do nothing
"""  # noqa: S608 - text of ours

_STALE = """
select k.key_id, k.wrapped is null from bichat_keys.data_keys k where k.key_id = any(%s)
and (k.wrapped is null or exists (
    select from bichat_keys.data_keys n
    where (n.tenant_id, n.user_id) = (k.tenant_id, k.user_id) and n.generation > k.generation))
"""


def newest(connection: psycopg.Connection[Any], persons: list[Person]) -> list[Row]:
    """The newest key of each, unless that is destroyed, or the person is being forgotten."""
    found: list[Row] = connection.execute(_NEWEST, _columns(persons)).fetchall()
    return [row for row in found if row[-1]]


def living(connection: psycopg.Connection[Any], key_ids: list[UUID]) -> list[Row]:
    """Those of these keys that are not destroyed."""
    return connection.execute(_BY_ID, (key_ids,)).fetchall()


def generations(connection: psycopg.Connection[Any], person: Person) -> list[Row]:
    """All keys of a person that are not destroyed, newest first."""
    return connection.execute(_GENERATIONS, person).fetchall()


def stale(connection: psycopg.Connection[Any], key_ids: list[UUID]) -> dict[UUID, bool]:
    """Those of these keys that were destroyed (true) or superseded."""
    return dict(connection.execute(_STALE, (key_ids,)).fetchall())


def changes(connection: psycopg.Connection[Any]) -> int:
    """How often keys were destroyed or superseded."""
    row = connection.execute("select number from bichat_keys.changes").fetchone()
    return int(row[0]) if row else 0


def make(
    connection: psycopg.Connection[Any], masters: Masters, persons: list[Person], *, again: bool = False
) -> int:
    """A new generation for each who has no key, or has one and is to get another `again`; how many there are.

    Of two processes doing this at once, one wins and both use its key. Nothing is made for those who are
    being forgotten: the lock keeps anybody from becoming so meanwhile.
    """
    with connection.transaction():
        connection.execute("lock table bichat_keys.erasures in share mode")
        master, rows = masters.current(connection), []
        for person in persons:
            key_id = uuid7()
            rows.append((key_id, masters.wrap(master, os.urandom(32), place_of(key_id, person))))
        made = connection.execute(
            _MAKE, (master, *_columns(persons), *map(list, zip(*rows, strict=True)), again)
        ).rowcount
        if again:
            changed(connection)
    return made


def of_person(connection: psycopg.Connection[Any], person: Person) -> list[UUID]:
    """The keys of a person that are not destroyed."""
    query = (
        "select key_id from bichat_keys.data_keys"
        " where (tenant_id, user_id) = (%s, %s) and wrapped is not null"
    )
    return [key_id for (key_id,) in connection.execute(query, person)]


def destroy(connection: psycopg.Connection[Any], person: Person) -> None:
    """Destroys every key of a person, in the caller's transaction."""
    connection.execute(
        "update bichat_keys.data_keys set wrapped = null, destroyed_at = clock_timestamp()"
        " where (tenant_id, user_id) = (%s, %s) and wrapped is not null",
        person,
    )
    changed(connection)


def known(connection: psycopg.Connection[Any], person: Person) -> bool:
    """Whether there ever was a key of theirs."""
    query = "select exists (select from bichat_keys.data_keys where (tenant_id, user_id) = (%s, %s))"
    return connection.execute(query, person).fetchone() == (True,)


def changed(connection: psycopg.Connection[Any]) -> None:
    """Counts this transaction among those after which keys that are held may be stale."""
    connection.execute("update bichat_keys.changes set number = number + 1")


def place_of(key_id: UUID, person: Person) -> bytes:
    """What a wrapped data key is bound to."""
    return b"bichat.key.1" + key_id.bytes + person[0].bytes + person[1].encode()


def _columns(persons: list[Person]) -> tuple[list[UUID], list[str]]:
    return [tenant for tenant, _ in persons], [user for _, user in persons]
