"""Forgets again, in a log that was restored, whoever was forgotten since its backup."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from uuid import UUID

from msgspec import Struct

from bichat.backup import agree
from bichat.backup.sql import statement
from bichat.commands.execute import Executor
from bichat.deltas import Deltas
from bichat.events import schema
from bichat.events.keys import register
from bichat.events.ledger import Ledger
from bichat.forgetting.erasing import UNREADABLE, Forgetting
from bichat.logs import described
from bichat.projections.processes import Database
from bichat.projections.verify import Progress

log = logging.getLogger(__name__)


class Again(Struct, frozen=True):
    """Erasures that the backup did not know."""

    done: int = 0
    unsaid: list[UUID] = []
    """Those of which the log cannot say that they are done: what is there of their persons cannot be read."""


def again(database: Database, progress: Progress) -> Again:
    """Makes log and register agree and finishes what the log does not know.

    May be interrupted at any moment and called again.
    """
    with schema.connect(database.url) as log:
        known = agree.said(log)
    with schema.connect(database.keys_url, name="KEYS_DATABASE_URL") as store:
        with store.transaction():
            agree.settle(known, store)
        ids = [found for (found,) in store.execute(statement("agree", "under_way"))]
    with ExitStack() as stack:
        keys = database.key_store()
        stack.callback(keys.close)
        keys.unlock()
        ledger = Ledger(database.url, keys)
        stack.callback(ledger.close)
        executor = Executor(ledger)
        executor.start()
        stack.callback(executor.close)
        unsaid = asyncio.run(_finish(executor, database.redis_url, ids, progress))
    return Again(len(ids) - len(unsaid), unsaid)


async def _finish(
    executor: Executor, redis_url: str | None, ids: list[UUID], progress: Progress
) -> list[UUID]:
    """Those of which the log cannot say so; their keys are destroyed and their dialogues told."""
    unsaid = []
    deltas = Deltas(redis_url) if redis_url else None
    try:
        forgetting = Forgetting(executor, deltas)
        for n, erasure_id in enumerate(ids, 1):
            erasure = await asyncio.to_thread(register.find, executor.ledger.keys, erasure_id)
            try:
                if erasure:
                    await forgetting.resume(erasure)
            except UNREADABLE as error:
                log.warning("The log cannot say that erasure %s is done: %s", erasure_id, described(error))
                unsaid.append(erasure_id)
            progress("forgetting", n, len(ids))
    finally:
        if deltas:
            await deltas.close()
    return unsaid
