"""The sales that the embedded Postgres brings along: the same every time, made once, whole or not at all."""

from __future__ import annotations

import signal
import time
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from bichat.config import Config, environment, load
from bichat.embedded import owned
from bichat.embedded import sales as making
from bichat.embedded.figures import generated

DAY = date(2026, 11, 23)


def test_the_figures_are_the_same_every_time_and_hang_together() -> None:
    tables = generated(DAY)
    assert tables == generated(DAY)
    orders = {row[0]: row for row in tables["orders"]}
    customers = {row[0]: row for row in tables["customers"]}
    assert 2_500 < len(orders) < 4_500
    assert {row[0] for row in tables["order_items"]} == set(orders), "no order is empty"
    days = [row[2] for row in orders.values()]
    assert days == sorted(days)
    assert (DAY - days[0]).days in range(1000, 1096)
    assert (DAY - days[-1]).days in range(1, 8)
    assert all(row[2] >= customers[row[1]][5] for row in orders.values()), (
        "nobody orders before they are there"
    )


def test_they_are_made_once_and_quickly_and_a_start_cut_short_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(
        bichat_data_dir=tmp_path, openai_base_url="http://127.0.0.1:9/v1", redis_url="redis://127.0.0.1:1"
    )
    count = "select count(*), sum(revenue) from sales"

    def cut_short(today: date) -> dict[str, object]:
        raise KeyboardInterrupt

    def too_much(today: date) -> dict[str, object]:
        raise psycopg.errors.DiskFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(making, "generated", cut_short)
        with pytest.raises(KeyboardInterrupt), owned(config):
            pytest.fail("it must not start")
        patch.setattr(making, "generated", too_much)
        with owned(config) as servers:
            assert servers.config.analytics_database_url is None
        assert [line for line in caplog.messages if "no space left" in line] == caplog.messages[-1:]
    found = []
    for _ in range(2):
        with owned(config) as servers:
            url = servers.config.analytics_database_url or ""
            with psycopg.connect(url) as connection:
                found.append(connection.execute(count).fetchone())
            assert load(environment(servers.config)).analytics_database_url == url
            began = time.monotonic()
            assert making.sales(servers.config.database_url or "") == url
            assert time.monotonic() - began < 1
            with psycopg.connect(servers.config.database_url or "") as connection:
                names = connection.execute("select datname from pg_database order by 1").fetchall()
            assert [name for (name,) in names] == ["bichat", "postgres", "sales", "template0", "template1"]
    assert found[0] == found[1]
    assert found[0]


def test_the_reader_of_an_earlier_version_loses_what_it_had_too_much(tmp_path: Path) -> None:
    config = Config(
        bichat_data_dir=tmp_path, openai_base_url="http://127.0.0.1:9/v1", redis_url="redis://127.0.0.1:1"
    )
    with owned(config) as servers:
        server, url = servers.config.database_url or "", servers.config.analytics_database_url or ""
        with psycopg.connect(urlsplit(server)._replace(path="/sales").geturl()) as owner:
            owner.execute("grant execute on function pg_sleep(float8) to public")
        with psycopg.connect(url) as reader:
            reader.execute("select pg_sleep(0)")
        making.sales(server)
        for call in (
            "pg_sleep(0)",
            "pg_stat_get_activity(null)",
            "pg_cancel_backend(1)",
            "pg_advisory_lock(1)",
        ):
            with psycopg.connect(url) as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"select {call}".encode())


def test_whoever_has_a_business_database_gets_no_sales(tmp_path: Path) -> None:
    theirs = "postgresql://reader@127.0.0.1:1/theirs"
    config = Config(
        bichat_data_dir=tmp_path, openai_base_url="http://127.0.0.1:9/v1", redis_url="redis://127.0.0.1:1",
        analytics_database_url=theirs,
    )  # fmt: skip
    with owned(config) as servers:
        assert servers.config.analytics_database_url == theirs
        with psycopg.connect(servers.config.database_url or "") as connection:
            there = connection.execute("select from pg_database where datname = 'sales'").fetchone()
        assert there is None


def test_the_small_model_is_offered_no_functions(tmp_path: Path) -> None:
    config = Config(bichat_data_dir=tmp_path, redis_url="redis://127.0.0.1:1", database_url="postgresql://x")
    with owned(config) as servers:
        assert servers.config.bichat_functions is False
        assert servers.parts[0].pid
        servers.parts[0].stop_with = signal.SIGKILL  # it has nothing to save
