"""What the model was shown in one attempt: which messages, and the request itself, rebuilt and compared."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Literal
from uuid import UUID

from anyio import from_thread
from msgspec import Struct
from msgspec.structs import replace

from bichat.audit.attempts import Attempt, Called, Point, ShownRange
from bichat.events.codec import EventMapper, StoredRow, key_ids
from bichat.events.dialogue import MessageAdded, ReplyStarted
from bichat.events.envelope import Event
from bichat.events.keys.store import KeyStore
from bichat.events.seal import PersonKey
from bichat.model import ChatRequest, canonical
from bichat.shown import PAGE, Place, showing, shown_messages

Rows = Callable[..., Coroutine[Any, Any, list[StoredRow]]]
"""`TenantLog.stream`."""

Digest = Literal["matches", "differs", "erased"]
"""Whether the rebuilt request is the one that was sent; `erased`: its text is gone, nobody can tell."""


class Rebuilt(Struct, frozen=True, kw_only=True):
    """The request as far as it can be had, and whether its digest is the one in the log."""

    digest: Digest
    request: ChatRequest | None
    calls: tuple[Called, ...] = ()
    """What each request after the first had besides."""


class Opened:
    """The rows of the tenant's log as events, for code that runs in a thread and reads page by page.

    `blind`: text stays shut.
    """

    def __init__(
        self,
        rows: Rows,
        keys: KeyStore,
        *,
        blind: bool = False,
    ) -> None:
        self._rows, self._keys, self._blind = rows, keys, blind
        self._mapper = EventMapper(keys.by_id)
        self.versions: dict[UUID, int] = {}
        """Of the messages seen."""

    def read(
        self, stream_id: UUID, *, after: int = 0, upto: int | None = None, limit: int | None = None,
        desc: bool = False, kinds: Sequence[str] = (),
    ) -> list[Event]:  # fmt: skip
        """The ledger's `read`, as the tenant sees it."""
        query = partial(self._rows, stream_id, after=after, upto=upto, desc=desc, kinds=kinds)
        events = self.events(from_thread.run(query if limit is None else partial(query, limit=limit)))
        said = [(event.version, event.fact) for event in events if isinstance(event.fact, MessageAdded)]
        self.versions |= {message.message_id: version for version, message in said}
        return events

    def events(self, rows: Sequence[StoredRow]) -> list[Event]:
        """These rows as events."""
        if not self._blind:
            self._keys.prepare_ids(key_id for row in rows for key_id in key_ids(row))
        return [self._mapper.to_domain_event(row, blind=self._blind) for row in rows]

    def question(self, dialogue_id: UUID, message_id: UUID, before: int) -> int:
        """The version of a question, looked for backwards from `before`; 0 if it is not there."""
        while message_id not in self.versions:
            page = self.read(dialogue_id, upto=before, limit=PAGE, desc=True, kinds=("MessageAdded",))
            if not page:
                return 0
            before = page[-1].version - 1
        return self.versions[message_id]


def with_ranges(log: Opened, dialogue_id: UUID, attempts: Iterable[Attempt]) -> list[Attempt]:
    """These attempts with the messages that were shown in them. In a thread that anyio knows."""
    return [replace(one, messages=_range(log, dialogue_id, one)) for one in attempts]


def _range(log: Opened, dialogue_id: UUID, attempt: Attempt) -> ShownRange:
    asked = log.question(dialogue_id, attempt.message_id, attempt.version)
    said = shown_messages(log, Place(dialogue_id, asked, attempt.as_of), attempt.messages.count)
    if not said:
        return attempt.messages
    first, last = (Point(one.message_id, log.versions[one.message_id]) for one in (said[0], said[-1]))
    return ShownRange(count=len(said), first=first, last=last)


def rebuilt(
    log: Opened, begun: Event, question: int, started: ReplyStarted, keys: Iterable[PersonKey]
) -> Rebuilt:
    """The request of an attempt, compared by digest under whichever of the person's keys was used then.

    `begun`: the first event of the dialogue.
    """
    said = shown_messages(log, Place(begun.stream_id, question, started.shown.as_of), started.shown.messages)
    if any(one.content is None for one in said):
        return Rebuilt(digest="erased", request=None)
    request = showing(log, begun.tenant_id, started, said)
    sent = canonical(request)
    digests = (key.digest("request", sent).hex() for key in keys)
    same = any(hmac.compare_digest(digest, started.request_digest) for digest in digests)
    return Rebuilt(digest="matches" if same else "differs", request=request)
