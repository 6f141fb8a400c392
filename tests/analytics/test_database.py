"""What may be asked of a business database, what is answered, and what no query gets."""

from __future__ import annotations

import asyncio
import socket
import time
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest

from bichat.analytics import Analytics, Result
from bichat.errors.functions import (
    BusinessDatabaseUnavailable,
    FunctionError,
    QueryFailed,
    QueryRefused,
    TookTooLong,
)
from chaos.hostile import REFUSED
from tests.analytics.conftest import role_of
from tests.examples import OTHER_TENANT, TENANT

ROOM = 50_000


def ask(url: str, sql: str, *, seconds: float = 5, room: int = ROOM) -> Result:
    return asyncio.run(Analytics(url, seconds=seconds).query(TENANT, sql, room))


def rows(result: Result) -> object:
    return msgspec.json.decode(msgspec.json.encode(result.rows))


def test_tables_and_columns_are_described_with_what_their_makers_said(sales_url: str) -> None:
    async def story() -> None:
        analytics = Analytics(sales_url)
        tables = {table.table: table for table in await analytics.tables(TENANT)}
        assert list(tables) == ["customers", "order_items", "orders", "products", "regions", "sales"]
        assert tables["sales"].kind == "view"
        assert "order" in (tables["orders"].comment or "")
        assert (tables["orders"].rows or 0) > 2000
        columns = {column.column: column for column in await analytics.columns(TENANT, "orders")}
        assert columns["id"].primary_key
        assert columns["customer_id"].references == "customers.id"
        assert columns["ordered_on"].type == "date"
        assert "cancelled" in (columns["status"].comment or "")
        for nowhere in ("nothing", "pg_authid", "pg_catalog.pg_class", "bichat.seals", "a b", "x.y.z.w"):
            with pytest.raises(QueryFailed):
                await analytics.columns(TENANT, nowhere)

    asyncio.run(story())


def test_a_result_is_exact_and_as_json_writes_it(sales_url: str) -> None:
    result = ask(
        sales_url,
        "select 1 as n, 12345678901234567890.10::numeric as n, date '2026-02-03' as day, null as nothing,"
        " timestamp '2026-02-03 04:05' as t, interval '1 day' as i, true as yes,"
        " 'ä\"{query}\\'::text as said, array[1, 2] as a; -- that is all",
    )
    assert result.columns == ("n", "n", "day", "nothing", "t", "i", "yes", "said", "a")
    assert bytes(result.rows[0]).decode() == (
        '[1, 12345678901234567890.10, "2026-02-03", null, "2026-02-03T04:05:00", "1 day", true,'
        ' "ä\\"{query}\\\\", [1,2]]'
    )
    assert not result.truncated


def test_rows_keep_their_order_and_end_at_a_limit(sales_url: str) -> None:
    result = ask(sales_url, "select n from generate_series(1, 500) n order by n desc")
    assert result.truncated
    assert rows(result) == [[n] for n in range(500, 300, -1)]
    assert not ask(sales_url, "select n from generate_series(1, 200) n").truncated
    assert rows(ask(sales_url, "select region from sales where false")) == []
    assert ask(sales_url, "select region from sales where false").columns == ("region",)


def test_bytes_are_cut_on_the_server(sales_url: str) -> None:
    wide = "(select string_agg(c.name, '') from customers c, regions)"
    result = ask(sales_url, f"select n, {wide} from generate_series(1, 200) n", room=40_000)
    assert result.truncated
    assert 0 < len(result.rows) < 10
    assert len(msgspec.json.encode(result)) <= 40_000
    with pytest.raises(QueryFailed, match="first row alone"):
        ask(sales_url, f"select {wide}", room=1_000)


