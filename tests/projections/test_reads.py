"""Reading for who asks: waiting for the log, and for a database that went away."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import psycopg
import pytest

from bichat.errors import ReadModelBehind, ReadsUnavailable, Stopping
from bichat.projections import transcripts
from bichat.projections.reads import Reads
from tests.examples import OTHER_TENANT, TENANT
from tests.projections.histories import history
from tests.projections.test_runner import filled

pytestmark = pytest.mark.anyio
ASK = 0
FIRST = UUID(int=1)
SOME = [(0, w, 0) for _ in range(3) for w in (0, 3, 6)]


async def test_who_waits_is_told_as_soon_as_the_read_model_is_there(database_url: str, reads: Reads) -> None:
    log = history(SOME)
    end = log[-1].position
    waiting = [asyncio.create_task(reads.caught_up("transcripts", p)) for p in (log[0].position, end, end)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting)
    filled(database_url, log, "transcripts")
    began = time.monotonic()
    await asyncio.gather(*waiting)
    assert time.monotonic() - began < 1
    await reads.caught_up("transcripts", end)
    with pytest.raises(ReadModelBehind):
        await reads.caught_up("transcripts", end + 1, timeout=0.1)
    with pytest.raises(ReadModelBehind):
        await reads.caught_up("dialogues", end, timeout=0.1)
    assert (await reads.positions())["transcripts"] == end
    assert await reads.head() == 0


async def test_cut_connections_are_noticed_before_they_are_used(database_url: str, reads: Reads) -> None:
    async def read() -> None:
        async with reads.tenant(TENANT) as connection:
            assert await transcripts.newest(connection, TENANT, FIRST, "user 0") is None

    await asyncio.gather(*(read() for _ in range(8)))
    with psycopg.connect(database_url, autocommit=True) as killer:
        killer.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'bichat-reads'"
        )
    await asyncio.sleep(0.1)
    await asyncio.gather(*(read() for _ in range(8)))


async def test_a_dead_database_is_unavailable_and_a_closed_pool_is_stopping(reads: Reads) -> None:
    dead = Reads("postgresql://postgres@127.0.0.1:9/none", size=1, patience=0.2)
    await dead.open()
    with pytest.raises(ReadsUnavailable):
        async with dead.tenant(TENANT):
            pass
    with pytest.raises(ReadsUnavailable):
        await dead.head()
    with pytest.raises(ReadModelBehind):
        await dead.caught_up("transcripts", 1, timeout=0.3)
    await dead.close()
    await reads.close()
    with pytest.raises(Stopping):
        async with reads.tenant(TENANT):
            pass


async def test_one_connection_serves_tenants_in_turn(database_url: str) -> None:
    log = history([(0, ASK, 0), (1, ASK, 0)])
    filled(database_url, log)
    reads = Reads(database_url, size=1)
    await reads.open()
    for tenant, dialogue in ((TENANT, 1), (OTHER_TENANT, 2)) * 3:
        async with reads.tenant(tenant) as connection:
            rows = await (await connection.execute("select id from bichat.transcripts_v2")).fetchall()
            assert rows == [(UUID(int=dialogue),)]
    await reads.close()
