"""How a person is forgotten: step by step, each of which may be done twice, by whoever comes by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypedDict, TypeVar, Unpack
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from bichat.commands.execute import Executor
from bichat.commands.job import Once
from bichat.commands.person import FinishErasure, OrderErasure
from bichat.deltas import Deltas
from bichat.errors import BeingForgotten, EventUnreadable, LogUnreadable, NotFound, Refused
from bichat.errors.unusable import EventTooNew
from bichat.events.envelope import Actor, Event, Metadata
from bichat.events.keys import register
from bichat.events.keys.data_keys import Person
from bichat.events.keys.register import Erasure
from bichat.events.person import NOBODY, ErasureOrdered, stream_of
from bichat.forgetting import finding, telling

UNREADABLE = (EventUnreadable, EventTooNew, LogUnreadable)
"""What is raised about the stream of a person that this code cannot read."""
PATIENCE = 60.0
"""Seconds to wait for another who is at it."""

P = ParamSpec("P")
T = TypeVar("T")


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
        """Goes on with what somebody has left; what was never ordered is taken back.

        Raises an `UNREADABLE` kind when the log cannot say that it is done; all else is.
        """
        if erasure.ordered_at is None:
            stream = await _thread(self._ledger.stream, _stream(erasure), NOBODY)
            if stream.state.erasing != erasure.erasure_id:
                await _thread(register.drop, self._keys, erasure.erasure_id)
                return
        await self.finish(await _thread(register.ordered, self._keys, erasure))

    # --- the steps --------------------------------------------------------------------------------

    async def _order(
        self, tenant_id: UUID, user_id: str, actor: Actor, options: Options
    ) -> tuple[Erasure, bool]:
        """The log says it; then the register does, and nobody seals for the person any more."""
        if not await _thread(finding.known, self._ledger, tenant_id, user_id):
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
            first = finding.last_order(
                await _thread(finding.orders, self._ledger, *_person(erasure)), upto=told.version
            )
            if first and first[1].erasure_id != erasure.erasure_id:
                await _thread(register.drop, self._keys, erasure.erasure_id)
                erasure = await self._entry(erasure, *first)
        return await _thread(register.ordered, self._keys, erasure), told.replayed

    async def _joined(self, asked: Erasure) -> Erasure:
        """The erasure that the log says is under way."""
        erasing = (await _thread(self._ledger.stream, _stream(asked), NOBODY)).state.erasing
        found = finding.last_order(await _thread(finding.orders, self._ledger, *_person(asked)), of=erasing)
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
        try:
            order: Event | Exception = await self._ordered(erasure)
        except UNREADABLE as error:  # the register knows the order, so keys and text go all the same
            order = error
        cause = order if isinstance(order, Event) else None
        if erasure.destroyed_at is None:
            key_ids = await _thread(register.keys_of, self._keys, erasure)
            await _thread(self._ledger.void, key_ids)
            unreadable = await telling.tell(self._executor, erasure, cause, self._progress)
            told = await _thread(finding.told, self._ledger, erasure, cause)
            erasure = await _thread(register.destroy, self._keys, erasure, told, unreadable)
        if isinstance(order, Exception):
            raise order
        finished = FinishErasure(
            tenant_id=erasure.tenant_id, user_id=erasure.user_id, erasure_id=erasure.erasure_id,
            dialogues=erasure.dialogues, keys=erasure.keys,
        )  # fmt: skip
        outcome = await self._executor.execute(finished, telling.by(erasure, order))
        if erasure.done_at is None and await self._silence(erasure):
            erasure = await _thread(register.done, self._keys, erasure)
        return Forgotten(erasure, outcome.position)

    async def _silence(self, erasure: Erasure) -> bool:
        """Takes the words that replies of the person's were writing; false when Redis is away."""
        if self._deltas is None:
            return False
        found = await _thread(finding.dialogues_of, self._ledger, *_person(erasure))
        return await self._deltas.forget(list(found))

    # --- what is known of it ----------------------------------------------------------------------

    async def _ordered(self, erasure: Erasure) -> Event:
        """Its order in the log; given again when an older log was put in the place of that which had it."""
        found = finding.last_order(
            await _thread(finding.orders, self._ledger, *_person(erasure)), of=erasure.erasure_id
        )
        if found is None:
            order = OrderErasure(
                tenant_id=erasure.tenant_id, user_id=erasure.user_id, erasure_id=erasure.erasure_id,
                restored=True,
            )  # fmt: skip
            by = Metadata(tenant_id=erasure.tenant_id, actor=erasure.actor, command_id=erasure.erasure_id)
            await self._executor.execute(order, by)
            return await self._ordered(erasure)
        return found[0]

    async def _standing(self, erasure: Erasure) -> Forgotten:
        stream = await _thread(self._ledger.stream, _stream(erasure), NOBODY)
        return Forgotten(erasure, stream.head.position)


def _person(erasure: Erasure) -> Person:
    return erasure.tenant_id, erasure.user_id


def _stream(erasure: Erasure) -> UUID:
    return stream_of(*_person(erasure))


async def _thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(do, *args, **kwargs)
