"""A command on its way through the writer, what it is told, and what tells that it was done before."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

import msgspec
from msgspec import Struct

from bichat.commands.command import Command
from bichat.errors import KeyReused
from bichat.events.envelope import Metadata
from bichat.events.recorder import Receipt
from bichat.events.seal import PersonKey


class Once(Struct, frozen=True):
    """An Idempotency-Key and what it stands for: route and body, in one canonical form."""

    key: str
    request: bytes


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an executed command is told; after it, the log holds everything that this says."""

    dialogue_id: UUID
    version: int
    position: int
    message_id: UUID | None = None
    """The question that this command asked, or is about."""
    replayed: bool = False
    """Answered from a receipt: it was done before."""


class Job(Struct, eq=False):
    """A command on its way through the writer."""

    command: Command
    by: Metadata
    once: Once | None
    if_match: int | None
    future: asyncio.Future[Outcome] | None = None
    """What its caller awaits."""
    unless: Exception | None = None
    """Why it will not be done, if it was not done before."""
    answer: Outcome | Exception | None = None
    """How it went, once that is certain."""
    tries: int = 0

    @property
    def size(self) -> int:
        """About how many bytes it will append."""
        return sum(len(message.content) for message in getattr(self.command, "messages", ()))

    def key(self) -> tuple[UUID, str, str] | None:
        """What its receipt is found by."""
        return (self.by.tenant_id, self.by.actor.id, self.once.key) if self.once else None

    @property
    def deserted(self) -> bool:
        """Whether its caller went away."""
        return self.future is not None and self.future.cancelled()


def deliver(jobs: Iterable[Job]) -> None:
    """Hands answers to those who wait for them, from any thread: with one call into an event loop for all."""
    waiting: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        future = job.future  # the loop forgets it once it was told
        if job.answer is not None and future:
            waiting.setdefault(future.get_loop(), []).append(job)
    for loop, some in waiting.items():
        with suppress(RuntimeError):  # it is closed: nobody waits there any more
            loop.call_soon_threadsafe(_tell, some)


def _tell(jobs: list[Job]) -> None:
    for job in jobs:
        future, job.future = job.future, None
        if future is None or future.done():  # told before, or its caller went away
            continue
        if isinstance(job.answer, Outcome):
            future.set_result(job.answer)
        elif job.answer:
            future.set_exception(job.answer)


def receipt(job: Job, once: Once, outcome: Outcome, key: PersonKey) -> Receipt:
    """What it leaves behind; `key` is its caller's."""
    answer = {"dialogue_id": outcome.dialogue_id, "version": outcome.version}
    if outcome.message_id:
        answer["message_id"] = outcome.message_id
    return Receipt(
        job.by.tenant_id,
        job.by.actor.id,
        once.key,
        _fingerprint(once, key),
        job.by.command_id,
        msgspec.json.encode(answer).decode(),
        outcome.position,
    )


def key_of(left: Receipt) -> UUID:
    """The key that its fingerprint was made with."""
    return UUID(bytes=left.fingerprint[:16])


def replay(once: Once, left: Receipt, key: PersonKey | None) -> Outcome:
    """What the first one was told; raises `KeyReused` for another request, or when its key is destroyed."""
    if key is None or not hmac.compare_digest(left.fingerprint, _fingerprint(once, key)):
        raise KeyReused()
    told = msgspec.json.decode(left.answer, type=dict[str, UUID | int])
    return msgspec.convert({**told, "position": left.position, "replayed": True}, Outcome)


def _fingerprint(once: Once, key: PersonKey) -> bytes:
    """Tells whether a request is the same, for as long as the key that it names exists."""
    return key.key_id.bytes + key.digest("receipt", once.request)
