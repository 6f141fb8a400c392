"""The embedding worker, on a real pgvector, with the real local model or over OpenAI's protocol."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from bichat.cli import bichat
from bichat.commands.dialogue import DeleteDialogue, EraseText
from bichat.config import Config, environment
from bichat.deltas import Deltas
from bichat.doorbell import Doorbell
from bichat.errors import Invalid, NotSimilar
from bichat.events.envelope import Actor
from bichat.events.feed import Feed
from bichat.forgetting.erasing import Forgetting
from bichat.model import local
from bichat.model.embedders import Embedders
from bichat.projections import search, vectors
from bichat.projections.finding import Found, Search
from bichat.projections.reads import Reads
from bichat.workers import embed
from tests.examples import OTHER_TENANT, TENANT, by, question, start
from tests.workers.embedding import caught_up, embedding, until
from tests.workers.vectors import SIZE, Vectors, answer, served, vector
from tests.workers.world import World, world

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def provider() -> Iterator[Vectors]:
    with served() as running:
        yield running


@pytest.fixture
def live(database_url: str, redis_url: str, provider: Vectors) -> Iterator[World]:
    doorbell = Doorbell(redis_url)
    settings = {"bichat_embedding_model": "small"}
    with world(database_url, redis_url, provider.url, doorbell, **settings) as alive:
        yield alive
    doorbell.close()


async def say(live: World, *texts: str, user: str = "anna", tenant: UUID = TENANT) -> list[UUID]:
    """A dialogue of somebody's for each text."""
    commands = [start(None, question(text), user=user) for text in texts]
    await asyncio.gather(*(live.executor.execute(command, by(user, tenant)) for command in commands))
    return [command.dialogue_id for command in commands]


async def find(config: Config, *, user: str = "anna", tenant: UUID = TENANT, **asked: Any) -> Found:
    reads = Reads(config.database_url or "", size=2)
    await reads.open()
    searching = Search(reads, Embedders(config))
    try:
        for name in ("search", "transcripts"):
            await reads.caught_up(name, await reads.head())
        return await searching.find(tenant, user, **asked)
    finally:
        await searching.close()
        await reads.close()


def contents(found: Found) -> list[str | None]:
    return [hit.message.content for hit in found.hits]


