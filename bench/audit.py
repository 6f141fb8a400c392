"""P9: 1,000 events as of a version with the chain checked, against reading their rows.

`python -m bench.audit DATABASE_URL`, an empty migrated database; `--feed N` fills the log with N events
and times pages of the feed along it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import psycopg

from bichat.audit import feed
from bichat.audit.auditor import Auditor
from bichat.audit.feed import Place, Wanted
from bichat.audit.log import BYTES, TenantLog
from bichat.commands.execute import Executor
from bichat.events.envelope import Actor
from bichat.events.history import Unfolding
from bichat.events.ledger import Ledger
from bichat.projections.reads import Reads
from tests.examples import DIALOGUE, FACTS, TENANT, events, opened
from tests.projections.logs import write

EVENTS, TIMES = 1000, 50


def dialogue(ledger: Ledger) -> None:
    """One of 1,000 events: questions, attempts, answers of some length."""
    turn = [FACTS["asked"], FACTS["reply started"], FACTS["answered"]]
    facts = [FACTS["started"], *turn * (EVENTS // 3)]
    write(ledger, events(facts[:EVENTS]))


async def median(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await work()
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


async def as_of(ledger: Ledger, reads: Reads) -> None:
    log = TenantLog(reads, TENANT)

    async def rows() -> object:
        return await log.stream(DIALOGUE, upto=EVENTS, bytes=BYTES)

    async def folded() -> object:
        unfolding = Unfolding(ledger.keys, version=EVENTS)
        return unfolding.take(await log.stream(DIALOGUE, upto=EVENTS, bytes=BYTES))

    executor = Executor(ledger)
    executor.start()
    auditor = Auditor(executor, reads, TENANT, Actor("system", "operator"))
    yardstick, ours = await median(rows), await median(folded)
    whole = await median(lambda: auditor.dialogue(DIALOGUE, version=EVENTS))
    executor.close()
    print(
        f"{EVENTS} events: rows {yardstick:.1f} ms, as of a version {ours:.1f} ms,"
        f" ratio {ours / yardstick:.1f}"
    )
    print(f"with the reading recorded first {whole:.1f} ms, ratio {whole / yardstick:.1f}")


def fill(url: str, number: int) -> None:
    """Many events, half of them of one tenant; what they say is of no matter here."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"""
            insert into bichat.stored_events (originator_id, originator_version, topic, state, tenant_id,
                command_id, hash, actor, notification_id)
            select md5((n / 50)::text)::uuid, 1 + n % 50,
                   case n % 100 when 0 then 'DialogueDeleted' else 'MessageAdded' end,
                   convert_to('{{"v":1,"at":"2026-11-22T12:00:00Z","by":["user","u' || n % 100
                              || '"],"data":{{}}}}', 'UTF8'),
                   case n % 2 when 0 then '{TENANT}'::uuid else md5((n % 1000)::text)::uuid end,
                   gen_random_uuid(), 'x', 'u' || n % 100, 10000 + n
            from generate_series(1, {number}) n""")
        connection.execute("analyze bichat.stored_events")


async def pages(reads: Reads, number: int) -> None:
    log = TenantLog(reads, TENANT)
    kinds = {
        "all": Wanted(), "type": Wanted(type="DialogueDeleted"), "user": Wanted(user_id="u50"),
        "both": Wanted(type="DialogueDeleted", user_id="u0"),
    }  # fmt: skip
    for name, wanted in kinds.items():
        took = []
        for share in (0.0, 0.5, 0.99):
            place = Place(10_000 + int(share * number), 10_000 + number)
            took.append(await median(lambda: feed.page(log, wanted, place, 20)))  # noqa: B023
        print(f"feed, {name}: " + ", ".join(f"{one:.1f} ms" for one in took) + " at its start, middle, end")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--feed", type=int, default=0)
    given = parser.parse_args()
    with opened(given.url) as ledger:
        dialogue(ledger)
        reads = Reads(given.url, size=2)
        await reads.open()
        await as_of(ledger, reads)
        if given.feed:
            fill(given.url, given.feed)
            await pages(reads, given.feed)
        await reads.close()


if __name__ == "__main__":
    asyncio.run(main())
