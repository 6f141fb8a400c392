"""A business database that two tenants share, each with a role and a view of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
from psycopg import sql
from uuid_utils.compat import uuid7

from bench.stack import TENANT
from chaos.world import World

OTHER, SECRET, OWN, ROWS = uuid7(), "Xylophon", "Oboe", 2000
"""The other tenant, what stands in its rows, what in those of `TENANT`, and how many they are."""


@contextmanager
def business(world: World) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """Two tenants in one database, each with a role and a view; its owner's connection and the URL.

    The connection stays open: a server whose process crashes would cut it.
    """
    place = urlsplit(world.database())
    with psycopg.connect(place.geturl(), autocommit=True) as owner:
        owner.execute("create schema books")
        owner.execute("create table books.invoices (tenant_id uuid, number int, amount int, note text)")
        owner.execute("revoke create on schema public from public")
        for tenant, note in ((TENANT, OWN), (OTHER, SECRET)):
            open_books(owner, tenant, note)
        owner.execute("analyze")
        yield owner, place._replace(netloc="tenant_{tenant}@" + place.netloc.rpartition("@")[2]).geturl()


def open_books(owner: psycopg.Connection[Any], tenant: UUID, note: str) -> None:
    role, schema = sql.Identifier(f"tenant_{tenant}"), sql.Identifier(f"of_{tenant}")
    owner.execute(
        "insert into books.invoices select %s, n, 10, %s || n from generate_series(1, %s) n",
        (tenant, note, ROWS),
    )
    for statement in (
        "create role {role} login", "create schema {schema}",
        "create view {schema}.invoices as select number, amount, note from books.invoices"
        " where tenant_id = {tenant}",
        "grant usage on schema {schema} to {role}", "grant select on {schema}.invoices to {role}",
        "alter role {role} set search_path = {schema}",
    ):  # fmt: skip
        owner.execute(sql.SQL(statement).format(role=role, schema=schema, tenant=sql.Literal(tenant)))
