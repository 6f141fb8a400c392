"""What the embedding worker does next: messages out of the log, whose they are, and what tells equal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from eventsourcing.application import LRUCache
from msgspec import Struct
from psycopg import Connection

from bichat.events.dialogue import DialogueStarted, MessageAdded
from bichat.events.envelope import Entry, Event
from bichat.events.feed import Feed
from bichat.events.seal import PersonKey
from bichat.model.embeddings import BATCH
from bichat.projections.vectors import Embedded

_READ = 4 * BATCH
"""Events that are looked at in one step."""
_OWNERS = 10_000
_UPTO = 2**62


class Text(Struct, frozen=True, kw_only=True):
    """A message that is to get a vector; equal texts of one person have one digest."""

    message_id: UUID
    dialogue_id: UUID
    tenant_id: UUID
    user_id: str
    position: int
    content: str
    digest: str

    def embedded(self, vector: str) -> Embedded:
        """With its vector, as it is stored: without the text."""
        return Embedded(
            message_id=self.message_id, dialogue_id=self.dialogue_id, tenant_id=self.tenant_id,
            user_id=self.user_id, digest=self.digest, embedding=vector, position=self.position,
        )  # fmt: skip


class Batch(Struct, frozen=True):
    """The texts in the log up to a position, from where one was."""

    texts: list[Text]
    upto: int


class Batches:
    """Reads the log in steps of at most `BATCH` texts."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._owners: LRUCache[UUID, str] = LRUCache(_OWNERS)

    def next(self, connection: Connection[Any], after: int) -> Batch | None:
        """The batch that comes after a position; None at the end of the log. Raises `EventTooNew`."""
        entries = self._feed.read(connection, after, _READ)
        if not entries:
            return None
        said: list[Event] = []
        upto = after
        for entry in entries:
            if _is_said(entry):
                if len(said) == BATCH:
                    break
                said.append(entry)  # type: ignore[arg-type]  # only events are said
            upto = entry.position
        return Batch(self._texts(connection, said), upto)

    def _texts(self, connection: Connection[Any], said: Sequence[Event]) -> list[Text]:
        owners = {event.stream_id: self._owner(connection, event) for event in said}
        persons = {(event.tenant_id, owner) for event in said if (owner := owners[event.stream_id])}
        self._feed.keys.prepare(persons)
        texts = []
        for event in said:
            owner = owners[event.stream_id]
            # Without a key its person is being forgotten, or it is damaged: nothing is kept of the text.
            if owner and (key := self._feed.keys.held((event.tenant_id, owner))):
                texts.append(_text(event, owner, key))
        return texts

    def _owner(self, connection: Connection[Any], event: Event) -> str | None:
        try:
            return self._owners.get(event.stream_id)
        except KeyError:
            first = self._feed.stream(connection, event.stream_id, 1, _UPTO, 1)
        if not first or not isinstance(first[0], Event) or not isinstance(first[0].fact, DialogueStarted):
            return None
        self._owners.put(event.stream_id, first[0].fact.user_id)
        return first[0].fact.user_id


def _is_said(entry: Entry) -> bool:
    fact = entry.fact if isinstance(entry, Event) else None
    return isinstance(fact, MessageAdded) and fact.role in ("user", "assistant") and bool(fact.content)


def _text(event: Event, owner: str, key: PersonKey) -> Text:
    fact = event.fact
    assert isinstance(fact, MessageAdded)  # noqa: S101 - `_is_said`
    content = fact.content or ""
    return Text(
        message_id=fact.message_id, dialogue_id=event.stream_id, tenant_id=event.tenant_id, user_id=owner,
        position=event.position, content=content, digest=key.digest("embedding", content.encode()).hex(),
    )  # fmt: skip
