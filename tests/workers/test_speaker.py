"""Words are said in segments, and said again after Redis was away, so that nobody hears a gap."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from uuid import uuid4

from bichat.deltas import Deltas
from bichat.workers.speaker import SEGMENT, Speaker
from tests.valkey import Server, reached


def test_words_wait_for_a_redis_that_is_away() -> None:
    async def story(server: Server) -> None:
        deltas, dialogue_id, message_id = Deltas(server.url), uuid4(), uuid4()
        async with Speaker(deltas, dialogue_id, message_id, 1) as speaker:
            for n in range(20):
                speaker.add(f"early{n} ")
                await asyncio.sleep(0.01)
            assert await deltas.replay(dialogue_id, message_id, 1) == []
            server.start()
            await reached(server)
            async with asyncio.timeout(5):
                while not (heard := await deltas.replay(dialogue_id, message_id, 1)):  # noqa: ASYNC110 - nobody rings
                    await asyncio.sleep(0.05)
            assert heard[0].text.startswith("early0 ")
            speaker.add("late")
        heard = await deltas.replay(dialogue_id, message_id, 1)
        assert "".join(one.text for one in heard) == "".join(f"early{n} " for n in range(20)) + "late"
        assert [one.n for one in heard] == list(range(1, len(heard) + 1))
        await deltas.close()

    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        asyncio.run(story(server))
        server.kill()


def test_the_first_word_goes_out_at_once_and_the_rest_in_segments() -> None:
    async def story(server: Server) -> None:
        await reached(server)
        deltas, dialogue_id, message_id = Deltas(server.url), uuid4(), uuid4()
        async with Speaker(deltas, dialogue_id, message_id, 1) as speaker:
            speaker.add("first ")
            await asyncio.sleep(SEGMENT / 2)
            assert [one.text for one in await deltas.replay(dialogue_id, message_id, 1)] == ["first "]
            for n in range(50):
                speaker.add(f"{n} ")
        heard = await deltas.replay(dialogue_id, message_id, 1)
        assert len(heard) == 2
        assert "".join(one.text for one in heard) == "first " + "".join(f"{n} " for n in range(50))
        await deltas.close()

    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        server.start()
        asyncio.run(story(server))
        server.kill()


def test_words_from_after_a_function_never_share_a_segment_with_those_from_before() -> None:
    async def story(server: Server) -> None:
        await reached(server)
        deltas, dialogue_id, message_id = Deltas(server.url), uuid4(), uuid4()
        async with Speaker(deltas, dialogue_id, message_id, 1) as speaker:
            speaker.add("I ")
            speaker.add("look. ")
            speaker.after(7)
            speaker.add("It is ")
            speaker.add("a lot.")
        heard = await deltas.replay(dialogue_id, message_id, 1)
        assert {one.after for one in heard} == {0, 7}
        assert "".join(one.text for one in heard if one.after == 0) == "I look. "
        assert "".join(one.text for one in heard if one.after == 7) == "It is a lot."
        await deltas.close()

    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        server.start()
        asyncio.run(story(server))
        server.kill()
