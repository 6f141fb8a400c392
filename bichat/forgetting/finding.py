"""What is looked for in the log itself, as read models may lag: a person's dialogues, a tenant's holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from bichat.errors import EventUnreadable, Unavailable
from bichat.errors.unusable import EventTooNew
from bichat.events.codec import StoredRow
from bichat.events.dialogue import DialogueStarted, TextErased
from bichat.events.envelope import Actor, Event
from bichat.events.keys import data_keys
from bichat.events.keys.register import Erasure
from bichat.events.ledger import Ledger
from bichat.events.person import NOBODY, ErasureOrdered, HoldPlaced, HoldReleased, stream_of
from bichat.logs import described

_STARTED = (DialogueStarted.__name__,)
_HOLDS = (HoldPlaced.__name__, HoldReleased.__name__)

log = logging.getLogger(__name__)


class Hold(Struct, frozen=True, kw_only=True):
    """A legal hold that is in force."""

    hold_id: UUID
    user_id: str
    dialogue_id: UUID | None
    reason: str | None
    """None: it went with the person's key."""
    placed_at: datetime
    placed_by: Actor


def known(ledger: Ledger, tenant_id: UUID, user_id: str) -> bool:
    """Whether there is anything of such a person: a key, a dialogue, or something said about them."""
    with ledger.keys.connection() as connection:
        if data_keys.known(connection, (tenant_id, user_id)):
            return True
    if ledger.stream(stream_of(tenant_id, user_id), NOBODY).head.version:
        return True
    return bool(dialogues_of(ledger, tenant_id, user_id))


def owner(ledger: Ledger, dialogue_id: UUID) -> str | None:
    """Of whom a dialogue is, as far as that can be read."""
    try:
        return ledger.load(dialogue_id).state.user_id
    except Unavailable:
        raise
    except Exception as error:  # whatever somebody has made of it
        log.debug("%s cannot be read: %s", dialogue_id, described(error))
        return None


def dialogues_of(ledger: Ledger, tenant_id: UUID, user_id: str) -> dict[UUID, bool]:
    """The dialogues of a person, first opened first.

    False: its first event cannot be read, so it may be theirs.
    """
    found = {}
    for row in ledger.mentioning(tenant_id, _STARTED, user_id, user_id):
        try:
            fact = ledger.decode(row, blind=True).fact
        except (EventUnreadable, EventTooNew):
            found[_stream(row)] = False
        else:
            if isinstance(fact, DialogueStarted) and fact.user_id == user_id:
                found[_stream(row)] = True
    return found


def holds(
    ledger: Ledger, tenant_id: UUID, *, user_id: str | None = None, hold_id: UUID | None = None
) -> list[Hold]:
    """The holds of a tenant that are in force, or those of a person, or this one; first placed first."""
    placed: dict[UUID, Hold] = {}
    wanted = str(hold_id) if hold_id else user_id or ""
    for row in ledger.mentioning(tenant_id, _HOLDS, wanted):
        event = ledger.decode(row)
        match event.fact:
            case HoldPlaced():
                placed[event.fact.hold_id] = hold(event)
            case HoldReleased() as released:
                placed.pop(released.hold_id, None)
    return [
        one for one in placed.values() if user_id in (None, one.user_id) and hold_id in (None, one.hold_id)
    ]


def hold(event: Event) -> Hold:
    """The hold that an event placed."""
    fact = event.fact
    if not isinstance(fact, HoldPlaced):
        raise TypeError(type(fact).__name__)
    return Hold(
        hold_id=fact.hold_id, user_id=fact.user_id, dialogue_id=fact.dialogue_id, reason=fact.reason,
        placed_at=event.at, placed_by=event.actor,
    )  # fmt: skip


def orders(ledger: Ledger, tenant_id: UUID, user_id: str) -> list[Event]:
    """That the person be forgotten, oldest first."""
    return ledger.read(stream_of(tenant_id, user_id), kinds=[ErasureOrdered.__name__])


def last_order(
    events: Sequence[Event], *, of: UUID | None = None, upto: int = 2**62
) -> tuple[Event, ErasureOrdered] | None:
    """The last order among a person's events: of an erasure, and up to a version."""
    for event in reversed(events):
        fact = event.fact
        if isinstance(fact, ErasureOrdered) and of in (None, fact.erasure_id) and event.version <= upto:
            return event, fact
    return None


def told(ledger: Ledger, erasure: Erasure, order: Event | None) -> int:
    """How many dialogues have dropped their text for an erasure, since its order if that can be read."""
    since = order.position if order else 0
    return ledger.count(erasure.tenant_id, TextErased.__name__, erasure.erasure_id, since)


def _stream(row: StoredRow) -> UUID:
    return UUID(str(row.originator_id))
