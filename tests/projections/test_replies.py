"""The queue: each question to one worker at a time, in order, tenants in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection

from bichat.events.envelope import Event
from bichat.projections import replies
from bichat.projections.replies import Claim, claim, hand_back, leave_place, take_place
from bichat.projections.runner import Runner, connect
from tests.examples import OTHER_TENANT, TENANT
from tests.projections.histories import BUILDS, Pick, history
from tests.projections.test_runner import Script

pytestmark = pytest.mark.anyio
REPLIES = next(build for build in BUILDS if build.model is replies.MODEL)
ASK, START, ANSWER, FAIL, CANCEL, DELETE = 0, 3, 6, 9, 10, 14


def fill(url: str, picks: Iterable[Pick]) -> list[Event]:
    """Makes the read model what it is after these picks, which go on from those before."""
    log = history(picks)
    with connect(url) as connection:
        position, *_ = connection.execute(
            "select position from bichat.checkpoints where name = 'replies'"
        ).fetchone() or (0,)
        Runner(REPLIES, url, Script()).apply(
            connection, position, [event for event in log if event.position > position]
        )
    return log


def worker(url: str) -> Any:
    return AsyncConnection.connect(url, autocommit=True)


def places(claims: Iterable[Claim]) -> list[tuple[int, int]]:
    """(dialogue, version of the question)."""
    return [(claim.dialogue_id.int - 1, claim.version) for claim in claims]


async def test_of_a_dialogue_only_the_first_question_is_given_out_and_once(database_url: str) -> None:
    picks = [(0, ASK, 0), (0, ASK, 0), (2, ASK, 0)]
    fill(database_url, picks)
    async with await worker(database_url) as one, await worker(database_url) as two:
        claims = await claim(one, "one", 10)
        assert places(claims) == [(0, 2), (2, 2)]
        assert claims[0].tenant_id == TENANT
        assert (claims[0].user_id, claims[0].attempt, claims[0].status) == ("user 0", 0, "waiting")
        assert await claim(two, "two", 10) == []
        fill(database_url, [*picks, (0, START, 0)])
        assert await claim(two, "two", 10) == []
        fill(database_url, [*picks, (0, START, 0), (0, ANSWER, 0)])
        assert places(await claim(two, "two", 10)) == [(0, 3)]


async def test_many_workers_at_once_never_get_the_same_question(database_url: str) -> None:
    fill(database_url, [(dialogue, ASK, 0) for dialogue in range(60) for _ in range(2)])

    async def work(name: str) -> list[Claim]:
        async with await worker(database_url) as connection:
            return [c for _ in range(20) for c in await claim(connection, name, 3)]

    found = [c for claims in await asyncio.gather(*(work(f"w{n}") for n in range(6))) for c in claims]
    assert len(found) == 60
    assert {c.dialogue_id.int - 1 for c in found} == set(range(60))
    assert {c.version for c in found} == {2}


async def test_all_workers_together_hold_no_more_than_there_are_places(database_url: str) -> None:
    fill(database_url, [(dialogue, ASK, 0) for dialogue in range(40)])

    async def work(name: str, most: int | None) -> list[Claim]:
        async with await worker(database_url) as connection:
            return await claim(connection, name, 4, most=most)

    async def race(most: int | None) -> int:
        return sum(map(len, await asyncio.gather(*(work(f"w{n}", most) for n in range(6)))))

    assert await race(5) == 5
    async with await worker(database_url) as connection:
        assert await take_place(connection, "w0", TENANT, 10, most=5) is None
        [held] = await claim(connection, "w0", 1, most=6)
        label = await take_place(connection, "w0", TENANT, 10, most=7)  # what is no reply takes one as well
        assert label
        assert await race(7) == 0
        await leave_place(connection, label)
        await hand_back(connection, "w0", held.message_id, 60)
        assert await race(7) == 2


async def test_what_is_parked_is_not_given_out_until_it_goes_on(database_url: str) -> None:
    fill(database_url, [(0, ASK, 0), (2, ASK, 0)])
    async with await worker(database_url) as connection:
        await connection.execute(
            "insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version, error)"
            " values ('replies', 2, 1, %s, %s, 1, 9, 'x'), ('replies', 2, 2, %s, %s, 1, 9, 'x')",
            (UUID(int=1), TENANT, UUID(int=3), TENANT),
        )
        assert places(await claim(connection, "w", 10)) == [(2, 2)]
        await connection.execute("delete from bichat.parked")
        assert places(await claim(connection, "w", 10)) == [(0, 2)]


async def test_tenants_take_turns(database_url: str) -> None:
    crowd = [(2 * n, ASK, 0) for n in range(20)]
    fill(database_url, [*crowd, (1, ASK, 0), (3, ASK, 0), (5, ASK, 0)])
    async with await worker(database_url) as connection:
        first = await claim(connection, "w", 4)
        assert sorted(c.tenant_id for c in first) == [TENANT, TENANT, OTHER_TENANT, OTHER_TENANT]
        second = await claim(connection, "w", 2)
        assert sorted(c.tenant_id for c in second) == [TENANT, OTHER_TENANT]
        assert {c.tenant_id for c in await claim(connection, "w", 9)} == {TENANT}


async def test_a_lease_that_ran_out_is_given_to_another_who_sees_the_attempt(database_url: str) -> None:
    picks = [(0, ASK, 0)]
    fill(database_url, picks)
    async with await worker(database_url) as one, await worker(database_url) as two:
        (mine,) = await claim(one, "one", 1, lease_seconds=0.2)
        fill(database_url, [*picks, (0, START, 0)])
        assert await replies.renew(one, "one", [mine.message_id], 0.2) == {mine.message_id}
        await asyncio.sleep(0.25)
        (theirs,) = await claim(two, "two", 1)
        assert (theirs.message_id, theirs.status, theirs.attempt) == (mine.message_id, "running", 1)
        assert await replies.renew(one, "one", [mine.message_id]) == set()
        await replies.hand_back(one, "one", mine.message_id, 0)
        assert await replies.renew(two, "two", [mine.message_id]) == {mine.message_id}


async def test_what_was_handed_back_waits_and_so_does_what_stands_behind_it(database_url: str) -> None:
    fill(database_url, [(0, ASK, 0), (0, ASK, 0)])
    async with await worker(database_url) as connection:
        (mine,) = await claim(connection, "one", 5)
        await replies.hand_back(connection, "one", mine.message_id, 0.3)
        assert await claim(connection, "one", 5) == []
        await asyncio.sleep(0.35)
        assert await claim(connection, "two", 5) == [mine]


@pytest.mark.parametrize("end", [[(0, FAIL, 0)], [(0, CANCEL, 0), (0, 11, 0)], [(0, DELETE, 0)]])
async def test_what_ended_is_not_due_and_its_worker_is_told(database_url: str, end: list[Pick]) -> None:
    picks = [(0, ASK, 0), (0, START, 0)]
    fill(database_url, picks)
    async with await worker(database_url) as connection:
        (mine,) = await claim(connection, "one", 5, lease_seconds=0.05)
        assert await replies.cancel_requested(connection, [mine.message_id]) == set()
        fill(database_url, [*picks, *end])
        assert await replies.cancel_requested(connection, [mine.message_id]) == {mine.message_id}
        await asyncio.sleep(0.1)
        assert await claim(connection, "two", 5) == []


async def test_a_cancel_asked_for_is_seen_by_whoever_takes_over(database_url: str) -> None:
    fill(database_url, [(0, ASK, 0), (0, START, 0), (0, CANCEL, 0)])
    async with await worker(database_url) as connection:
        (found,) = await claim(connection, "one", 5)
        assert found.cancel_requested
        assert await replies.cancel_requested(connection, [found.message_id]) == {found.message_id}


async def test_leases_are_swept_once_they_say_nothing_any_more(database_url: str) -> None:
    fill(database_url, [(0, ASK, 0), (2, ASK, 0)])
    async with await worker(database_url) as connection:
        first, second = await claim(connection, "one", 5)
        await connection.execute(
            "update bichat.reply_leases set expires_at = now() - interval '1 minute' where message_id = %s",
            (first.message_id,),
        )
        await replies.renew(connection, "one", [second.message_id])
    with psycopg.connect(database_url) as after:
        assert after.execute("select message_id from bichat.reply_leases").fetchall() == [
            (second.message_id,)
        ]


async def test_what_is_not_known_is_not_wanted(database_url: str) -> None:
    async with await worker(database_url) as connection:
        assert await replies.cancel_requested(connection, [UUID(int=5)]) == {UUID(int=5)}