@pytest.mark.parametrize(
    "sql",
    [
        "with recursive days(d) as (select date '2026-01-01' union all select d + 1 from days where"
        " d < date"
        " '2026-01-05') select count(*) from days",
        "values (1, 'a'), (2, 'b')",
        "(select 1) union all (select 2) order by 1",
        "table regions",
        "select distinct on (region) region, product from sales order by region, revenue desc",
        "select region, to_char(date_trunc('month', ordered_on), 'YYYY-MM') m, sum(revenue),"
        " sum(sum(revenue)) over"
        " (partition by region order by date_trunc('month', ordered_on) rows unbounded preceding),"
        " rank() over"
        " (order by sum(revenue) desc) from sales group by region, date_trunc('month', ordered_on)",
        "select percentile_cont(0.5) within group (order by revenue), corr(revenue, margin),"
        " stddev(revenue),"
        " count(*) filter (where segment = 'hotel') from sales",
        "select g::date, coalesce(sum(revenue), 0) from generate_series(date '2026-01-01', date"
        " '2026-06-01',"
        " interval '1 month') g left join sales on date_trunc('month', ordered_on) = g group by 1",
        "select region, category, sum(revenue) from sales group by rollup (region, category)",
        "select c.name, last.ordered_on from customers c cross join lateral (select ordered_on from"
        " orders o where"
        " o.customer_id = c.id order by ordered_on desc limit 1) last",
        "select extract(isodow from ordered_on), round(avg(revenue), 2), string_agg(distinct"
        " region, ', ') from"
        " sales where product ilike '%blend%' and customer ~ '^Caf' group by 1 having count(*) > 1",
        "select case when revenue > 100 then 'big' else 'small' end, count(*)::float /"
        " nullif(sum(count(*)) over"
        " (), 0) from sales where ordered_on between current_date - 365 and now() group by 1",
        "select position('a' in name), substring(name from 1 for 3), trim(both 'x' from name),"
        " split_part(name,"
        " ' ', 1), name || '!', left(name, 2), greatest(id, 3), 2 ^ 3, 7 % 3 from products limit 3"
        " offset 1",
    ],
)  # fmt: skip
def test_what_analysts_write_is_run(sales_url: str, sql: str) -> None:
    assert ask(sales_url, sql).rows


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_no_plain_question_is_refused_before_the_database_sees_it(sql: str) -> None:
    began = time.process_time()  # the parser's own, whoever else is busy
    with pytest.raises(QueryRefused):
        ask("postgresql://nobody@127.0.0.1:1/nowhere", sql)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from sales a, sales b, sales c",
        "select sum(length(a.name || b.name)) from customers a, customers b, orders c, orders d",
        "with recursive forever(n) as (select 1 union all select n + 1 from forever) select max(n)"
        " from forever",
        "select count(*) from order_items a join order_items b on a.quantity <> b.position"
        " join order_items c on true",
    ],
)  # fmt: skip
def test_what_takes_too_long_is_ended_by_the_server(sales_url: str, sql: str) -> None:
    began = time.monotonic()
    with pytest.raises(TookTooLong):
        ask(sales_url, sql, seconds=0.5)
    assert time.monotonic() - began < 20  # of hours


def test_a_bomb_that_only_gives_rows_is_cut(sales_url: str) -> None:
    began = time.monotonic()
    result = ask(sales_url, "select a.order_id, b.product from sales a, sales b, sales c")
    assert result.truncated
    assert time.monotonic() - began < 20  # of hours


def test_errors_say_what_to_do_and_not_where(sales_url: str) -> None:
    def error(sql: str) -> FunctionError:
        with pytest.raises(QueryFailed) as caught:
            ask(sales_url, sql)
        return caught.value

    unknown = error("select revenu from sales")
    assert "revenu" in str(unknown)
    assert "revenue" in str(unknown.facts["hint"])
    assert unknown.facts["position"] == 8
    for sql in ("select nothing.x from sales", "select 1 / 0", "select 'a'::date", "select unaccent('a')"):
        assert not any(word in str(error(sql).facts) for word in ("sales_reader", "host", "socket"))


