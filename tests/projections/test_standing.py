"""Looking at the installation: across tenants, seldom, and without waiting for a database that is silent."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from msgspec import Struct

from bichat.errors import Overloaded, ReadsUnavailable
from bichat.projections import standing, versions
from bichat.projections.reads import Reads
from bichat.projections.standing import Watch
from tests.examples import by, opened, start, writing


class Answer(Struct):
    number: int


class Source:
    """Answers with how often it was asked."""

    def __init__(self, *, error: Exception | None = None, silent: bool = False) -> None:
        self.asked, self.error, self.silent = 0, error, silent

    async def ask(self) -> list[Answer]:
        self.asked += 1
        await asyncio.sleep(60 if self.silent else 0.02)
        if self.error:
            raise self.error
        return [Answer(self.asked)]


def test_however_many_ask_it_is_asked_once_a_second() -> None:
    async def scenario() -> None:
        source = Source()
        watch = Watch(source.ask)
        told = await asyncio.gather(*(watch.look() for _ in range(20)))
        assert told == [[Answer(1)]] * 20
        assert await watch.look() == [Answer(1)]
        await asyncio.sleep(standing.FRESH)
        assert await watch.look() == [Answer(2)]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "told"),
    [(Overloaded(), Overloaded), (psycopg.ProgrammingError("no such function"), ReadsUnavailable)],
)
def test_its_errors_are_everybodys_for_a_second(error: Exception, told: type[Exception]) -> None:
    async def scenario() -> None:
        source = Source(error=error)
        watch = Watch(source.ask)
        for _ in range(3):
            with pytest.raises(told):
                await watch.look()
        assert source.asked == 1

    asyncio.run(scenario())


def test_one_that_is_silent_holds_nobody_up_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "PATIENCE", 0.1)
    monkeypatch.setattr(standing, "LONGEST", 0.5)
    monkeypatch.setattr(standing, "FRESH", 0.1)

    async def scenario() -> None:
        source = Source(silent=True)
        watch = Watch(source.ask)
        for _ in range(2):
            with pytest.raises(ReadsUnavailable):
                await watch.look()
        assert source.asked == 1
        await asyncio.sleep(0.5)
        source.silent = False
        assert await watch.look() == [Answer(2)]

    asyncio.run(scenario())


def test_a_caller_that_leaves_takes_nothing_from_the_others() -> None:
    async def scenario() -> None:
        watch = Watch(Source().ask)
        leaving, staying = asyncio.create_task(watch.look()), asyncio.create_task(watch.look())
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == [Answer(1)]

    asyncio.run(scenario())


def test_the_readers_role_sees_builds_and_numbers_and_no_rows(database_url: str) -> None:
    async def scenario() -> None:
        with opened(database_url) as ledger, writing(ledger) as executor:
            await executor.execute(start(), by())
        reads = Reads(database_url)
        await reads.open()
        try:
            builds = await standing.builds(reads)
            serving = {(one.name, one.shape) for one in builds if one.serves}
            assert serving == {(model.name, model.shape) for model in versions.MODELS}
            assert await standing.queue(reads) == []
            async with reads.connection() as connection:
                events = await connection.execute("select from bichat.stored_events")
                assert await events.fetchall() == []  # no tenant, no rows
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await connection.execute("select from bichat.receipts")
        finally:
            await reads.close()

    asyncio.run(scenario())


def test_an_installation_from_before_the_queue_could_be_asked_gets_its_function(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("drop function bichat.replies_v2_queue()")
        versions.ensure(owner)
        assert owner.execute("select * from bichat.replies_v2_queue()").fetchall() == []
        [(public,)] = owner.execute(
            "select count(*) from information_schema.routine_privileges"
            " where routine_name = 'replies_v2_queue' and grantee = 'PUBLIC'"
        )
        assert public == 0
