"""Limits of requests: what several servers let through together, what is told, and what a lost Redis does."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis
from prometheus_client import REGISTRY

from bichat import limits
from bichat.config import Config
from bichat.config.spending import Rate
from tests.api.conftest import Api, served
from tests.api.tokens import SECRET
from tests.valkey import Server


def config(database_url: str, redis_url: str, **settings: Any) -> Config:
    return Config(database_url=database_url, redis_url=redis_url, bichat_jwt_secret=SECRET, **settings)


@contextmanager
def four(given: Config) -> Iterator[list[Api]]:
    with ExitStack() as stack:
        yield [stack.enter_context(served(given)) for _ in range(4)]


def hammer(apis: list[Api], each: int, user: str, tenant: str) -> Counter[int]:
    """What so many requests to each of them were told, all at once."""

    def one(api: Api) -> Counter[int]:
        with api.client(user, tenant=tenant) as client:
            return Counter(client.get("/v1/usage").status_code for _ in range(each))

    with ThreadPoolExecutor(len(apis)) as pool:
        return sum(pool.map(one, apis), Counter())


def test_a_limit_holds_over_four_servers(module_database_url: str, redis_url: str) -> None:
    given = config(module_database_url, redis_url, bichat_rate_limit=Rate(30, "hour"))
    with four(given) as apis:
        tenant = str(uuid4())
        assert hammer(apis, 20, "anna", tenant) == {200: 30, 429: 50}
        assert hammer(apis, 2, "ben", tenant) == {200: 8}  # another person's requests are counted apart
        assert hammer(apis, 2, "anna", str(uuid4())) == {200: 8}  # and so are those of the same id elsewhere


def test_a_tenants_limit_is_for_all_its_users_and_nobody_spends_it_alone(
    module_database_url: str, redis_url: str
) -> None:
    given = config(
        module_database_url, redis_url,
        bichat_rate_limit=Rate(5, "hour"), bichat_tenant_rate_limit=Rate(8, "hour"),
    )  # fmt: skip
    tenant = str(uuid4())
    with served(given) as api:
        assert hammer([api], 20, "anna", tenant) == {200: 5, 429: 15}
        # What anna was refused was not counted for the tenant.
        assert hammer([api], 4, "ben", tenant) == {200: 3, 429: 1}


def test_what_a_tenant_is_refused_is_not_counted_for_the_user(
    module_database_url: str, redis_url: str
) -> None:
    def given(tenant_limit: int) -> Config:
        limits = {
            "bichat_rate_limit": Rate(6, "hour"),
            "bichat_tenant_rate_limit": Rate(tenant_limit, "hour"),
        }
        return config(module_database_url, redis_url, **limits)

    tenant = str(uuid4())
    with served(given(2)) as strict:
        assert hammer([strict], 12, "anna", tenant) == {200: 2, 429: 10}
    with served(given(100)) as lenient:  # counts the tenant's anew, and the user's on
        assert hammer([lenient], 12, "anna", tenant) == {200: 4, 429: 8}


def refused(whose: str) -> float:
    labels = {"reason": "RateLimited", "whose": whose}
    return REGISTRY.get_sample_value("bichat_http_requests_refused_total", labels) or 0.0


def test_who_is_refused_is_told_when_to_come_back(module_database_url: str, redis_url: str) -> None:
    origin, before = "https://page.example", refused("user")
    given = config(
        module_database_url, redis_url,
        bichat_rate_limit=Rate(1, "second"), bichat_cors_origins=(origin,),
    )  # fmt: skip
    with served(given) as api, api.client(f"anna {uuid4()}") as client:
        key = {"Idempotency-Key": "first", "Origin": origin}
        first = client.post("/v1/dialogues", json={"message": "?"}, headers=key)
        more = (client.post("/v1/dialogues", json={"message": "?"}, headers=key) for _ in range(100))
        answer = next(answer for answer in more if answer.status_code == 429)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "1"
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        told = answer.json()
        assert told["type"].endswith(":RateLimited")
        assert told["status"] == 429
        assert "1 in a second" in told["detail"]
        assert refused("user") > before
        time.sleep(2.1)  # the window that follows counts the one before by its share
        again = client.post("/v1/dialogues", json={"message": "?"}, headers=key)
        assert (again.status_code, again.json()) == (202, first.json())
        assert client.get("/health/live").status_code == 200


def test_what_redis_keeps_names_nobody(module_database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    given = config(module_database_url, server.url, bichat_rate_limit=Rate(9, "minute"))
    try:
        with served(given) as api, api.client("anna@example.org") as client:
            assert client.get("/v1/usage").status_code == 200
            with redis.Redis.from_url(server.url) as line:
                [key] = line.keys()
                assert b"bichat:limits:" in key
                assert b"anna" not in key
                assert 0 < line.ttl(key) <= 120
    finally:
        server.kill()


def test_a_lost_redis_lets_everything_through_at_once_and_limits_hold_again_when_it_is_back(
    module_database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, limits.__name__)
    server = Server(tmp_path)
    server.start()
    given = config(module_database_url, server.url, bichat_rate_limit=Rate(2, "hour"))
    try:
        with served(given) as api, api.client("anna") as client:
            assert statuses(client, 3) == [200, 200, 429]
            server.kill()
            began = time.monotonic()
            assert statuses(client, 20) == [200] * 20
            assert time.monotonic() - began < limits.PATIENCE + 1
            assert said(caplog) == ["Redis does not answer"]
            server.start()  # empty
            deadline = time.monotonic() + 10
            while len(said(caplog)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert statuses(client, 3) == [200, 200, 429]
            assert said(caplog) == ["Redis does not answer", "Redis answers again"]
    finally:
        server.kill()


def test_a_redis_that_hangs_costs_one_short_wait(module_database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    given = config(module_database_url, server.url, bichat_rate_limit=Rate(2, "hour"))
    try:
        with served(given) as api, api.client("anna") as client:
            assert statuses(client, 3) == [200, 200, 429]
            server.signal(signal.SIGSTOP)
            began = time.monotonic()
            assert statuses(client, 20) == [200] * 20
            assert time.monotonic() - began < limits.PATIENCE + 1
            server.signal(signal.SIGCONT)
    finally:
        server.kill()


def statuses(client: httpx.Client, times: int) -> list[int]:
    return [client.get("/v1/usage").status_code for _ in range(times)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """About limits, without the details."""
    return [one.message.split(",")[0] for one in caplog.records if one.name == limits.__name__]
