"""Names that are calls: Postgres takes `x.f` for `f(x)`, and some types look into its catalogs."""

from __future__ import annotations

import asyncio
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from bichat.analytics import Analytics
from bichat.errors.functions import BusinessDatabaseUnavailable, QueryRefused
from tests.analytics.conftest import role_of
from tests.analytics.test_database import ask, rows
from tests.examples import TENANT

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


@pytest.mark.parametrize(
    "query",
    [
        "select (3.0::float8).pg_sleep",
        'select (3.0::float8) . /* */ "pg_sleep"',
        "select d.pg_sleep from unnest(array[3::float8]) d",
        'select d."pg_sleep" from unnest(array[3::float8]) d',
        "select 1 from unnest(array[3::float8]) d order by d.PG_SLEEP",
        "select pid.pg_terminate_backend from unnest(array[1]) pid",
        "select ('is_superuser'::text).current_setting",
        "select (array['is_superuser'])[1].current_setting",
        "select (select 'is_superuser').current_setting",
        "select (null::int).pg_stat_get_activity",
        "select (c).name from customers c",
        'select d.u&"\\0070g_sleep" from unnest(array[3::float8]) d',
        f"select d.{'a' * 64} from unnest(array[1]) d",
        "select public.count(1)",
        "select * from public.hidden(1)",
        "select 'pg_class'::regclass",
        "select regclass 'pg_class'",
        "select cast('pg_class' as pg_catalog.regclass)",
        "select cast('pg_class' as pg_catalog.\"regclass\")",
        "select '{pg_class}'::_regclass",
        "select '{pg_class}'::regclass[]",
        "select 'pg_class'::u&\"\\0072egclass\"",
        "select d.regproc from unnest(array['now']) d",
    ],
)
def test_a_call_in_disguise_is_refused_before_the_database_sees_it(query: str) -> None:
    with pytest.raises(QueryRefused):
        ask(NOWHERE, query)


@pytest.mark.parametrize(
    "query",
    [
        "select d.current_setting from unnest(array['is_superuser']) d",
        "select d.\"current_setting\", 1 as current_setting from unnest(array['is_superuser']) d",
        "with current_setting as (select 'is_superuser' d) select d.current_setting from"
        " (select d.d from current_setting d) c(d), unnest(array['is_superuser']) d",
        "select n from unnest(array['a']) n where n.to_regrole is null",
        "select d.to_regclass from unnest(array['pg_class']) d",
    ],
)
def test_what_the_server_would_call_is_refused(sales_url: str, query: str) -> None:
    with pytest.raises(QueryRefused):
        ask(sales_url, query)


@pytest.mark.parametrize(
    "query",
    [
        "select c.name, o.ordered_on from orders o join customers c on c.id = o.customer_id limit 1",
        "select public.orders.id from public.orders limit 1",
        "with x as (select region as name, 1 as width, 2 as path from sales)"
        " select x.name, x.width, x.path, x.* from x limit 1",
    ],
)
def test_columns_are_no_calls(sales_url: str, query: str) -> None:
    assert len(ask(sales_url, query).rows) == 1


def test_what_runs_as_somebody_else_is_not_called(shared_url: str, empty_url: str) -> None:
    schema = sql.Identifier(f"of_{TENANT}")
    with psycopg.connect(empty_url, autocommit=True) as owner:
        for statement in (
            "create function {schema}.hidden(n int) returns numeric language sql stable security definer as"
            " 'select sum(amount) from books.invoices'",
            'create function {schema}."Hidden"(n int, m int default 0) returns numeric language sql immutable'
            " security definer as 'select sum(amount) from books.invoices'",
            "create function {schema}.amount(i {schema}.invoices) returns numeric language sql stable"
            " as 'select 1.0'",
        ):
            owner.execute(sql.SQL(statement).format(schema=schema))
        try:
            for name in ("hidden", '"hidden"', "HIDDEN", '"Hidden"'):
                with pytest.raises(QueryRefused, match="hidden after a dot"):
                    ask(shared_url, f"select d.{name} from unnest(array[1]) d")
            assert rows(ask(shared_url, "select i.amount from invoices i")) == [[10]]
        finally:
            owner.execute(sql.SQL("drop function {}.hidden").format(schema))
            owner.execute(sql.SQL('drop function {}."Hidden"').format(schema))
            owner.execute(sql.SQL("drop function {}.amount").format(schema))


def test_who_may_look_at_other_sessions_is_not_used(shared_url: str, empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as owner:
        role = sql.Identifier(role_of(TENANT))
        owner.execute(sql.SQL("grant pg_monitor to {}").format(role))
        try:
            with pytest.raises(QueryRefused, match="operator"):
                ask(shared_url, "select 1")
        finally:
            owner.execute(sql.SQL("revoke pg_monitor from {}").format(role))


def test_a_tenant_without_a_role_is_told_of_once_and_offered_nothing(
    shared_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        analytics, stranger = Analytics(shared_url), UUID(int=1)
        with pytest.raises(BusinessDatabaseUnavailable):
            await analytics.query(stranger, "select 1", 1000)
        for _ in range(3):
            assert not analytics.usable(stranger)
            await asyncio.sleep(0.05)
        assert rows(await analytics.query(TENANT, "select amount from invoices", 1000)) == [[10]]
        assert analytics.usable(TENANT)

    asyncio.run(story())
    assert len(caplog.messages) == 1
