"""P10: a user's list of dialogues by cursor, a thousand pages down, beside its first page."""

from __future__ import annotations

import statistics
import time
from typing import Any
from uuid import UUID

import psycopg
import uvloop
from msgspec import Struct
from uuid_utils.compat import uuid7

from bench.answers import answers
from bench.line import Line, Rounds, compared
from bench.place import Place
from bichat.projections import dialogues, versions
from bichat.projections.read_model import Build
from bichat.projections.reads import Reads

OWN, ALL = 100_000, 1_000_000
"""Dialogues of one user, and of everybody: 10 tenants of 100 other users."""
USER, PAGE, FAR = "anna", 20, 1000
ROUNDS, TIMES = 7, 30
ARCHIVED = 10
"""One in so many is put away."""
TARGET = 2.0

# As projecting leaves them: labels of 10 to 40 characters, last messages of 40 to 800.
_ROWS = """
insert into bichat.dialogues_v1_g2 (id, tenant_id, user_id, label, state, version, created_at, updated_at,
    message_count, last_message, question_id, question_seq, status)
select id, tenant, who, left(said, (10 + n %% 31)::int),
    case when n / %(share)s %% %(archived)s = 0 then 'archived' else 'active' end,
    12, at - interval '1 hour', at, 8,
    jsonb_build_object('id', id, 'seq', 8, 'version', 12, 'role', 'assistant', 'at', at,
        'content', left(said, (40 + n * 37 %% 761)::int), 'reply_to', id, 'attempt', 1,
        'model', 'gpt-4o-mini', 'finish_reason', 'stop',
        'usage', jsonb_build_object('prompt_tokens', 900, 'completion_tokens', 120, 'total_tokens', 1020)),
    id, 7, 'answered'
from (
    select n, gen_random_uuid() as id,
        case when n %% %(share)s = 0 then %(tenant)s else md5((n %% 10)::text)::uuid end as tenant,
        case when n %% %(share)s = 0 then %(user)s else 'user ' || n %% 1000 end as who,
        timestamptz '2026-01-01' + n * interval '10 seconds' as at,
        repeat('Sales of the line in region ' || n %% 97 || ', margin and orders by month; ', 14) as said
    from generate_series(0, %(last)s::bigint) as n
) made
"""
_COUNTS = """
insert into bichat.dialogues_counts_v1_g2
select tenant_id, user_id, state, count(*) from bichat.dialogues_v1_g2 group by tenant_id, user_id, state
"""


class Spans(Struct):
    """Of one round, in ms."""

    near: float
    far: float


def fill(url: str, tenant: UUID) -> None:
    """A second build of the read model, its rows put straight into its tables, shown as by a rebuild."""
    build = Build(dialogues.MODEL, 2)
    values = {"archived": ARCHIVED, "share": ALL // OWN, "tenant": tenant, "user": USER, "last": ALL - 1}
    with psycopg.connect(url) as connection:
        versions.create(connection, build, "building")
        connection.execute(_ROWS, values)
        connection.execute(_COUNTS)
        connection.execute("set local maintenance_work_mem = '256MB'")
        connection.execute(build.sql("indexes"))
        versions.guard(connection, build)
        versions.show(connection, build)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze bichat.dialogues_v1_g2, bichat.dialogues_counts_v1_g2")


class List:
    """The list as the API reads it: on a connection that is bound to the tenant."""

    def __init__(self, reads: Reads, tenant: UUID) -> None:
        self._reads, self._tenant = reads, tenant

    async def page(self, **wanted: Any) -> dialogues.Page:
        """One page."""
        async with self._reads.tenant(self._tenant) as connection:
            return await dialogues.page(connection, self._tenant, USER, limit=PAGE, **wanted)

    async def median(self, **wanted: Any) -> float:
        """Milliseconds of the same page again and again."""
        return statistics.median([(await self.timed(**wanted))[0] for _ in range(TIMES)])

    async def timed(self, **wanted: Any) -> tuple[float, dialogues.Page]:
        """Milliseconds of one page, and the page."""
        began = time.perf_counter()
        page = await self.page(**wanted)
        return 1000 * (time.perf_counter() - began), page

    async def walked(self, after: str | None, pages: int) -> tuple[float, str | None]:
        """Milliseconds of each of the next pages, none of them read before; and where the rest begins."""
        took = []
        for _ in range(pages):
            ms, page = await self.timed(after=after)
            if len(page.data) != PAGE or page.total != OWN - OWN // ARCHIVED or page.next is None:
                raise RuntimeError("that is not a page of this list")
            after = page.next
            took.append(ms)
        return statistics.median(took), after


async def rounds(url: str, tenant: UUID) -> tuple[list[Spans], list[str]]:
    """The first page and those from page 1,000 on, in turn; then what the filters cost."""
    reads = Reads(url, size=2)
    shown = List(reads, tenant)
    await reads.open()
    try:
        _, after = await shown.walked(None, FAR - 1)
        spans = []
        for _ in range(ROUNDS):
            near = await shown.median()
            far, after = await shown.walked(after, TIMES)
            spans.append(Spans(near, far))
        filters: dict[str, dict[str, Any]] = {
            "archived": {"state": "archived"}, "q that much matches": {"q": "region 40"},
            "offset=10000": {"offset": 10_000},
        }  # fmt: skip
        notes = [f"{name}: {await shown.median(**wanted):.1f} ms" for name, wanted in filters.items()]
        nothing = statistics.median([(await shown.timed(q="not there"))[0] for _ in range(3)])
    finally:
        await reads.close()
    return spans, [", ".join(notes), f"a q that nothing matches reads all of the user's: {nothing:.0f} ms"]


def measure(place: Place) -> Line:
    """Fills the read model, walks down the list, and asks over HTTP."""
    tenant = uuid7()
    with place.database() as url:
        began = time.monotonic()
        fill(url, tenant)
        place.say(f"filled in {time.monotonic() - began:.0f} s")
        spans, notes = uvloop.run(rounds(url, tenant))
        with answers(place, url, USER, tenant) as http:
            over_http = http.median("/v1/dialogues", limit=PAGE)
    fields = compared(Rounds([one.far for one in spans]), Rounds([one.near for one in spans]))
    return Line(
        id="P10", work=f"list by cursor, page {FAR:,}; {OWN:,} dialogues of {ALL:,}, with total", unit="ms",
        target=f"≤ {TARGET:.0f}", met=fields["ratio"] <= TARGET,
        notes=[
            "total is a counter beside the list, kept by the same fold; no page far down was read before",
            f"page 1 over HTTP, with JWT: {over_http:.1f} ms",
            *notes,
        ],
        **fields,
    )  # fmt: skip
