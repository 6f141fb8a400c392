"""Metrics over HTTP: whose they are, what they count, and that a database that is away takes none of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bichat.config import Config
from tests.api.conftest import Api, served
from tests.api.talk import Ear, ask, write
from tests.api.tokens import SECRET

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(api: Api) -> Series:
    with api.client("root", roles=["operator"]) as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["cache-control"] == "private, no-store"
    return parsed(answer.text)


def value(series: Series, name: str, **labels: str) -> float:
    return series.get((name, frozenset(labels.items())), 0.0)


def until(api: Api, holds: Callable[[Series], bool]) -> Series:
    deadline = time.monotonic() + 10
    while not holds(series := scraped(api)):
        assert time.monotonic() < deadline, series
        time.sleep(0.1)
    return series


def test_only_operators_see_them(api: Api) -> None:
    assert httpx.get(f"{api.url}/metrics").status_code == 401
    for roles in (None, ["user", "ops", "auditor"]):
        with api.client(roles=roles) as client:
            refused = client.get("/metrics")
        assert refused.status_code == 403
        assert refused.json()["detail"] == "This needs the role operator."


def test_they_are_in_the_document_with_their_refusals(api: Api) -> None:
    document = httpx.get(f"{api.url}/schema/openapi.json").json()
    operation = document["paths"]["/metrics"]["get"]
    assert operation["security"] == [{"bearer": []}]
    assert set(operation["responses"]) == {"200", "400", "401", "403", "429"}


def test_requests_are_counted_by_route_and_never_by_address(api: Api, anna: httpx.Client) -> None:
    before = scraped(api)
    asked = ask(anna)
    assert anna.get(f"/v1/dialogues/{asked[0]}").status_code == 200
    assert anna.get("/v1/nowhere/at/all").status_code == 404
    assert anna.get(f"/v1/dialogues/{asked[1]}").status_code == 404
    assert anna.put("/v1/dialogues").status_code == 405
    after = scraped(api)

    def more(method: str, route: str, status: str) -> float:
        about = {"method": method, "route": route, "status": status}
        name = "bichat_http_request_duration_seconds_count"
        return value(after, name, **about) - value(before, name, **about)

    assert more("POST", "/v1/dialogues", "202") == 1
    assert more("GET", "/v1/dialogues/{dialogue_id}", "200") == 1
    assert more("GET", "/v1/dialogues/{dialogue_id}", "404") == 1
    assert more("GET", "-", "404") == 1
    assert more("PUT", "-", "405") == 1
    assert not any("nowhere" in label or str(asked[0]) in label for _, labels in after for _, label in labels)


def test_commands_are_counted_by_what_became_of_them(api: Api, anna: httpx.Client) -> None:
    before = scraped(api)
    once = {"Idempotency-Key": f"metrics-{time.time()}"}
    for _ in range(2):
        told = anna.post("/v1/dialogues", json={"message": "How much?"}, headers=once)
    dialogue = told.json()["dialogue_id"]
    assert anna.patch(f"/v1/dialogues/{dialogue}", json={"label": "x"}, headers={"If-Match": '"9"'}).is_error
    after = scraped(api)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("bichat_commands_total", command="StartDialogue", outcome="done") == 1
    assert more("bichat_commands_total", command="StartDialogue", outcome="replayed") == 1
    kinds = {dict(labels)["outcome"] for name, labels in after if name == "bichat_commands_total"}
    assert "PreconditionFailed" in kinds
    assert more("bichat_writer_batch_commands_count") == 3
    assert more("bichat_writer_batch_commands_sum") == 3
    assert more("bichat_writer_append_duration_seconds_count") == 1
    assert value(after, "bichat_writer_queue_commands") == 0


def test_open_streams_come_and_go(api: Api, anna: httpx.Client) -> None:
    asked = ask(anna)
    before = value(scraped(api), "bichat_http_open_streams")
    ear = Ear(anna, asked)
    until(api, lambda series: value(series, "bichat_http_open_streams") == before + 1)
    write(api, asked)
    ear.out()
    until(api, lambda series: value(series, "bichat_http_open_streams") == before)


def test_read_models_and_the_queue_are_those_of_the_installation(
    api: Api, anna: httpx.Client, module_database_url: str
) -> None:
    with api.client("berta", tenant="01a00000-0000-7000-8000-0000000000ff") as berta:
        asked = [ask(anna), ask(berta)]

    def waiting() -> int:
        with psycopg.connect(module_database_url) as owner:
            found = owner.execute("select message_id from bichat.replies_v2 where status = 'waiting'")
            ids = {message_id for (message_id,) in found}
        return len(ids) if {message_id for _, message_id in asked} <= ids else -1

    series = until(api, lambda now: value(now, "bichat_questions", status="waiting") == waiting())
    assert value(series, "bichat_questions_oldest_seconds", status="waiting") > 0
    build = {"read_model": "transcripts", "version": "2", "build": "1"}
    series = until(api, lambda now: value(now, "bichat_projection_lag_events", **build) == 0)
    assert value(series, "bichat_projection_position", **build) > 0
    assert value(series, "bichat_log_position") >= value(series, "bichat_projection_position", **build)
    assert value(series, "bichat_projection_state", **build, state="serving") == 1
    assert value(series, "bichat_projection_state", **build, state="stopped") == 0
    assert value(series, "bichat_projection_parked_dialogues", **build) == 0
    assert value(series, "bichat_projection_events_total", **build) > 0
    assert value(series, "bichat_projection_batch_duration_seconds_count", read_model="replies") > 0
    assert value(series, "bichat_reads_pool_max") == 8
    assert 1 <= value(series, "bichat_reads_pool_size") <= 8
    assert value(series, "bichat_database_up") == 1


def test_openmetrics_for_who_asks_for_it(api: Api) -> None:
    with api.client("root", roles=["operator"]) as client:
        answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert answer.text.count("# EOF") == 1


@pytest.fixture
def forlorn(
    new_database: Callable[[], AbstractContextManager[str]], redis_url: str
) -> Iterator[tuple[Api, str]]:
    """An API of its own, and the database that it will lose."""
    with new_database() as url:
        config = Config(database_url=url, redis_url=redis_url, bichat_jwt_secret=SECRET)
        with served(config) as api:
            yield api, url


def test_what_the_process_counted_is_shown_without_a_database(forlorn: tuple[Api, str]) -> None:
    api, url = forlorn
    series = until(api, lambda series: value(series, "bichat_database_up") == 1)
    assert ("bichat_questions", frozenset({("status", "waiting")})) in series  # none is told as 0
    name = urlsplit(url).path[1:]
    with psycopg.connect(urlsplit(url)._replace(path="/postgres").geturl(), autocommit=True) as admin:
        admin.execute(f'alter database "{name}" allow_connections false'.encode())
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        series = until(api, lambda series: value(series, "bichat_database_up") == 0)
        assert value(series, "bichat_commands_total", command="StartDialogue", outcome="done") >= 0
        assert ("bichat_writer_queue_commands", frozenset()) in series
        assert not [name for name, _ in series if name.startswith("bichat_projection_position")]
        admin.execute(f'alter database "{name}" allow_connections true'.encode())
    until(api, lambda series: value(series, "bichat_database_up") == 1)
