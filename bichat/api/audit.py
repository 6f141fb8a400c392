"""What auditors read of their tenant: events, dialogues as they were, what the model was shown."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from anyio import to_thread
from litestar import Router, get
from litestar.params import FromPath, QueryParameter
from msgspec import Meta, Struct

from bichat.api import answers
from bichat.api.call import Call
from bichat.api.parameters import BIGGEST, Cursor, Limit, instant
from bichat.api.schemas import LINE, Dialogue
from bichat.audit.attempts import Attempt, Called
from bichat.audit.auditor import Auditor
from bichat.audit.feed import Place, Wanted
from bichat.audit.request import Digest
from bichat.errors import Invalid
from bichat.events import envelope
from bichat.events.envelope import Actor
from bichat.events.history import AuditEvent
from bichat.model import ChatRequest
from bichat.projections import cursor

AUDITOR = {"roles": ("auditor",)}
KINDS = tuple(name for name, _ in envelope.kinds())

Number = Annotated[int, Meta(ge=0, le=BIGGEST)]
Version = Annotated[
    int | None, QueryParameter(ge=1, le=BIGGEST, description="As it was after its event of this version.")
]
Moment = Annotated[
    str | None,
    QueryParameter(
        max_length=40, schema_extra={"format": "date-time"}, description="An RFC 3339 time with an offset."
    ),
]


class After(Struct, frozen=True, array_like=True):
    """Where a page of one dialogue begins."""

    version: Number


class AuditEvents(Struct, frozen=True, kw_only=True):
    """A page of events in order; `next` goes on after it."""

    data: list[AuditEvent]
    next: str | None


class ModelAttempts(Struct, frozen=True, kw_only=True):
    """A page of attempts in order; `next` goes on after it."""

    data: list[Attempt]
    next: str | None


class SentRequest(Struct, frozen=True, kw_only=True):
    """One attempt with its request rebuilt from the log: its bytes, as they stand here, are those digested.

    `digest` says whether they are what was sent; `request` is null once its text is erased. Where functions
    were called, the request was sent again after each round with what had been called and had returned.
    """

    attempt: Attempt
    digest: Digest
    request: ChatRequest | None
    calls: tuple[Called, ...]


def auditor(call: Call) -> Auditor:
    """Reads as the caller."""
    who = call.user
    return Auditor(call.parts.executor, call.parts.reads, who.tenant_id, Actor("user", who.id))


@get("/dialogues/{dialogue_id:str}/events", opt=AUDITOR)
async def dialogue_events(
    request: Call, dialogue_id: FromPath[UUID], after: Cursor = None, limit: Limit = 20
) -> AuditEvents:
    """The events of a dialogue in order: who, when, by which command; deleted ones' too."""
    found = await auditor(request).events(dialogue_id, _version(after), limit)
    return AuditEvents(data=found.data, next=_next(found.next))


@get("/dialogues/{dialogue_id:str}", opt=AUDITOR)
async def dialogue(
    request: Call, dialogue_id: FromPath[UUID], version: Version = None, at: Moment = None
) -> Dialogue:
    """The dialogue as it was at a version or a time, or as it is now: whole, its hash chain checked."""
    if version is not None and at is not None:
        raise Invalid(field="at", reason="cannot be given with version")
    found = await auditor(request).dialogue(dialogue_id, version=version, at=instant("at", at))
    return await to_thread.run_sync(answers.whole, found)  # it may have very many messages


@get("/events", opt=AUDITOR)
async def events(
    request: Call,
    *,
    after: Cursor = None,
    kind: Annotated[
        str | None,
        QueryParameter(name="type", schema_extra={"enum": list(KINDS)}, description="Only of this kind."),
    ] = None,
    user_id: Annotated[
        str | None,
        QueryParameter(min_length=1, max_length=128, pattern=LINE, description="Only what this person did."),
    ] = None,
    since: Moment = None,
    until: Moment = None,
    limit: Limit = 20,
) -> AuditEvents:
    """All that happened in the tenant, from `since` on and before `until`, as of the first page.

    What a machine did whose clock was more than 5 minutes wrong may be missed by `since` and `until`.
    """
    if kind is not None and kind not in KINDS:
        raise Invalid(field="type", reason="is no kind of event")
    wanted = Wanted(type=kind, user_id=user_id, since=instant("since", since), until=instant("until", until))
    place = cursor.read(after, Place) if after else None
    found = await auditor(request).feed(wanted, place, limit)
    return AuditEvents(data=found.data, next=cursor.write(found.next) if found.next else None)


@get("/dialogues/{dialogue_id:str}/attempts", opt=AUDITOR)
async def attempts(
    request: Call, dialogue_id: FromPath[UUID], after: Cursor = None, limit: Limit = 20
) -> ModelAttempts:
    """Every call to the model: what it was shown, how it ended, what it cost."""
    found = await auditor(request).attempts(dialogue_id, _version(after), limit)
    return ModelAttempts(data=found.data, next=_next(found.next))


@get("/dialogues/{dialogue_id:str}/messages/{message_id:str}/attempts/{number:str}", opt=AUDITOR)
async def attempt(
    request: Call,
    dialogue_id: FromPath[UUID],
    message_id: FromPath[UUID],
    number: FromPath[int],
) -> SentRequest:
    """One attempt with its request, rebuilt from the log byte for byte and compared with its digest."""
    one, sent = await auditor(request).attempt(dialogue_id, message_id, number)
    return SentRequest(attempt=one, digest=sent.digest, request=sent.request, calls=sent.calls)


def _version(after: str | None) -> int:
    return cursor.read(after, After).version if after else 0


def _next(version: int | None) -> str | None:
    return cursor.write((version,)) if version else None


router = Router(
    "/audit", route_handlers=[dialogue_events, dialogue, events, attempts, attempt], tags=["audit"]
)
