"""Queries go to a real streaming replica: they wait for it, and do without it while it is away."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from bichat.config import Config
from bichat.errors import ReadModelBehind, ReadsUnavailable
from bichat.projections import replica as watching
from bichat.projections import transcripts
from bichat.projections.reads import Reads
from tests.api.conftest import served
from tests.api.tokens import SECRET
from tests.examples import OTHER_TENANT, TENANT, opened
from tests.projections.histories import history
from tests.projections.logs import write
from tests.projections.test_runner import filled
from tests.replica import Replica

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif("DATABASE_URL" in os.environ, reason="needs a server of its own to copy"),
]
FIRST = UUID(int=1)
LOG = history([(0, w, 0) for w in (0, 3, 6)])
END = LOG[-1].position


@pytest.fixture(scope="module")
def replica(servers: Config) -> Iterator[Replica]:
    made = Replica(servers.database_url or "")
    made.start()
    yield made
    made.remove()


@pytest.fixture
async def reads(database_url: str, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reads]:
    """They go to the replica."""
    monkeypatch.setattr(watching, "LOOK", 0.2)
    replica.late(0)
    replica.wait_for(database_url)
    reads = Reads(database_url, replica_url=replica.url(database_url), size=2, patience=2.0)
    await reads.open()
    await until(lambda: in_recovery(reads))
    yield reads
    await reads.close()


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await done():  # noqa: ASYNC110 - asked over and over is what it is about
            await asyncio.sleep(0.02)


async def in_recovery(reads: Reads, *, live: bool = False) -> bool:
    """Whether queries are answered by the replica; not yet, while they are not answered."""
    try:
        async with reads.tenant(TENANT, live=live) as connection:
            row = await (await connection.execute("select pg_is_in_recovery()")).fetchone()
    except ReadsUnavailable:
        return False
    return bool(row and row[0])


async def seen(reads: Reads, *, live: bool = False, tenant: UUID = TENANT) -> int:
    async with reads.tenant(tenant, live=live) as connection:
        found = await transcripts.newest(connection, TENANT, FIRST, "user 0")
    return found.version if found else 0


async def test_who_waits_for_a_version_waits_for_the_replica(
    database_url: str, replica: Replica, reads: Reads
) -> None:
    replica.late(500)
    began = time.monotonic()
    filled(database_url, LOG, "transcripts")
    assert (await seen(reads), await seen(reads, live=True)) == (0, LOG[-1].version)
    assert not await in_recovery(reads, live=True)
    with pytest.raises(ReadModelBehind):
        await reads.caught_up("transcripts", END, timeout=0.1)
    await reads.caught_up("transcripts", END)
    assert time.monotonic() - began > 0.4
    assert await seen(reads) == LOG[-1].version
    assert await seen(reads, tenant=OTHER_TENANT) == 0
    assert await in_recovery(reads)


async def test_while_it_is_away_the_primary_answers_and_it_comes_back_with_what_was_waited_for(
    database_url: str, replica: Replica, reads: Reads
) -> None:
    replica.late(600)
    filled(database_url, LOG, "transcripts")
    replica.kill()
    async with asyncio.timeout(3), reads.tenant(TENANT):
        pass  # nobody has seen yet that it is gone
    await reads.caught_up("transcripts", END)
    assert await seen(reads) == LOG[-1].version
    replica.start()
    while not await in_recovery(reads):
        assert await seen(reads) == LOG[-1].version
        await asyncio.sleep(0.02)
    assert await seen(reads) == LOG[-1].version


async def test_a_query_in_the_way_of_the_primary_is_to_be_asked_again(
    database_url: str, reads: Reads
) -> None:
    async def slow() -> None:
        async with reads.tenant(TENANT) as connection:
            await connection.execute("select pg_sleep(5) from bichat.serving limit 1")

    query = asyncio.create_task(slow())
    await asyncio.sleep(0.2)
    with psycopg.connect(database_url) as connection:
        connection.execute("alter table bichat.serving add more int")
    with pytest.raises(ReadsUnavailable):
        await query
    assert await in_recovery(reads)


async def test_its_lag_is_that_of_the_log(database_url: str, replica: Replica, reads: Reads) -> None:
    assert reads.replica_lag == 0
    replica.late(1000)
    with opened(database_url) as ledger:
        write(ledger, LOG)

    async def late() -> bool:
        return reads.replica_lag > 0.3

    async def caught_up() -> bool:
        return reads.replica_lag == 0

    await until(late)
    await until(caught_up)
    assert await in_recovery(reads)


def test_over_http_nobody_misses_what_was_accepted(
    database_url: str, replica: Replica, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK", 0.2)
    replica.late(400)
    replica.wait_for(database_url)
    config = Config(
        database_url=database_url, database_read_url=replica.url(database_url), redis_url=redis_url,
        bichat_jwt_secret=SECRET, bichat_ready_lag_seconds=1,
    )  # fmt: skip
    with served(config) as api, api.client() as anna:
        time.sleep(1)  # after some looks queries go to the replica
        began = time.monotonic()
        accepted = anna.post("/v1/dialogues", json={"message": "How much?"})
        shown = anna.get(accepted.headers["Location"])
        assert shown.status_code == 200
        assert time.monotonic() - began > 0.3
        listed = anna.get("/v1/dialogues", params={"min_position": accepted.json()["position"]}).json()
        assert [one["id"] for one in listed["data"]] == [accepted.json()["dialogue_id"]]
        assert anna.get("/health/ready").status_code == 200
        replica.late(3000)
        anna.post("/v1/dialogues", json={"message": "And now?"})
        end = time.monotonic() + 8
        while (ready := anna.get("/health/ready")).status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert "The replica that queries are read from is" in ready.json()["detail"]
