"""Business databases: the one that comes along, and one that tenants share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from bichat.config import Config
from tests.examples import OTHER_TENANT, TENANT


@pytest.fixture(scope="module")
def empty_url(servers: Config) -> Iterator[str]:
    """A database of its own, as its owner."""
    assert servers.database_url
    name = sql.Identifier(f"business_{secrets.token_hex(4)}")
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(name))
        try:
            yield urlsplit(servers.database_url)._replace(path=f"/{name.as_string()[1:-1]}").geturl()
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


def role_of(tenant_id: UUID) -> str:
    """The login role of a tenant."""
    return f"tenant_{tenant_id}"


@pytest.fixture(scope="module")
def shared_url(empty_url: str) -> Iterator[str]:
    """Two tenants in one database; each has a role and a schema of views, and nothing else to see."""
    with psycopg.connect(empty_url, autocommit=True) as owner:
        owner.execute("create schema books")
        owner.execute("create table books.invoices (tenant_id uuid, number int, amount numeric(10, 2))")
        owner.execute("revoke create on schema public from public")
        for tenant_id, amount in ((TENANT, 10), (OTHER_TENANT, 70)):
            role, schema = sql.Identifier(role_of(tenant_id)), sql.Identifier(f"of_{tenant_id}")
            owner.execute("insert into books.invoices values (%s, 1, %s)", (tenant_id, amount))
            for statement in (
                "create role {role} login",
                "create schema {schema}",
                "create view {schema}.invoices as select number, amount from books.invoices"
                " where tenant_id = {tenant}",
                "grant usage on schema {schema} to {role}",
                "grant select on {schema}.invoices to {role}",
                "alter role {role} set search_path = {schema}",
            ):
                owner.execute(
                    sql.SQL(statement).format(role=role, schema=schema, tenant=sql.Literal(tenant_id))
                )
        parts = urlsplit(empty_url)
        where = parts.netloc.rpartition("@")[2]
        yield parts._replace(netloc=f"tenant_{{tenant}}@{where}").geturl()
        for tenant_id in (TENANT, OTHER_TENANT):
            role = sql.Identifier(role_of(tenant_id))
            owner.execute(sql.SQL("drop owned by {}").format(role))
            owner.execute(sql.SQL("drop role {}").format(role))
