"""The words of a reply in Redis: said, replayed, followed, and lost without harm."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from bichat.deltas import BACKLOG, Deltas, Follower, Hint, Said, ear
from tests.valkey import Server, reached

DIALOGUE, MESSAGE = uuid4(), uuid4()


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        server.start()
        yield server
        server.kill()


@asynccontextmanager
async def link(server: Server) -> AsyncIterator[Deltas]:
    deltas = Deltas(server.url)
    try:
        yield deltas
    finally:
        await deltas.close()


def said(n: int, text: str = "word ", attempt: int = 1, message_id: UUID = MESSAGE) -> Said:
    return Said(message_id, attempt, n, text)


async def until(follower: Follower, wanted: Said | Hint, seconds: float = 10) -> list[Said | Hint]:
    """What is heard up to `wanted`."""
    heard = []
    async with asyncio.timeout(seconds):
        while True:
            one = await follower.next(1)
            if one:
                heard.append(one)
            if one == wanted:
                return heard


def test_what_is_said_can_be_replayed_from_any_point(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas:
            for n in range(1, 6):
                assert await deltas.say(DIALOGUE, said(n, f"w{n} "))
            assert "".join(s.text for s in await deltas.replay(DIALOGUE, MESSAGE, 1)) == "w1 w2 w3 w4 w5 "
            assert [s.n for s in await deltas.replay(DIALOGUE, MESSAGE, 1, after_n=3)] == [4, 5]
            assert await deltas.replay(DIALOGUE, MESSAGE, 1, after_n=5) == []
            assert await deltas.replay(DIALOGUE, MESSAGE, 2) == [], "another attempt has words of its own"

    asyncio.run(story())


def test_the_same_words_said_twice_are_kept_once(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas:
            assert await deltas.say(DIALOGUE, said(1))
            assert await deltas.say(DIALOGUE, said(1)), "arrived, only its confirmation was lost: done"
            assert len(await deltas.replay(DIALOGUE, MESSAGE, 1)) == 1

    asyncio.run(story())


def test_words_with_a_gap_are_not_replayed(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas:
            await deltas.say(DIALOGUE, said(1))
            await deltas.say(DIALOGUE, said(3))
            assert await deltas.replay(DIALOGUE, MESSAGE, 1) == []
            assert [s.n for s in await deltas.replay(DIALOGUE, MESSAGE, 1, after_n=2)] == [3]

    asyncio.run(story())


def test_followers_hear_their_own_dialogue_and_no_other(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as api, link(server) as worker:
            async with api.follow(DIALOGUE) as one, api.follow(DIALOGUE) as two, api.follow(uuid4()) as other:
                await worker.say(DIALOGUE, said(1, "Ünïcode\n"))
                await worker.end(DIALOGUE, MESSAGE, 1)
                for follower in (one, two):
                    end = Hint("end", message_id=MESSAGE, attempt=1)
                    assert await until(follower, end) == [said(1, "Ünïcode\n"), end]
                assert await other.next(0.05) is None
            assert api._ear.channels == {}

    asyncio.run(story())


def test_those_who_come_while_the_link_is_made_are_not_forgotten(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        dialogues = [uuid4() for _ in range(20)]
        async with link(server) as api, link(server) as worker, AsyncExitStack() as stack:

            async def come(n: int) -> Follower:
                await asyncio.sleep(n * 0.0003)
                return await stack.enter_async_context(api.follow(dialogues[n]))

            followers = await asyncio.gather(*map(come, range(len(dialogues))))
            for dialogue, follower in zip(dialogues, followers, strict=True):
                await worker.say(dialogue, said(1))
                assert await follower.next(1) == said(1)

    asyncio.run(story())


def test_other_parts_can_ring_a_channel(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        channel = f"bichat:dialogue:{DIALOGUE}"
        async with (
            Redis.from_url(server.url) as redis,
            link(server) as api,
            api.follow(DIALOGUE) as dialogue,
            api.listen("bichat:replies") as replies,
        ):
            await redis.publish(channel, '{"t":"projected","v":7}')
            await redis.publish(channel, '{"t":"of a newer bichat"}')
            await redis.publish(channel, '{"t":"projected","v":8}')
            await redis.publish("bichat:replies", "3")
            assert await dialogue.next(5) == Hint("projected", 7)
            assert await dialogue.next(5) == Hint("projected", 8)
            assert await replies.next(5) == Hint("rung")

    asyncio.run(story())


def test_a_slow_follower_starts_over_instead_of_filling_memory(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas, deltas.follow(DIALOGUE) as follower:
            last = 2 * BACKLOG
            for n in range(1, last + 1):
                await deltas.say(DIALOGUE, said(n))
            heard = await until(follower, said(last))
            assert Hint("reset") in heard
            assert len(heard) <= BACKLOG

    asyncio.run(story())


def test_a_redis_that_is_away_costs_nothing_but_live_words(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas, deltas.follow(DIALOGUE) as follower:
            await deltas.say(DIALOGUE, said(1))
            assert await follower.next(5) == said(1)
            server.kill()
            began = asyncio.get_running_loop().time()
            for _ in range(100):
                assert not await deltas.say(DIALOGUE, said(2))
            await deltas.end(DIALOGUE, MESSAGE, 1)
            assert await deltas.replay(DIALOGUE, MESSAGE, 1) == []
            async with deltas.follow(uuid4()) as another:
                assert await another.next(0.01) is None
            assert asyncio.get_running_loop().time() - began < 3, "nobody waits for a dead Redis"
            server.start()
            assert (await until(follower, Hint("reset")))[-1] == Hint("reset")
            async with asyncio.timeout(5):
                while not await deltas.say(DIALOGUE, said(2, "back")):  # noqa: ASYNC110 - it pauses a second
                    await asyncio.sleep(0.05)
            assert (await until(follower, said(2, "back")))[-1] == said(2, "back")

    with caplog.at_level(logging.WARNING, "bichat.deltas"):
        asyncio.run(story())
    assert len([r for r in caplog.records if "does not answer" in r.message]) == 1


def test_someone_who_came_while_redis_was_away_is_told_when_it_is_back(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        server.kill()
        async with link(server) as deltas, deltas.follow(DIALOGUE) as follower:
            server.start()
            assert await until(follower, Hint("reset")) == [Hint("reset")]

    asyncio.run(story())


def test_followers_come_and_go_on_one_connection(server: Server) -> None:
    async def one(deltas: Deltas, dialogue: UUID) -> None:
        async with deltas.follow(dialogue) as follower:
            await deltas.say(dialogue, said(1, "hello", message_id=dialogue))
            assert await follower.next(5) == said(1, "hello", message_id=dialogue)

    async def story() -> None:
        await reached(server)
        async with link(server) as deltas, Redis.from_url(server.url) as redis:
            for _ in range(5):
                await asyncio.gather(*(one(deltas, uuid4()) for _ in range(50)))
            assert len(await redis.client_list(_type="pubsub")) == 1
            assert (await redis.info("server"))["redis_version"]

    asyncio.run(story())


def test_a_thousand_speak_and_ask_at_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        await reached(server)
        dialogues = [uuid4() for _ in range(1000)]
        async with link(server) as deltas:
            assert all(await asyncio.gather(*(deltas.say(dialogue, said(1)) for dialogue in dialogues)))
            found = await asyncio.gather(*(deltas.replay(dialogue, MESSAGE, 1) for dialogue in dialogues))
            assert found == [[said(1)]] * len(dialogues)

    asyncio.run(story())
    assert caplog.records == []


def test_what_one_cannot_say_is_not_said_by_the_others(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas, Redis.from_url(server.url) as redis:
            await redis.set(f"bichat:reply:{DIALOGUE}:{MESSAGE}:1", "not what it should be")
            others = [uuid4() for _ in range(3)]
            spoken = await asyncio.gather(*(deltas.say(one, said(1)) for one in (DIALOGUE, *others)))
            assert spoken == [False, True, True, True]

    asyncio.run(story())


def test_a_redis_that_says_nothing_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas, deltas.follow(DIALOGUE) as follower:
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(0.5)
            server.signal(signal.SIGCONT)
            assert (await until(follower, Hint("reset")))[-1] == Hint("reset")

    monkeypatch.setattr(ear, "PULSE", 0.1)
    asyncio.run(story())


def test_words_do_not_stay_in_redis(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas, Redis.from_url(server.url) as redis:
            await deltas.say(DIALOGUE, said(1))
            assert 0 < await redis.ttl(f"bichat:reply:{DIALOGUE}:{MESSAGE}:1") <= 900
            await deltas.end(DIALOGUE, MESSAGE, 1)
            assert 0 < await redis.ttl(f"bichat:reply:{DIALOGUE}:{MESSAGE}:1") <= 60

    asyncio.run(story())


def test_what_was_said_to_a_forgotten_person_is_gone_and_does_not_come_back(server: Server) -> None:
    async def story() -> None:
        await reached(server)
        other, later = uuid4(), uuid4()
        async with link(server) as deltas, Redis.from_url(server.url) as redis:
            for dialogue in (DIALOGUE, other):
                for n in (1, 2):
                    assert await deltas.say(dialogue, said(n, "secret "))
            await deltas.end(DIALOGUE, MESSAGE, 1)
            await deltas.say(DIALOGUE, said(1, "secret ", attempt=2))
            async with deltas.follow(DIALOGUE) as follower:
                assert await deltas.forget([DIALOGUE, uuid4()])
                assert await deltas.say(DIALOGUE, said(2, "late ", attempt=2)), "it does not try for ever"
                assert await deltas.say(DIALOGUE, said(1, "late ", message_id=later)), "it had not begun"
                assert await deltas.say(DIALOGUE, said(2, "late ", message_id=later))
                assert len(await until(follower, said(2, "late ", message_id=later))) == 3, "heard, not kept"
            assert {key.decode() async for key in redis.scan_iter("bichat:reply:*")} == {
                f"bichat:reply:{other}:{MESSAGE}:1"
            }
            assert 0 < await redis.ttl(f"bichat:forgotten:{DIALOGUE}") <= 10
            assert [s.text for s in await deltas.replay(other, MESSAGE, 1)] == ["secret ", "secret "]
            await redis.delete(f"bichat:forgotten:{DIALOGUE}")  # as time does
            await deltas.say(DIALOGUE, said(1, "anew", message_id=later))
            assert [s.text for s in await deltas.replay(DIALOGUE, later, 1)] == ["anew"]

    asyncio.run(story())


@pytest.mark.parametrize("busy", [False, True])
def test_forgotten_words_leave_the_append_only_file(busy: bool) -> None:
    async def story(server: Server, directory: Path) -> None:
        await reached(server)
        async with link(server) as deltas, Redis.from_url(server.url) as redis:
            await redis.config_set("rdb-key-save-delay", 200 if busy else 0)  # µs for each: a long rewrite
            async with redis.pipeline(transaction=False) as pipe:
                for n in range(5_000):
                    pipe.set(f"ballast:{n}", n)
                await pipe.execute()
            await deltas.say(DIALOGUE, said(1, "a secret"))
            await redis.config_set("appendfsync", "always")
            await redis.set("done", 1)
            assert b"a secret" in files(directory)
            if busy:
                await redis.bgrewriteaof()  # with the words in it
            assert await deltas.forget([DIALOGUE])
            async with asyncio.timeout(20):
                while b"a secret" in files(directory):  # noqa: ASYNC110 - a file does not say
                    await asyncio.sleep(0.05)

    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), "--appendonly", "yes")
        server.start()
        try:
            asyncio.run(story(server, Path(name) / "appendonlydir"))
        finally:
            server.kill()


def files(directory: Path) -> bytes:
    found = b""
    for file in directory.iterdir():
        with suppress(FileNotFoundError):  # the server has just replaced it
            found += file.read_bytes()
    return found


def test_a_redis_that_rewrites_nothing_is_told_of_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        await reached(server)
        async with link(server) as deltas, Redis.from_url(server.url) as redis:
            await redis.acl_setuser("default", enabled=True, nopass=True, commands=["-bgrewriteaof"])
            await deltas.say(DIALOGUE, said(1))
            with caplog.at_level(logging.WARNING, "bichat.unsaid"):
                assert await deltas.forget([DIALOGUE])
            assert await deltas.replay(DIALOGUE, MESSAGE, 1) == []
        server.kill()
        async with link(server) as deltas:
            assert not await deltas.forget([DIALOGUE]), "to be tried again"

    asyncio.run(story())
    assert [r.message for r in caplog.records if "keeps erased words" in r.message] != []
    assert len([r for r in caplog.records if r.name == "bichat.unsaid"]) == 1
