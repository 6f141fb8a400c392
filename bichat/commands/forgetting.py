"""How a person is forgotten: step by step, each of which may be done twice, by whoever comes by."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypedDict, TypeVar, Unpack
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from bichat.commands.dialogue import EraseText
from bichat.commands.execute import Executor
from bichat.commands.job import Once
from bichat.commands.person import FinishErasure, OrderErasure
from bichat.deltas import Deltas
from bichat.errors import (
    BeingForgotten,
    LogRejected,
    LogUnreadable,
    NotFound,
    Refused,
    Unavailable,
    VersionRace,
)
from bichat.events import finding
from bichat.events.dialogue import TextErased
from bichat.events.envelope import Actor, Cause, Event, Metadata
from bichat.events.keys import data_keys, register
from bichat.events.keys.register import Erasure
from bichat.events.ledger import Ledger
from bichat.events.person import NOBODY, ErasureOrdered, stream_of

AT_ONCE = 64
"""Dialogues that are told at the same time: batches of the writer, and room in its queue for others."""
_TRIES = 5
"""At a dialogue to which others keep writing; the key goes all the same."""
PATIENCE = 60.0
"""Seconds to wait for another who is at it."""

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """As of `Executor.execute`; If-Match is about what was said of the person."""

    once: Once | None
    if_match: int | None


class Forgotten(Struct, frozen=True):
    """How far it is."""

    erasure: Erasure
    position: int
    """Of the last event that belongs to it."""
    replayed: bool = False


class Forgetting:
    """Forgets people. Every step is in its place for a reason: docs/decisions/0010."""

    def __init__(
        self,
        executor: Executor,
        deltas: Deltas | None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`progress` is told how many dialogues know. Without `deltas` others do the rest."""
        self._executor, self._deltas, self._progress = executor, deltas, progress
        self._ledger, self._keys = executor.ledger, executor.ledger.keys

    async def forget(
        self, tenant_id: UUID, user_id: str, actor: Actor, **options: Unpack[Options]
    ) -> Forgotten:
        """Orders it and does it.

        Raises `NotFound` when there is no such person, `UnderHold`, and `Unavailable` kinds: once it is
        ordered, somebody goes on with it.
        """
        erasure, replayed = await self._order(tenant_id, user_id, actor, options)
        done = await self.finish(erasure)
        return Forgotten(done.erasure, done.position, replayed)

    async def finish(self, erasure: Erasure) -> Forgotten:
        """Does what is left of an ordered erasure, or waits for another who does it."""
        until = time.monotonic() + PATIENCE
        while True:
            async with register.alone(self._keys, erasure.erasure_id) as alone:
                found = await _thread(register.find, self._keys, erasure.erasure_id)
                erasure = found or erasure
                if alone or erasure.done_at or time.monotonic() > until:
                    return await self._finish(erasure) if alone else await self._standing(erasure)
            await asyncio.sleep(0.2)

    async def resume(self, erasure: Erasure) -> None:
        """Goes on with what somebody has left; what was never ordered is taken back."""
        stream = await _thread(self._ledger.stream, _stream(erasure), NOBODY)
        if erasure.ordered_at is None and stream.state.erasing != erasure.erasure_id:
            await _thread(register.drop, self._keys, erasure.erasure_id)
            return
        await self.finish(await _thread(register.ordered, self._keys, erasure))

    # --- the steps --------------------------------------------------------------------------------

    async def _order(
        self, tenant_id: UUID, user_id: str, actor: Actor, options: Options
    ) -> tuple[Erasure, bool]:
        """The log says it; then the register does, and nobody seals for the person any more."""
        if not await _thread(known, self._ledger, tenant_id, user_id):
            raise NotFound(what="user")
        erasure = await _thread(register.ask, self._keys, tenant_id, user_id, actor)
        order = OrderErasure(tenant_id=tenant_id, user_id=user_id, erasure_id=erasure.erasure_id)
        by = Metadata(tenant_id=tenant_id, actor=actor, command_id=erasure.erasure_id)
        try:
            told = await self._executor.execute(order, by, **options)
        except BeingForgotten:
            await _thread(register.drop, self._keys, erasure.erasure_id)
            return await self._joined(erasure), False
        except Refused:
            await _thread(register.drop, self._keys, erasure.erasure_id)
            raise
        if told.replayed:
            first = finding.last_order(await _thread(self._orders, erasure), upto=told.version)
            if first and first[1].erasure_id != erasure.erasure_id:
                await _thread(register.drop, self._keys, erasure.erasure_id)
                erasure = await self._entry(erasure, *first)
        return await _thread(register.ordered, self._keys, erasure), told.replayed

    async def _joined(self, asked: Erasure) -> Erasure:
        """The erasure that the log says is under way."""
        erasing = (await _thread(self._ledger.stream, _stream(asked), NOBODY)).state.erasing
        found = finding.last_order(await _thread(self._orders, asked), of=erasing)
        if erasing is None or found is None:
            raise BeingForgotten()  # not any more; or it is who asks that is being forgotten
        return await _thread(register.ordered, self._keys, await self._entry(asked, *found))

    async def _entry(self, asked: Erasure, event: Event, order: ErasureOrdered) -> Erasure:
        """What the register says of an order; it may have lost it."""
        found = await _thread(register.find, self._keys, order.erasure_id)
        actor = event.actor
        return found or replace(
            asked, erasure_id=order.erasure_id, actor_kind=actor.kind, actor_id=actor.id, asked_at=event.at
        )

    async def _finish(self, erasure: Erasure) -> Forgotten:
        order = await self._ordered(erasure)
        if erasure.destroyed_at is None:
            key_ids = await _thread(register.keys_of, self._keys, erasure)
            await _thread(self._ledger.void, key_ids)
            unreadable = await self._tell(erasure, order)
            told = await _thread(self._told, erasure, order)
            erasure = await _thread(register.destroy, self._keys, erasure, told, unreadable)
        finished = FinishErasure(
            tenant_id=erasure.tenant_id, user_id=erasure.user_id, erasure_id=erasure.erasure_id,
            dialogues=erasure.dialogues, keys=erasure.keys,
        )  # fmt: skip
        outcome = await self._executor.execute(finished, _by(erasure, order))
        if erasure.done_at is None and await self._silence(erasure):
            erasure = await _thread(register.done, self._keys, erasure)
        return Forgotten(erasure, outcome.position)

    async def _tell(self, erasure: Erasure, order: Event) -> list[UUID]:
        """Every dialogue of the person drops its text; those that could not be told."""
        found = await _thread(finding.dialogues_of, self._ledger, erasure.tenant_id, erasure.user_id)
        room, told, deaf = asyncio.Semaphore(AT_ONCE), 0, list[UUID]()

        async def tell(dialogue_id: UUID, sure: bool) -> None:
            nonlocal told
            async with room:
                if not await self._erase(erasure, order, dialogue_id, sure=sure):
                    deaf.append(dialogue_id)
            told += 1
            self._progress(told, len(found))

        try:
            async with asyncio.TaskGroup() as group:
                for dialogue_id, sure in found.items():
                    group.create_task(tell(dialogue_id, sure))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return deaf

    async def _erase(self, erasure: Erasure, order: Event, dialogue_id: UUID, *, sure: bool) -> bool:
        """Whether it is told. `sure`: it is known to be of the person."""
        if not sure and await _thread(self._whose, dialogue_id) not in (None, erasure.user_id):
            return True
        lost: Exception | None = None
        for _ in range(_TRIES):
            try:
                await self._executor.execute(EraseText(dialogue_id=dialogue_id), _by(erasure, order))
            except VersionRace as error:
                lost = error
            except (LogUnreadable, LogRejected, Refused) as error:
                lost = error
                break
            else:
                return True
        log.warning("%s cannot be told that its person is forgotten: %s", dialogue_id, lost)
        return False

    async def _silence(self, erasure: Erasure) -> bool:
        """Takes the words that replies of the person's were writing; false when Redis is away."""
        if self._deltas is None:
            return False
        found = await _thread(finding.dialogues_of, self._ledger, erasure.tenant_id, erasure.user_id)
        return await self._deltas.forget(list(found))

    # --- what is known of it ----------------------------------------------------------------------

    async def _ordered(self, erasure: Erasure) -> Event:
        """Its order in the log; given again when an older log was put in the place of that which had it."""
        found = finding.last_order(await _thread(self._orders, erasure), of=erasure.erasure_id)
        if found is None:
            order = OrderErasure(
                tenant_id=erasure.tenant_id, user_id=erasure.user_id, erasure_id=erasure.erasure_id,
                restored=True,
            )  # fmt: skip
            by = Metadata(tenant_id=erasure.tenant_id, actor=erasure.actor, command_id=erasure.erasure_id)
            await self._executor.execute(order, by)
            return await self._ordered(erasure)
        return found[0]

    def _whose(self, dialogue_id: UUID) -> str | None:
        """Of whom a dialogue is, as far as that can be read."""
        try:
            return self._ledger.load(dialogue_id).state.user_id
        except Unavailable:
            raise
        except Exception as error:  # whatever somebody has made of it
            log.debug("%s cannot be read: %s", dialogue_id, type(error).__name__)
            return None

    async def _standing(self, erasure: Erasure) -> Forgotten:
        stream = await _thread(self._ledger.stream, _stream(erasure), NOBODY)
        return Forgotten(erasure, stream.head.position)

    def _orders(self, erasure: Erasure) -> list[Event]:
        return self._ledger.read(_stream(erasure), kinds=[ErasureOrdered.__name__])

    def _told(self, erasure: Erasure, order: Event) -> int:
        return self._ledger.count(erasure.tenant_id, TextErased.__name__, erasure.erasure_id, order.position)


def known(ledger: Ledger, tenant_id: UUID, user_id: str) -> bool:
    """Whether there is anything of such a person: a key, a dialogue, or something said about them."""
    with ledger.keys.connection() as connection:
        if data_keys.known(connection, (tenant_id, user_id)):
            return True
    if ledger.stream(stream_of(tenant_id, user_id), NOBODY).head.version:
        return True
    return bool(finding.dialogues_of(ledger, tenant_id, user_id))


def _stream(erasure: Erasure) -> UUID:
    return stream_of(erasure.tenant_id, erasure.user_id)


def _by(erasure: Erasure, order: Event) -> Metadata:
    """In the name of who asked for it, whoever does it."""
    return Metadata(
        tenant_id=erasure.tenant_id, actor=erasure.actor, command_id=erasure.erasure_id,
        cause=Cause(order.stream_id, order.version),
    )  # fmt: skip


async def _thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(do, *args, **kwargs)
