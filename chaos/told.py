"""What clients did and were told: each request with every answer to it, each stream with every event."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from msgspec import Struct, field

Doing = Literal["start", "add", "rename", "cancel", "retry"]
ENDS = ("reply.completed", "reply.failed", "reply.cancelled")


class Answer(Struct, frozen=True):
    """What came back at a time of the wall clock; status 0: nothing, the connection broke."""

    at: float
    status: int
    body: dict[str, Any] = {}
    replayed: bool = False

    @property
    def done(self) -> bool:
        """The command is said to be in the log."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """It is said not to be done."""
        return 400 <= self.status < 500

    @property
    def wrong(self) -> bool:
        """What no client may ever be told: neither done, nor refused, nor "come back"."""
        return self.status not in (0, 409, 503) and not self.done


class Request(Struct, kw_only=True):
    """One command of a client, sent again under its Idempotency-Key until it was answered."""

    key: str
    who: str
    doing: Doing
    text: str = ""
    """The question or the label: of this request alone."""
    message_id: UUID | None = None
    """The question that is cancelled or asked again."""
    answers: list[Answer] = field(default_factory=list)

    @property
    def done(self) -> list[Answer]:
        """The answers that say so."""
        return [answer for answer in self.answers if answer.done]


class Heard(Struct, frozen=True):
    """One event of a stream."""

    at: float
    type: str
    data: dict[str, Any]


class Stream(Struct, kw_only=True):
    """A stream as one client followed it, over all its connections."""

    who: str
    dialogue_id: UUID
    message_id: UUID | None = None
    """The only question that it is about; without one it follows the dialogue."""
    events: list[Heard] = field(default_factory=list)
    mark: str = ""
    """The last id: where it goes on."""
    since: float = 0.0
    """When it had one, by the wall clock: from then on nothing may be missed."""
    connections: int = 0
    refused: list[int] = field(default_factory=list)
    """Statuses that came instead of a stream."""

    @property
    def over(self) -> bool:
        """The end of its reply was told."""
        return bool(self.message_id and self.events and self.events[-1].type in ENDS)


class Query(Struct, frozen=True):
    """What was read, when by the wall clock, and with which status; 0: no answer."""

    at: float
    path: str
    status: int


class Told(Struct):
    """All of it."""

    requests: list[Request] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
