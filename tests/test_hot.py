"""Answers kept in Redis: never behind what was read, never another's, gone when they are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from bichat import hot, unsaid
from bichat.deltas import Deltas
from bichat.doorbell import Doorbell
from bichat.hot import Hot
from tests.examples import OTHER_TENANT, TENANT
from tests.valkey import Server, reached

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def whose() -> tuple[UUID, str, UUID]:
    return TENANT, "anna", uuid4()


@pytest.fixture
async def kept(redis_url: str) -> AsyncIterator[Hot]:
    made = Hot(redis_url)
    yield made
    await made.close()


async def keep(kept: Hot, *what: Any) -> None:
    kept.keep(*what)
    kept.keep(*what)
    await asyncio.gather(*kept._keeping)


async def projected(redis_url: str, dialogue_id: UUID, version: int) -> None:
    doorbell = Doorbell(redis_url)
    doorbell.projected({dialogue_id: version})
    await asyncio.to_thread(doorbell.close)


async def test_an_answer_is_found_by_its_person_alone_and_not_when_it_is_too_old(
    kept: Hot, whose: tuple[UUID, str, UUID]
) -> None:
    await keep(kept, *whose, 7, b"{} what was said")
    assert await kept.find(*whose, 0) == await kept.find(*whose, 7) == (7, b"{} what was said")
    assert await kept.find(*whose, 8) is None
    dialogue_id = whose[2]
    for tenant, user in ((TENANT, "otto"), (OTHER_TENANT, "anna"), (TENANT, "anna:"), (TENANT, "")):
        kept.keep(tenant, user, dialogue_id, 7, b"")  # only so it will ask at all
        assert await kept.find(tenant, user, dialogue_id, 0) is None
    assert await kept.find(TENANT, "anna", uuid4(), 0) is None


async def test_what_is_read_once_is_not_kept_and_what_others_keep_is_found(
    kept: Hot, whose: tuple[UUID, str, UUID], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Hot(redis_url)
    await keep(other, *whose, 7, b"x")
    assert await kept.find(*whose, 0) is None
    kept.keep(*whose, 7, b"y")
    assert await kept.find(*whose, 0) == (7, b"x")
    await projected(redis_url, whose[2], 8)
    kept.keep(*whose, 8, b"y")
    assert not kept._keeping
    assert await kept.find(*whose, 0) is None
    monkeypatch.setattr(hot, "SEEN", 1)
    kept.keep(TENANT, "anna", uuid4(), 1, b"")
    assert len(kept._seen) == 1
    await other.close()


async def test_a_change_takes_it_away_and_keeps_out_what_was_read_before(
    kept: Hot, whose: tuple[UUID, str, UUID], redis_url: str
) -> None:
    await keep(kept, *whose, 7, b"old")
    await projected(redis_url, whose[2], 8)
    assert await kept.find(*whose, 0) is None
    await keep(kept, *whose, 7, b"old")  # read before the change, or from a replica that is behind
    assert await kept.find(*whose, 0) is None
    await keep(kept, *whose, 8, b"new")
    await keep(kept, *whose, 7, b"old")
    assert await kept.find(*whose, 0) == (8, b"new")


async def test_what_is_forgotten_is_gone_at_once_and_stays_away(
    kept: Hot, whose: tuple[UUID, str, UUID], redis_url: str
) -> None:
    await keep(kept, *whose, 7, b"secret")
    deltas = Deltas(redis_url)
    assert await deltas.forget([whose[2]])
    await deltas.close()
    await keep(kept, *whose, 7, b"secret")
    async with Redis.from_url(redis_url) as redis:
        assert await redis.hgetall(unsaid.hot(whose[2])) == {}


async def test_it_is_kept_for_a_short_time_only(
    kept: Hot, whose: tuple[UUID, str, UUID], redis_url: str
) -> None:
    await keep(kept, *whose, 7, b"x")
    async with Redis.from_url(redis_url) as redis:
        assert 0 < await redis.ttl(unsaid.hot(whose[2])) <= hot.KEPT
        await projected(redis_url, whose[2], 8)
        assert await redis.ttl(unsaid.hot(whose[2])) > 0


async def test_without_redis_nothing_is_kept_and_nobody_waits(
    tmp_path: Path, whose: tuple[UUID, str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "PAUSE", 0.05)
    server = Server(tmp_path)
    server.start()
    await reached(server)
    kept = Hot(server.url)
    await keep(kept, *whose, 7, b"x")
    assert await kept.find(*whose, 0)
    server.kill()
    async with asyncio.timeout(1):
        for _ in range(50):
            await keep(kept, *whose, 7, b"x")
            assert await kept.find(*whose, 0) is None
    server.start()
    await reached(server)
    await asyncio.sleep(0.1)
    await keep(kept, *whose, 7, b"x")
    assert await kept.find(*whose, 0)
    await kept.close()
    server.kill()
