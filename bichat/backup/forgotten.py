"""Forgets again, in a log that was restored, whoever was forgotten since its backup."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from uuid import UUID

from bichat.backup import agree
from bichat.backup.sql import statement
from bichat.commands.execute import Executor
from bichat.deltas import Deltas
from bichat.events import schema
from bichat.events.keys import register
from bichat.events.ledger import Ledger
from bichat.forgetting.erasing import Forgetting
from bichat.projections.processes import Database
from bichat.projections.verify import Progress


def again(database: Database, progress: Progress) -> int:
    """Makes log and register agree and finishes what the log does not know; returns how many erasures.

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
        asyncio.run(_finish(executor, database.redis_url, ids, progress))
    return len(ids)


async def _finish(executor: Executor, redis_url: str | None, ids: list[UUID], progress: Progress) -> None:
    deltas = Deltas(redis_url) if redis_url else None
    try:
        forgetting = Forgetting(executor, deltas)
        for n, erasure_id in enumerate(ids, 1):
            erasure = await asyncio.to_thread(register.find, executor.ledger.keys, erasure_id)
            if erasure:
                await forgetting.resume(erasure)
            progress("forgetting", n, len(ids))
    finally:
        if deltas:
            await deltas.close()
