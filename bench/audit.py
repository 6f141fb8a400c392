"""P9: 1,000 events as of a version, their chain checked, as an auditor gets them, beside reading the rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from random import Random
from uuid import UUID

import psycopg
import uvloop
from msgspec import Struct
from psycopg.rows import tuple_row
from uuid_utils.compat import uuid7

from bench.answers import answers
from bench.line import Line, Rounds, compared
from bench.place import Place
from bench.talk import Talk, question, reply
from bench.writer import opened
from bichat.audit.auditor import Auditor
from bichat.commands.dialogue import AddMessage, StartDialogue
from bichat.commands.execute import Executor
from bichat.events.envelope import Actor, Metadata
from bichat.events.recorder import COLUMNS
from bichat.projections.reads import Reads

EVENTS, OLDER = 1000, 100_000
"""Of the dialogue, and rows of other dialogues of its tenant in the log."""
ROUNDS, TIMES = 7, 15
TARGET, TARGET_RATIO = 50.0, 5.0

# What the auditor reads, as plainly as it can be read.
_ROWS = f"""
select {COLUMNS} from bichat.stored_events
where tenant_id = %b and originator_id = %b and originator_version <= %b order by originator_version
"""
_OTHERS = """
insert into bichat.stored_events (notification_id, originator_id, originator_version, topic, state, tenant_id,
    command_id, hash, actor)
select nextval('bichat.log_position'), md5((n / 50)::text)::uuid, 1 + n %% 50, topic, state, tenant_id,
    command_id, hash, actor
from (select * from bichat.stored_events where topic = 'MessageAdded' limit 1) as sample,
    generate_series(0, %s) as n
"""


class Spans(Struct):
    """Of one round, in ms."""

    whole: float
    rows: float
    recorded: float


def conversation(rng: Random, dialogue_id: UUID) -> Talk:
    """A dialogue without an end: questions, attempts, answers, failures."""
    said = question(rng, asks=True)
    version = yield StartDialogue(dialogue_id=dialogue_id, user_id="anna", messages=(said,))
    for turn in range(EVENTS):
        yield from reply(rng, dialogue_id, said.message_id, version, turn)
        said = question(rng, asks=True)
        version = yield AddMessage(dialogue_id=dialogue_id, messages=(said,))


async def write(executor: Executor, tenant: UUID, dialogue_id: UUID) -> None:
    """Says so much in it that there are at least so many events."""
    talk, version = conversation(Random(9), dialogue_id), 0
    command = next(talk)
    while version < EVENTS:
        by = Metadata(tenant_id=tenant, actor=Actor("worker", "worker 1"), command_id=uuid7())
        version = (await executor.execute(command, by)).version
        command = talk.send(version)


async def median(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await work()
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


async def rounds(executor: Executor, url: str, tenant: UUID, dialogue_id: UUID) -> list[Spans]:
    """Ours and reading the rows, in turn, on connections such as the API has."""
    reads = Reads(url, size=2)
    auditor = Auditor(executor, reads, tenant, Actor("user", "auditor"))

    async def rows() -> None:
        async with reads.tenant(tenant, live=True) as connection:
            cursor = connection.cursor(binary=True, row_factory=tuple_row)
            await cursor.execute(_ROWS.encode(), (tenant, dialogue_id, EVENTS))
            if len(await cursor.fetchall()) != EVENTS:
                raise RuntimeError("these are not all rows")

    async def whole() -> None:
        found = await auditor.dialogue(dialogue_id, version=EVENTS)
        if found.version != EVENTS or found.message_count != len(found.messages):
            raise RuntimeError("that is not the dialogue")

    async def recorded() -> None:
        await auditor.record("dialogue", dialogue_id, version=EVENTS)

    await reads.open()
    try:
        measured = [
            Spans(await median(whole), await median(rows), await median(recorded)) for _ in range(ROUNDS + 1)
        ]
    finally:
        await reads.close()
    return measured[1:]  # the first one warms up


def measure(place: Place) -> Line:
    """Rounds of both in turn, and the same over HTTP."""
    tenant, dialogue_id = uuid7(), uuid7()
    with place.database() as url, opened(url) as executor:
        uvloop.run(write(executor, tenant, dialogue_id))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_OTHERS, (OLDER,))
            connection.execute("vacuum analyze bichat.stored_events")
        spans = uvloop.run(rounds(executor, url, tenant, dialogue_id))
        with answers(place, url, "auditor", tenant, roles=["auditor"]) as http:
            over_http = http.median(f"/v1/audit/dialogues/{dialogue_id}", version=EVENTS)
    fields = compared(Rounds([one.whole for one in spans]), Rounds([one.rows for one in spans]))
    recorded = statistics.median(one.recorded for one in spans)
    return Line(
        id="P9", work=f"audit: {EVENTS:,} events as of a version, chain checked", unit="ms",
        target=f"≤ {TARGET:.0f} ms, ≤ {TARGET_RATIO:.0f}",
        met=fields["ours"] <= TARGET and fields["ratio"] <= TARGET_RATIO,
        notes=[
            f"that the auditor reads it is in the log first: {recorded:.1f} ms of it",
            f"over HTTP, as JSON: {over_http:.1f} ms",
        ],
        **fields,
    )  # fmt: skip
