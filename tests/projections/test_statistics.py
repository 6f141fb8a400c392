"""What the planner remembers of tables is nothing that people wrote: it would outlive an erasure."""

from __future__ import annotations

import asyncio

import psycopg

from tests.examples import by, opened, question, start, writing
from tests.projections.test_rebuild import follow

WORD = "xylophone"


def test_no_statistics_hold_what_people_wrote(database_url: str) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:

        async def story() -> None:
            for n in range(20):
                await executor.execute(start(None, question(f"{WORD} {n}")), by())

        asyncio.run(story())
    follow(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        held = connection.execute(
            "select count(*) from bichat.transcripts_pages_v2 where messages::text ~ %s", (WORD,)
        )
        assert held.fetchone() == (20,)
        connection.execute("analyze")
        found = connection.execute(
            "select tablename, attname from pg_stats where schemaname = 'bichat' and"
            " (most_common_vals::text ~ %(word)s or histogram_bounds::text ~ %(word)s)",
            {"word": WORD},
        )
        assert found.fetchall() == []
