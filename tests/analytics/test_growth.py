"""What would take gigabytes of the server's memory in seconds is not run."""

from __future__ import annotations

import psycopg
import pytest

from bichat.errors.functions import QueryRefused
from tests.analytics.test_database import ask


@pytest.mark.parametrize(
    "query",
    [
        "select array_agg(a.n::char(4000)) from generate_series(1,100000) a(n), generate_series(1,999) b",
        "select array_agg(name) over () from customers",
        "select jsonb_agg(name) from customers",
        "select json_agg(name) from customers",
        "select jsonb_object_agg(id, name) from customers",
        "select array(select name from customers)",
        "select array(values (1))",
        "select array((table customers))",
        "select array(with c as (select 1) select * from c)",
        "select name::char(10000) from customers",
        "select name::char(10_000) from customers",
        "select name::char(0xFFFF) from customers",
        "select name::varchar(6000)[] from customers",
        "select char(10000) 'x'",
        "select cast(name as pg_catalog.bpchar(10000)) from customers",
        "select '1'::bit(83886080)",
        "select 1::bit varying(6000)",
        "select count(*) from generate_series(1, 1_000_000_000)",
    ],
)
def test_what_grows_without_bound_is_refused_before_the_database_sees_it(query: str) -> None:
    with pytest.raises(QueryRefused):
        ask("postgresql://nobody@127.0.0.1:1/nowhere", query)


@pytest.mark.parametrize(
    "query",
    [
        "select string_agg(name, ', ') from regions",
        "select array['a', 'b'], name::varchar(200), id::numeric(10, 2), 1 a from regions limit 1",
        "select now()::timestamp(0), date '2026-01-01', 1.5e3",
    ],
)
def test_what_stays_small_is_run(sales_url: str, query: str) -> None:
    assert len(ask(sales_url, query).rows) == 1


def test_a_connection_has_no_more_memory_than_it_is_given(sales_url: str) -> None:
    """As if there were no guard."""
    bomb = "select array_agg(a.n::char(4000)) from generate_series(1,100000) a(n), generate_series(1,999) b"
    with psycopg.connect(sales_url) as connection, pytest.raises(psycopg.errors.OutOfMemory):
        connection.execute(bomb)