def rows(live: World, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(live.config.database_url or "", autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it for one thread")
async def test_vectors_make_way_for_all_that_somebody_waits_for(live: World) -> None:
    nice: list[int] = []
    stopped = threading.Event()
    stopped.set()

    def run() -> None:
        embed.run(live.config, Feed(live.ledger.keys), stopped)
        begun = threading.Thread(target=note)  # as the local model's is
        begun.start()
        begun.join()

    def note() -> None:
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    note()
    await asyncio.to_thread(run)
    note()
    assert nice[1] >= nice[0] + 5
    assert nice[2] == nice[0]


# --- what is found ---------------------------------------------------------------------------------


async def test_what_was_said_is_found_by_its_meaning(live: World) -> None:
    config = replace(live.config, bichat_embedding_model=None)
    await say(live, "Die Lagerbestände reichen drei Wochen.", "Revenue grew by a tenth.", "We hired a cook.")
    with embedding(config, live.ledger):
        [model] = await until(config)
        found = await find(config, text="stock in the warehouse", top_k=2)
    assert (found.similar, found.why) == (True, "")
    assert contents(found)[0] == "Die Lagerbestände reichen drei Wochen."
    assert len(found.hits) == 2
    assert (model.name, model.dimensions) == (local.NAME, 384)


async def test_nobody_finds_what_others_said_nor_what_is_deleted(live: World) -> None:
    mine = await say(live, "our margin in May", "our margin in June")
    await say(live, "our margin in July", user="bert")
    await say(live, "our margin in August", tenant=OTHER_TENANT)
    await live.executor.execute(DeleteDialogue(dialogue_id=mine[1]), by())
    with embedding(live.config, live.ledger):
        await until(live.config)
        for asked in ({"text": "our margin"}, {"embedding": vector("our margin")}):
            assert contents(await find(live.config, **asked)) == ["our margin in May"]
        assert contents(await find(live.config, user="bert", text="margin")) == ["our margin in July"]
        assert contents(await find(live.config, user="eve", text="margin")) == []


@pytest.mark.parametrize("few", [search.FEW, 0])
async def test_a_small_tenant_in_a_large_store_gets_its_own(
    live: World, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """`few` = 0: through the index, in which thousands of others' are nearer."""
    monkeypatch.setattr(search, "FEW", few)
    texts = [f"margin {word}" for word in ("east", "west", "north", "south", "abroad")]
    await say(live, *texts)
    with embedding(live.config, live.ledger):
        await until(live.config)
        near = vectors.written(vector("margin east"))
        rows(
            live,
            "insert into bichat.vectors_1 select gen_random_uuid(), gen_random_uuid(),"
            f"'{OTHER_TENANT}', 'eve', '\\x00', ('{near}'::vector + array(select random() / 9 + 0 * g"
            f" from generate_series(1, {SIZE}))::vector)::halfvec"
            " from generate_series(1, 3000) g returning 1",
        )
        found = await find(live.config, embedding=vector("margin east"), top_k=5)
    assert sorted(map(str, contents(found))) == sorted(texts)
    assert contents(found)[0] == "margin east"
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)


async def test_vectors_that_are_none_of_the_models_are_refused(live: World) -> None:
    await say(live, "one")
    with embedding(live.config, live.ledger):
        await until(live.config)
        for wrong in ([1.0], [0.0] * SIZE, [float("nan")] * SIZE, [1e308] * SIZE):
            with pytest.raises(Invalid, match="embedding"):
                await find(live.config, embedding=wrong)
        assert len((await find(live.config, embedding=[1e200] * SIZE)).hits) == 1


# --- how they are made -----------------------------------------------------------------------------


async def test_the_same_text_of_a_person_is_embedded_once(live: World, provider: Vectors) -> None:
    with embedding(live.config, live.ledger):
        await say(live, "how much", "how much")
        await until(live.config)
        await say(live, "how much")
        await say(live, "how much", user="bert")
        await until(live.config)
    assert provider.texts == ["how much", "how much"]  # one of each person
    assert rows(live, "select count(*), count(distinct digest) from bichat.vectors_1") == [(4, 2)]


async def test_many_texts_go_in_few_calls(live: World, provider: Vectors) -> None:
    await say(live, *(f"text {n}" for n in range(130)))
    with embedding(live.config, live.ledger):
        await until(live.config)
    assert sorted(map(len, provider.calls)) == [1, 2, 64, 64]


async def test_a_text_that_is_refused_keeps_no_other_from_its_vector(
    live: World, provider: Vectors, caplog: pytest.LogCaptureFixture
) -> None:
    def says(texts: list[str]) -> tuple[int, Any]:
        refused = any("forbidden" in text for text in texts)
        return (400, {"error": {"message": "no: " + texts[0]}}) if refused else (200, answer(texts))

    provider.says = says
    await say(live, *(f"text {n}" for n in range(9)), "a forbidden word", "the end")
    with embedding(live.config, live.ledger):
        await until(live.config)
    assert rows(live, "select count(*) from bichat.vectors_1") == [(10,)]
    [note] = [r.getMessage() for r in caplog.records if "gets no embedding" in r.getMessage()]
    assert "forbidden" not in note


HOSTILE = {
    "too few": lambda texts: (200, answer(texts[1:])),
    "too many": lambda texts: (200, answer([*texts, "more"])),
    "the same twice": lambda texts: (200, {"data": answer(texts)["data"][:1] * (len(texts) + 1)}),
    "another size": lambda texts: (200, answer(texts, SIZE + 1)),
    "sizes mixed": lambda texts: (200, {"data": [*answer(texts)["data"][1:], answer(texts, 9)["data"][0]]}),
    "not numbers": lambda texts: (200, json_of(texts, "NaN")),
    "endless numbers": lambda texts: (200, json_of(texts, "1e999")),
    "no direction": lambda texts: (200, json_of(texts, "0")),
    "texts for numbers": lambda texts: (200, json_of(texts, '"1"')),
    "no JSON": lambda texts: (200, b"<html>"),
    "a wrong key": lambda texts: (401, {"error": {"message": "no"}}),
    "down": lambda texts: (500, {"error": {"message": "oh"}}),
}


def json_of(texts: list[str], number: str) -> bytes:
    data = ",".join(f'{{"index":{n},"embedding":[{number},{number}]}}' for n, _ in enumerate(texts))
    return f'{{"data":[{data}]}}'.encode()


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_server_that_is_amiss_is_asked_again(
    live: World, provider: Vectors, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with embedding(live.config, live.ledger):
        await until(live.config)
        well, provider.says = provider.says, HOSTILE[how]
        await say(live, "one", "two")
        await until(live.config, lambda models, head: bool(models[0].error))
        assert rows(live, "select count(*) from bichat.vectors_1") == [(0,)]
        found = await find(live.config, text="one")
        assert contents(found) == ["one"]  # by its words
        assert not found.similar
        assert found.why
        provider.says = well
        [model] = await until(live.config)
        assert rows(live, "select count(*) from bichat.vectors_1") == [(2,)]
        assert model.error == ""
    told = [r for r in caplog.records if r.name == "bichat.workers.embed" and r.levelno == logging.WARNING]
    assert len(told) <= 2, told  # it begins, it is over


WORKER = """
import threading
from bichat import config
from bichat.events.feed import Feed
from bichat.wiring import opened
from bichat.workers import embed

settings = config.load()
with opened.keys(settings) as keys:
    embed.run(settings, Feed(keys), threading.Event(), poll=0.01)
"""


async def test_a_worker_that_was_killed_leaves_nothing_out_and_nothing_twice(
    live: World, provider: Vectors
) -> None:
    def says(texts: list[str]) -> tuple[int, Any]:
        time.sleep(0.05)
        return 200, answer(texts)

    provider.says = says
    said = [f"text {n}" for n in range(400)]
    await say(live, *said)
    for few in (100, 200):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, env=environment(live.config)
        )
        await until(live.config, lambda models, head, few=few: bool(models) and count(live) >= few)  # type: ignore[misc]
        process.kill()
        await process.wait()
        assert count(live) < len(said)
    with embedding(live.config, live.ledger):
        await until(live.config)
    assert count(live) == len(said)
    assert len(provider.texts) <= len(said) + 2 * 64  # what was under way is asked for again, and no more


def count(live: World) -> int:
    return int(rows(live, "select count(*) from bichat.vectors_1")[0][0])


async def test_of_two_workers_one_works(live: World, provider: Vectors) -> None:
    with embedding(live.config, live.ledger), embedding(live.config, live.ledger):
        for n in range(20):
            await say(live, f"text {n}")
        await until(live.config)
    assert sorted(provider.texts) == sorted(f"text {n}" for n in range(20))


# --- what is forgotten -----------------------------------------------------------------------------


async def test_what_is_erased_has_no_vector_even_while_the_model_is_away(
    live: World, provider: Vectors
) -> None:
    with embedding(live.config, live.ledger):
        erased, kept = await say(live, "my secret", "not secret")
        await until(live.config)
        provider.says = lambda texts: (500, {})
        await say(live, "what waits")
        await until(live.config, lambda models, head: bool(models[0].error))
        await live.executor.execute(EraseText(dialogue_id=erased), by("olga"))
        await until(live.config, lambda models, head: models[0].erased == head)
        assert rows(live, "select dialogue_id from bichat.vectors_1") == [(kept,)]
        assert contents(await find(live.config, text="secret")) == ["not secret"]


async def test_nothing_of_a_person_who_was_forgotten_is_left(live: World) -> None:
    """Neither words nor vectors, nor anything to compare a guess with; what they say later is theirs."""
    await say(live, "my secret is 4711", "another secret")
    await say(live, "bert's secret", user="bert")
    with embedding(live.config, live.ledger):
        await until(live.config)
        deltas = Deltas(live.config.redis_url or "")
        await Forgetting(live.executor, deltas).forget(TENANT, "anna", Actor("user", "olga"))
        await deltas.close()
        await until(live.config, lambda models, head: caught_up(models, head) and models[0].erased == head)
        assert contents(await find(live.config, text="secret 4711")) == []
        for table in ("vectors_1", "search_v1_g1"):
            assert rows(live, f"select distinct user_id from bichat.{table}") == [("bert",)]
        await say(live, "a new secret")
        await until(live.config)
        assert contents(await find(live.config, text="secret")) == ["a new secret"]


async def test_a_text_erased_while_its_vector_is_made_gets_none(live: World, provider: Vectors) -> None:
    [dialogue_id] = await say(live, "my secret")
    loop = asyncio.get_running_loop()

    def says(texts: list[str]) -> tuple[int, Any]:
        if "my secret" in texts:
            erase = live.executor.execute(EraseText(dialogue_id=dialogue_id), by("olga"))
            asyncio.run_coroutine_threadsafe(erase, loop).result(10)
        return 200, answer(texts)

    provider.says = says
    with embedding(live.config, live.ledger):
        await until(live.config)
    assert provider.texts == ["my secret"]
    assert rows(live, "select * from bichat.vectors_1") == []


# --- another model ---------------------------------------------------------------------------------


async def test_another_model_takes_over_once_it_has_caught_up(live: World, provider: Vectors) -> None:
    await say(live, "one", "two")
    with embedding(live.config, live.ledger) as old:
        await until(live.config)
        config = replace(live.config, bichat_embedding_model="large")
        ready = asyncio.Event()

        def says(texts: list[str]) -> tuple[int, Any]:
            large = provider.models[-1] == "large"
            if large and texts != ["bichat"] and not ready.is_set():
                return 500, {}
            return 200, answer(texts, 9 if large else SIZE)

        provider.says = says
        with embedding(config, live.ledger):
            await until(config, lambda models, head: len(models) == 2 and bool(models[1].error))
            await say(live, "three")
            await until(config, lambda models, head: models[0].position == head)
            assert (await find(config, text="three", top_k=1)).similar  # by the old one still
            assert provider.models[-1] == "small"
            ready.set()
            await until(config, lambda models, head: [m.state for m in models] == ["retired", "serving"])
        assert (await find(live.config, embedding=vector("one", 9), top_k=1)).similar
        old.set()
    assert rows(live, "select count(*) from bichat.vectors_2") == [(3,)]
    with psycopg.connect(config.database_url or "", autocommit=True) as connection:
        assert vectors.drop_left(connection, "public", after=0) == [1]
    assert [name for (name,) in rows(live, "select name from bichat.embedding_models")] == ["large"]


async def test_a_worker_with_old_settings_leaves_the_new_models_vectors_alone(
    live: World, provider: Vectors
) -> None:
    with embedding(live.config, live.ledger):
        await until(live.config)
        config = replace(live.config, bichat_embedding_model="large")
        with embedding(config, live.ledger):
            await until(config, lambda models, head: [m.state for m in models] == ["retired", "serving"])
        calls = len(provider.calls)
        await say(live, "later")
        await asyncio.sleep(0.3)
        assert len(provider.calls) == calls
        assert count(live) == 0


# --- without -----------------------------------------------------------------------------------------


async def test_before_there_are_vectors_words_have_to_do(live: World) -> None:
    await say(live, "Revenue in Österreich rose", "costs fell", "invoices for 2024")
    found = await find(live.config, text="what of österreich?")
    assert contents(found) == ["Revenue in Österreich rose"]
    assert not found.similar
    assert "pgvector" in found.why or "extension" in found.why
    assert contents(await find(live.config, text="INVOICE")) == ["invoices for 2024"]
    with pytest.raises(NotSimilar):
        await find(live.config, embedding=[1.0, 2.0])


async def test_operators_see_how_far_models_have_come(live: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(live.config, {}).items():
        monkeypatch.setenv(name, value)

    async def status() -> list[dict[str, Any]]:
        told = await asyncio.to_thread(CliRunner().invoke, bichat, ["search", "status", "--json"])
        assert told.exit_code == 0, told.output
        if not rows(live, "select from pg_extension where extname = 'vector'"):
            assert "vector" in told.stderr
        listed: list[dict[str, Any]] = json.loads(told.stdout)
        return listed

    assert await status() == []
    await say(live, "one")
    with embedding(live.config, live.ledger):
        await until(live.config)
    [told] = await status()
    assert (told["model"], told["state"], told["error"]) == ("small", "serving", "")
    assert told["position"] == told["head"] > 0
