"""The loop that archives dialogues that nobody has used for long, a few at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import ArchiveIdleDialogue
from bichat.commands.execute import Executor
from bichat.errors import BichatError, LogUnreadable, Refused, Stopping
from bichat.events import schema
from bichat.events.envelope import Actor, Metadata
from bichat.logs import described
from bichat.projections import idle
from bichat.projections.idle import Idle

EVERY = 3600.0
"""Seconds between two walks through all dialogues."""
STEP = 2000
"""Dialogues that are looked at in one query."""
AT_ONCE = 32
"""Commands that are sent at the same time: the writer has room for those of people."""
PACE = 20_000
"""Messages a second that are moved: projectors need 0.04 s for so many, and people's come in between."""

log = logging.getLogger(__name__)


def run(
    executor: Executor, database_url: str, after: timedelta, stop: threading.Event, every: float = EVERY
) -> None:
    """Archives what has not changed for `after` until `stop` is set. What goes wrong is tried again later."""
    while True:
        try:
            archived = walk(executor, database_url, datetime.now(UTC) - after, stop)
            if archived:
                log.info("Archived %d dialogues that nobody has used for %s days", archived, after.days)
        except Stopping:
            return
        except (psycopg.Error, BichatError) as error:
            log.warning("Not all that is idle was archived: %s", described(error))
        except Exception:  # read models are followed, whatever ails this
            log.exception("Not all that is idle was archived")
        if stop.wait(every):
            return


def walk(executor: Executor, database_url: str, before: datetime, stop: threading.Event) -> int:
    """Archives what has not changed since `before`, unless another process does; returns how many."""
    archived, place = 0, idle.START
    with schema.connect(database_url) as connection:
        if not idle.alone(connection):
            return 0
        while not stop.is_set():
            found, end = idle.step(connection, place, before, STEP)
            if end is None:
                break
            for n in range(0, len(found), AT_ONCE):
                some = found[n : n + AT_ONCE]
                archived += asyncio.run(_archive(executor, some))
                if stop.wait(sum(one.messages for one in some) / PACE):
                    return archived
            place = end
    return archived


async def _archive(executor: Executor, some: Sequence[Idle]) -> int:
    done = await asyncio.gather(*(_archived(executor, one) for one in some))
    return sum(done)


async def _archived(executor: Executor, one: Idle) -> bool:
    """Whether it was archived: not if it has changed meanwhile, or what is read of it is behind the log."""
    by = Metadata(tenant_id=one.tenant_id, actor=Actor("system", "archiving"), command_id=uuid7())
    command = ArchiveIdleDialogue(dialogue_id=one.dialogue_id)
    try:
        return (await executor.execute(command, by, if_match=one.version)).version > one.version
    except (Refused, LogUnreadable) as error:
        log.debug("%s is not archived: %s", one.dialogue_id, error)
        return False
