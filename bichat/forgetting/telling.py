"""Tells every dialogue of a person that its text is erased; those that cannot hear it are named."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from bichat.commands.dialogue import EraseText
from bichat.commands.execute import Executor
from bichat.errors import LogRejected, LogUnreadable, Refused, VersionRace
from bichat.events.envelope import Cause, Event, Metadata
from bichat.events.keys.register import Erasure
from bichat.forgetting import finding

AT_ONCE = 64
"""Dialogues that are told at the same time: batches of the writer, and room in its queue for others."""
_TRIES = 5
"""At a dialogue to which others keep writing; the key goes all the same."""

log = logging.getLogger(__name__)


async def tell(
    executor: Executor, erasure: Erasure, order: Event | None, progress: Callable[[int, int], None]
) -> list[UUID]:
    """Every dialogue of the person drops its text; those that could not be told."""
    found = await asyncio.to_thread(finding.dialogues_of, executor.ledger, erasure.tenant_id, erasure.user_id)
    room, told, deaf = asyncio.Semaphore(AT_ONCE), 0, list[UUID]()

    async def one(dialogue_id: UUID, sure: bool) -> None:
        nonlocal told
        async with room:
            if not await _told(executor, erasure, order, dialogue_id, sure=sure):
                deaf.append(dialogue_id)
        told += 1
        progress(told, len(found))

    try:
        async with asyncio.TaskGroup() as group:
            for dialogue_id, sure in found.items():
                group.create_task(one(dialogue_id, sure))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return deaf


async def _told(
    executor: Executor, erasure: Erasure, order: Event | None, dialogue_id: UUID, *, sure: bool
) -> bool:
    """Whether it is told. `sure`: it is known to be of the person."""
    if not sure:
        owner = await asyncio.to_thread(finding.owner, executor.ledger, dialogue_id)
        if owner not in (None, erasure.user_id):
            return True
    lost: Exception | None = None
    for _ in range(_TRIES):
        try:
            await executor.execute(EraseText(dialogue_id=dialogue_id), by(erasure, order))
        except VersionRace as error:
            lost = error
        except (LogUnreadable, LogRejected, Refused) as error:
            lost = error
            break
        else:
            return True
    log.warning("%s cannot be told that its person is forgotten: %s", dialogue_id, lost)
    return False


def by(erasure: Erasure, order: Event | None) -> Metadata:
    """In the name of who asked for it, whoever does it."""
    return Metadata(
        tenant_id=erasure.tenant_id, actor=erasure.actor, command_id=erasure.erasure_id,
        cause=Cause(order.stream_id, order.version) if order else None,
    )  # fmt: skip