def test_a_database_that_is_away_is_told_without_its_address() -> None:
    with pytest.raises(BusinessDatabaseUnavailable) as caught:
        ask("postgresql://anna:geheim@127.0.0.1:1/nowhere", "select 1")
    assert "127" not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_nobody_waits_for_a_database_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def story() -> None:
            analytics = Analytics(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/nowhere")
            assert all(analytics.usable(tenant_id) for tenant_id in (TENANT, OTHER_TENANT) for _ in range(9))
            line, _ = await asyncio.to_thread(silent.accept)
            await asyncio.sleep(0.1)
            silent.setblocking(False)
            with line, pytest.raises(BlockingIOError):  # one look is enough
                silent.accept()
            await analytics.close()

        began = time.monotonic()
        asyncio.run(story())
        assert time.monotonic() - began < 3


async def known(analytics: Analytics) -> bool:
    """Whether it is usable, once that was looked at."""
    analytics.usable(TENANT)
    assert analytics._looking
    await analytics._looking
    return analytics.usable(TENANT)


# --- the first guard: the role ---------------------------------------------------------------------


def test_what_the_parser_would_let_through_the_role_does_not(sales_url: str) -> None:
    """As if there were no parser: the same role, asked directly."""
    for sql in (
        "insert into regions values (9, 'Far', 'Me')",
        "create table mine (n int)",
        "create temp table mine (n int)",
        "select pg_read_file('/etc/passwd')",
        "copy regions to program 'id'",
        "set role postgres",
        "select lo_create(0)",
        "create extension dblink",
        "select passwd from pg_shadow",
    ):
        with psycopg.connect(sales_url, autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off")
            with pytest.raises(psycopg.Error):
                connection.execute(sql.encode())
    for other in ("bichat", "postgres", "template1"):
        url = urlsplit(sales_url)._replace(path=f"/{other}").geturl()
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(url)


def test_each_tenant_sees_its_own_views_and_nothing_of_others(shared_url: str) -> None:
    async def story() -> None:
        analytics = Analytics(shared_url)
        for tenant_id, amount in ((TENANT, 10), (OTHER_TENANT, 70)):
            assert analytics.usable(tenant_id)
            assert rows(await analytics.query(tenant_id, "select amount from invoices", ROOM)) == [[amount]]
            assert [table.table for table in await analytics.tables(tenant_id)] == ["invoices"]
        for sql in (
            "select * from books.invoices",
            f'select * from "of_{OTHER_TENANT}".invoices',
            f'select * from "of_{OTHER_TENANT}"."invoices" i where i.amount > 0',
        ):
            with pytest.raises(QueryFailed, match="permission denied"):
                await analytics.query(TENANT, sql, ROOM)
        with pytest.raises(QueryFailed):
            await analytics.columns(TENANT, f'"of_{OTHER_TENANT}".invoices')

    asyncio.run(story())


@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        ("alter role {role} createdb", "create roles or databases"),
        ("grant insert on books.invoices to {role}", "may change books.invoices"),
        ("grant update (amount) on books.invoices to {role}", "may change books.invoices"),
        ("grant pg_read_server_files to {role}", "pg_read_server_files"),
        ("grant create on schema books to {role}", "create tables in the schema books"),
        ("alter role {role} superuser", "superuser"),
        ("create schema bichat; grant usage on schema bichat to {role}", "bichat itself"),
        ("alter role {role} bypassrls", "row-level security"),
    ],
)
def test_a_role_that_can_do_more_than_read_is_not_used(
    shared_url: str, empty_url: str, grant: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    role = f'"{role_of(TENANT)}"'
    undo = (
        f"alter role {role} nosuperuser nocreatedb nobypassrls; revoke pg_read_server_files from {role};"
        f" revoke all on all tables in schema books from {role}; revoke all on schema books from {role};"
        f" drop schema if exists bichat"
    )
    with psycopg.connect(empty_url, autocommit=True) as owner:
        owner.execute(grant.format(role=role).encode())
        try:
            analytics = Analytics(shared_url)
            assert not asyncio.run(known(analytics))
            with pytest.raises(QueryRefused, match="operator"):
                asyncio.run(analytics.query(TENANT, "select 1", ROOM))
        finally:
            owner.execute(undo.encode())
    [line] = caplog.messages
    assert reason in line
