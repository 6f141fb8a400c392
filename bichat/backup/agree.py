"""Makes the log and the register of erasures agree on who was forgotten, whichever of them is older."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg import Connection
from psycopg.rows import tuple_row

from bichat.backup.sql import statement
from bichat.errors import EventUnreadable
from bichat.events.codec import EventMapper
from bichat.events.envelope import Event
from bichat.events.keys import data_keys
from bichat.events.person import ErasureOrdered, PersonErased
from bichat.events.recorder import COLUMNS, stored_row

# No index leads there without a tenant; it is one pass over the log, once.
_SAID = f"""
select {COLUMNS} from bichat.stored_events where topic in ('ErasureOrdered', 'PersonErased')
order by notification_id
"""  # noqa: S608 - columns of ours


class Said(Struct, frozen=True):
    """What a log says about who was forgotten."""

    void: list[UUID]
    """Keys that seal nothing any more."""
    ordered: dict[UUID, Event]
    """By erasure."""
    done: dict[UUID, Event]

    def persons(self) -> tuple[list[UUID], list[str], list[datetime]]:
        """Tenants and users, and when each was to be forgotten."""
        events = list(self.ordered.values())
        users = [str(getattr(event.fact, "user_id", "")) for event in events]
        return [event.tenant_id for event in events], users, [event.recorded_at for event in events]


def said(log: Connection[Any]) -> Said:
    """Reads it; nothing where there is no log yet."""
    if log.execute(statement("agree", "there")).fetchone() != (True,):
        return Said([], {}, {})
    void = [key_id for (key_id,) in log.execute(statement("agree", "void"))]
    found, mapper = Said(void, {}, {}), EventMapper(lambda _: None)
    with log.cursor(binary=True, row_factory=tuple_row) as cursor:
        for columns in cursor.execute(_SAID.encode()):
            with suppress(EventUnreadable):  # it was so before
                event = mapper.to_domain_event(stored_row(columns), blind=True)
                if isinstance(event.fact, ErasureOrdered):
                    _supersede(found, event)
                    found.ordered[event.fact.erasure_id] = event
                elif isinstance(event.fact, PersonErased):
                    found.done[event.fact.erasure_id] = event
    return found


def _supersede(found: Said, order: Event) -> None:
    """An order that comes before the one of its person is done is of a restore, and takes its place."""
    before = [i for i, one in found.ordered.items() if one.stream_id == order.stream_id]
    for erasure_id in before:
        if erasure_id not in found.done:
            del found.ordered[erasure_id]


def has_events(log: Connection[Any]) -> bool:
    """Whether there is a log at all."""
    there = log.execute(statement("agree", "there")).fetchone() == (True,)
    return there and log.execute(statement("agree", "has_events")).fetchone() == (True,)


def settle(known: Said, keys: Connection[Any]) -> int:
    """In the caller's transaction: the keys store forgets whom the log has forgotten, and notes them.

    What the register has and the log does not know is open again; returns how many that are.
    """
    keys.execute(statement("agree", "destroy"), (known.void,))
    for block, ids in (("drop", known.ordered), ("ordered", known.ordered), ("destroyed", known.done)):
        keys.execute(statement("agree", block), (list(ids),))
    for erasure_id, event in known.ordered.items():
        done, fact = known.done.get(erasure_id), event.fact
        at, erased = done and done.recorded_at, done and done.fact
        if isinstance(fact, ErasureOrdered):
            counted = (erased.dialogues, erased.keys) if isinstance(erased, PersonErased) else (0, 0)
            values = (erasure_id, event.tenant_id, fact.user_id, event.actor.kind, event.actor.id)
            times = (event.recorded_at, event.recorded_at, at, at)
            keys.execute(statement("agree", "register"), (*values, *times, *counted))
    reopened = keys.execute(statement("agree", "reopen"), (list(known.done),)).rowcount
    data_keys.changed(keys)
    return reopened
