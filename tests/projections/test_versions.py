"""Builds are made once, guarded by tenant, and shown by views."""

from __future__ import annotations

import threading
from uuid import UUID

import psycopg
import pytest

from bichat.errors.unusable import ReadModelsMissing
from bichat.events import schema
from bichat.projections import versions
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner, connect
from tests.examples import OTHER_TENANT, TENANT
from tests.projections.histories import BUILDS, history
from tests.projections.logs import prompts
from tests.projections.test_runner import Script

TABLES = [table for build in BUILDS for table in build.tables]
VIEWS = [view for build in BUILDS for view in build.model.views]


def test_each_shape_gets_one_build_however_often_and_at_once(database_url: str) -> None:
    made: list[Build] = []

    def ensure() -> None:
        with schema.connect(database_url) as connection:
            made.extend(versions.ensure(connection))

    with schema.connect(database_url) as connection:
        for table in VIEWS:
            connection.execute(f"drop view {table}".encode())
        for table in TABLES:
            connection.execute(f"drop table {table}".encode())
        connection.execute("delete from bichat.serving")
        connection.execute("delete from bichat.checkpoints")
    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == BUILDS
    with schema.connect(database_url) as connection:
        assert versions.followed(connection) == BUILDS


def test_a_database_without_them_is_said_to_lack_them(database_url: str) -> None:
    with schema.connect(database_url) as connection:
        versions.check(connection)
        connection.execute("delete from bichat.serving where name in ('usage', 'replies')")
        with pytest.raises(ReadModelsMissing, match="no replies_v2, usage_v1: run `bichat migrate`"):
            versions.check(connection)
        connection.execute("drop table bichat.serving cascade")
        with pytest.raises(ReadModelsMissing, match="no read models"):
            versions.check(connection)


@pytest.mark.parametrize("relation", TABLES + VIEWS)
def test_a_reader_sees_its_tenant_and_without_one_nothing(module_database_url: str, relation: str) -> None:
    with connect(module_database_url) as connection:
        if not connection.execute("select from bichat.transcripts_v2 limit 1").fetchall():
            log = history([(d, w, 1) for w in (0, 0, 3, 9, 3, 6) for d in range(4)])
            log += prompts([("system", "Be brief.")]) + prompts([("system", "Be kind.")], 1001, OTHER_TENANT)
            for build in BUILDS:
                Runner(build, module_database_url, Script()).apply(connection, 0, log)
        tenants = f"select distinct tenant_id from {relation}".encode()
        assert connection.execute(tenants).rowcount == 2
        connection.execute("set role bichat_reader")
        assert connection.execute(tenants).fetchall() == []
        for tenant in (TENANT, OTHER_TENANT):
            connection.execute("select set_config('bichat.tenant', %s, false)", (str(tenant),))
            assert connection.execute(tenants).fetchall() == [(tenant,)]
        connection.execute("select set_config('bichat.tenant', '', false)")
        assert connection.execute(tenants).fetchall() == []


@pytest.mark.parametrize("relation", [*TABLES, *VIEWS, "bichat.checkpoints", "bichat.serving"])
def test_a_reader_writes_nothing(module_database_url: str, relation: str) -> None:
    with connect(module_database_url) as connection:
        connection.execute("set role bichat_reader")
        connection.execute("select set_config('bichat.tenant', %s, false)", (str(UUID(int=0)),))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"delete from {relation}".encode())
