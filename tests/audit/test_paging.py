"""An export holds nothing while its reader is slow, ends with its reader, and is of what was sealed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from bichat.audit import export
from bichat.errors import ChainBroken
from tests.audit.exports import check, exported, in_pieces, proving
from tests.audit.sealed import END, Log, sealed
from tests.examples import DIALOGUE

HELD = """
select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
and backend_type = 'client backend'
and (state like 'idle in transaction%' or backend_xmin is not null or backend_xid is not null)
"""
SESSIONS = """
select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
and application_name <> 'bichat-reads' and backend_type = 'client backend' and state <> 'idle'
"""


@pytest.fixture
def log(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr(export, "ROWS", 2)
    with sealed(database_url) as log:
        yield log


def test_in_pages_it_is_the_same(log: Log) -> None:
    pieces = asyncio.run(in_pieces(log))
    assert len(pieces) == (END + 1) // 2 + 1
    assert check(log, pieces[-1]).events == END


def test_a_reader_that_stands_still_holds_no_transaction_and_no_connection(log: Log) -> None:
    async def stopped() -> None:
        async with proving(log) as prover:  # with one connection in its pool
            slow = [prover.export(DIALOGUE) for _ in range(3)]
            for one in slow:
                await anext(one)
            async with await psycopg.AsyncConnection.connect(log.url) as connection:
                for query in (HELD, SESSIONS):
                    found = await (await connection.execute(query.encode())).fetchone()
                    assert found == (0,)
            for one in slow:
                await one.aclose()

    asyncio.run(stopped())


def test_what_is_not_as_it_was_sealed_is_not_shown_as_if_it_were(log: Log) -> None:
    with psycopg.connect(log.url) as connection:
        connection.execute(
            "delete from bichat.stored_events where originator_id = %s and originator_version = 5",
            (DIALOGUE,),
        )
    with pytest.raises(ChainBroken, match="Event 5 of this dialogue"):
        exported(log)
