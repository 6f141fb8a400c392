"""What ops see of the queue: their tenant's part of it, of the build that serves, as it is now."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from bichat.projections import replies, unanswered
from bichat.projections.reads import Reads
from tests.examples import OTHER_TENANT, TENANT
from tests.projections.test_replies import ASK, CANCEL, FAIL, START, fill, worker

pytestmark = pytest.mark.anyio
BOTH = [(dialogue, ASK, 0) for dialogue in range(4)]
"""Two dialogues of each tenant, of the same people."""


def run(url: str, query: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(query.encode())


async def seen(reads: Reads, tenant: UUID, asked: UUID | None = None) -> list[unanswered.Unanswered]:
    """What a connection bound to `tenant` finds when it asks for `asked`."""
    async with reads.tenant(tenant) as connection:
        return await unanswered.page(connection, asked or tenant, unanswered.STATES, after=0, limit=100)


async def test_a_tenant_sees_its_own_whatever_it_asks_for(database_url: str, reads: Reads) -> None:
    log = fill(database_url, BOTH)
    (theirs, *_) = await seen(reads, OTHER_TENANT)
    for tenant in (TENANT, OTHER_TENANT):
        assert {one.tenant_id for one in await seen(reads, tenant)} == {tenant}
        assert len(await seen(reads, tenant)) == 2
    assert await seen(reads, TENANT, OTHER_TENANT) == []
    async with reads.tenant(TENANT) as connection:
        for tenant in (TENANT, OTHER_TENANT):
            assert await unanswered.find(connection, tenant, theirs.message_id) is None
    async with reads.tenant(OTHER_TENANT) as connection:
        found = await unanswered.find(connection, OTHER_TENANT, theirs.message_id)
    assert found == (theirs.dialogue_id, OTHER_TENANT)
    assert theirs.position in {event.position for event in log}


async def test_who_holds_a_lease_is_seen_by_its_tenant_only(database_url: str, reads: Reads) -> None:
    fill(database_url, BOTH)
    async with await worker(database_url) as connection:
        await replies.claim(connection, "w", 100)
        assert [one.holder for one in await seen(reads, TENANT)] == ["w", "w"]
        async with reads.tenant(OTHER_TENANT) as reader:
            rows = await (await reader.execute("select tenant_id from bichat.reply_leases")).fetchall()
        assert set(rows) == {(OTHER_TENANT,)}
        first, second = await seen(reads, TENANT)
        await replies.hand_back(connection, "w", first.message_id, 60)
        await connection.execute(
            "update bichat.reply_leases set expires_at = clock_timestamp() where message_id = %s",
            (second.message_id,),
        )
        assert [one.holder for one in await seen(reads, TENANT)] == [None, None]
        ids = [one.message_id for tenant in (TENANT, OTHER_TENANT) for one in await seen(reads, tenant)]
        assert await unanswered.worked_on(connection, ids) == set(ids[2:])


async def test_only_what_the_serving_build_parks_is_parked(database_url: str, reads: Reads) -> None:
    fill(database_url, BOTH)
    run(
        database_url,
        "insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version, error)"
        " select 'replies', 2, 1, dialogue_id, tenant_id, 1, 1, 'x' from bichat.replies_v2",
    )
    async with await worker(database_url) as connection:
        for change, count in (("build = 1", 2), ("build = 2", 0), ("shape = 3, build = 1", 0)):
            run(database_url, f"update bichat.parked set {change}")
            parked = [one for one in await seen(reads, TENANT) if one.parked_at]
            assert len(parked) == count
            assert len(await unanswered.parked(connection, UUID(int=0), 100)) == 2 * count


async def test_parked_dialogues_come_in_pieces(database_url: str) -> None:
    fill(database_url, BOTH)
    run(
        database_url,
        "insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version, error)"
        " select 'replies', 2, 1, dialogue_id, tenant_id, 1, 1, 'x' from bichat.replies_v2",
    )
    async with await worker(database_url) as connection:
        first = await unanswered.parked(connection, UUID(int=0), 3)
        rest = await unanswered.parked(connection, first[-1], 3)
    assert [*first, *rest] == [UUID(int=n) for n in (1, 2, 3, 4)]


async def test_states_are_as_the_log_says_and_what_was_cancelled_is_left_out(
    database_url: str, reads: Reads
) -> None:
    fill(database_url, [*BOTH, (0, START, 0), (0, FAIL, 0), (2, ASK, 0), (2, CANCEL, 0)])
    found = await seen(reads, TENANT)
    assert [(one.state, one.attempts, one.tries, one.code) for one in found] == [
        ("failed", 1, 1, "model_silent"), ("waiting", 0, 0, None),
    ]  # fmt: skip
