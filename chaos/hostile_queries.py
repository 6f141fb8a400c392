"""R11: a model writes queries that write, read another tenant, run for ever or return a gigabyte."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from msgspec import Struct

from bench.stack import Stack, stack
from bichat.events.dialogue import FunctionCalled, FunctionReturned
from bichat.events.ledger import Ledger
from chaos.asking import Asked, ask, client, end, facts, log
from chaos.business import OTHER, ROWS, SECRET, business
from chaos.hostile import REFUSED
from chaos.provider import KEY, Provider, provider
from chaos.verdict import Verdict
from chaos.world import World

DONE = "a model writes queries that write, read another tenant, run for ever, return a gigabyte"

AT_ONCE, MOST = 8, 50_000
"""Queries that one question makes; bytes of a result."""
ANSWER = "None of that can be done."

WRITES = [
    "insert into invoices values (1, 1, 'mine')", "update invoices set amount = 0", "delete from invoices",
    "truncate invoices", "drop table invoices", "alter table invoices add x int",
    "grant all on invoices to public",
    "select 1; delete from invoices", "select 1) q; delete from invoices; --",
    "with gone as (delete from invoices returning *) select * from gone", "select * into mine from invoices",
    "merge into invoices using invoices i on true when matched then delete", "lock table invoices", "vacuum",
    "call anything()", "refresh materialized view invoices", "prepare p as delete from invoices",
]  # fmt: skip
ANOTHERS = [
    "select * from books.invoices",
    f'select * from "of_{OTHER}".invoices',
    f"select set_config('role', 'tenant_{OTHER}', false)",
    f'set role "tenant_{OTHER}"',
    f'set session authorization "tenant_{OTHER}"',
    f"select has_table_privilege('tenant_{OTHER}', 'books.invoices', 'select')",
    "select * from bichat.stored_events",
    "select most_common_vals from pg_stats",
    "select usename, query from pg_stat_activity",
    "select pg_read_file('PG_VERSION')",
]
ENDLESS = [
    "select count(*) from invoices a, invoices b, invoices c, invoices d",
    "with recursive forever(n) as (select 1 union all select n + 1 from forever) select max(n) from forever",
    "select sum(length(a.note || b.note)) from invoices a, invoices b, invoices c where a.number <> b.number",
    "select max(regexp_replace(repeat(a.note, 4), '(.*)*x', '')) from invoices a, invoices b, invoices c",
]
HUGE = [
    "select a.note, b.note, c.note from invoices a, invoices b, invoices c",
    "select a.note || b.note || c.note from invoices a, invoices b, invoices c order by a.amount",
    "select * from generate_series(1, 100000) n, invoices",
]
GIGABYTE = [
    "select string_agg(a.note || b.note, '') from invoices a, invoices b, invoices c",
    "select array_agg(a.note || b.note) from invoices a, invoices b, invoices c",
    "select repeat(note, 1000000000) from invoices",
]


class Tried(Struct, frozen=True):
    """A question and the queries that the model makes of it; `cut`: rows come, but not all."""

    model: str
    queries: list[str]
    cut: bool = False


def run(world: World, verdict: Verdict) -> None:
    tried = plan(world)
    with (
        business(world) as (owner, url),
        provider() as model,
        stack(world.database(), world.redis_url, model.url, world.scratch / "logs", OPENAI_API_KEY=KEY,
              BICHAT_FUNCTIONS="on", ANALYTICS_DATABASE_URL=url) as bichat,
    ):  # fmt: skip
        for one in tried:
            script(model, one.model, one.queries)
        own = "select sum(amount) from invoices"
        script(model, "honest", [own])
        bichat.up()
        before = everything(owner)
        with log(bichat.database_url) as ledger, ThreadPoolExecutor(len(tried) + 1) as people:
            futures = [people.submit(asked, bichat, one.model) for one in (*tried, Tried("honest", [own]))]
            for one, future in zip(tried, futures, strict=False):
                judge(world, verdict, one, future.result(), ledger)
            honest = results(ledger, futures[-1].result()[0])
            verdict.check(
                [str(ROWS * 10) in (one.result or "") for one in honest] == [True],
                f"meanwhile an honest query was told {honest}",
            )
        verdict.check(everything(owner) == before, "the business database is not what it was")
        verdict.check(left_alone(owner), "a query goes on though nobody waits for it")


def plan(world: World) -> list[Tried]:
    """What is refused goes together; what takes its time goes alone."""
    refused = [*WRITES, *ANOTHERS, *(text for text in REFUSED if text), "select " + "1, " * 200 + "1"]
    world.rng.shuffle(refused)
    endless = world.rng.sample(ENDLESS, 1) if world.short else ENDLESS
    groups = [refused[n : n + AT_ONCE] for n in range(0, len(refused), AT_ONCE)]
    groups += [[text] for text in (*endless, *GIGABYTE[: 1 if world.short else None])]
    return [
        *(Tried(f"hostile-{n}", group) for n, group in enumerate(groups)),
        Tried("huge", HUGE, cut=True),
    ]


def script(model: Provider, name: str, queries: list[str]) -> None:
    """A model that makes these queries and then says that it cannot."""
    calls = [{"name": "query", "arguments": {"sql": text}} for text in queries]
    model.script(
        {"type": "reply", "tool_calls": calls, "match": {"model": name}},
        {"type": "reply", "text": ANSWER, "match": {"model": name}},
    )


def asked(bichat: Stack, model: str) -> tuple[Asked, str]:
    with client(bichat, model) as person:
        one = ask(person, "Be evil.", model=model)
        return one, end(person, one, 60)["status"]


def results(ledger: Ledger, one: Asked) -> list[FunctionReturned]:
    return [fact for fact in facts(ledger, one) if isinstance(fact, FunctionReturned)]


def judge(world: World, verdict: Verdict, tried: Tried, told: tuple[Asked, str], ledger: Ledger) -> None:
    """Each is on record as it was written, with what came of it, and nothing of what it was after."""
    happened, status = facts(ledger, told[0]), told[1]
    called = [fact.arguments or "" for fact in happened if isinstance(fact, FunctionCalled)]
    returned = [fact for fact in happened if isinstance(fact, FunctionReturned)]
    world.history.tell(tried.model, status, results=[(fact.result or "")[:120] for fact in returned])
    verdict.counts["queries"] += len(called)
    verdict.check(status == "answered", f"{tried.model} {tried.queries} is {status}")
    verdict.check(len(called) == len(tried.queries) == len(returned), f"{tried.model}: not all are on record")
    for text, fact in zip(tried.queries, returned, strict=False):
        result = fact.result or ""
        verdict.counts["cut" if not fact.failed else "refused"] += 1
        verdict.check(
            bool(fact.failed) or (tried.cut and '"truncated":true' in result),
            f"{text} was told {result[:200]}",
        )
        verdict.check(len(result.encode()) <= MOST, f"{text} was told {len(result)} characters")
        shown = [word for word in (SECRET, "tenant_", str(world.scratch), "127.0.0.1") if word in result]
        verdict.check(not shown or (shown == ["tenant_"] and "tenant_" in text), f"{text} was told {shown}")


def everything(owner: psycopg.Connection[Any]) -> list[Any]:
    """All rows, relations, roles and when the server started."""
    return [
        owner.execute(query).fetchall()
        for query in (
            "select md5(string_agg(i::text, '|' order by tenant_id, number)) from books.invoices i",
            "select oid, relname, relacl::text from pg_class where relnamespace > 16000 order by oid",
            "select rolname, rolsuper, rolcreaterole from pg_roles order by 1",
            "select datname from pg_database order by 1",
            "select pg_postmaster_start_time()",
        )
    ]


def left_alone(owner: psycopg.Connection[Any]) -> bool:
    """Whether nothing of the functions runs any more, within the time that one query may take."""
    running = "select from pg_stat_activity where application_name = 'bichat functions'"
    deadline = time.monotonic() + 10
    while owner.execute(running).fetchone() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
