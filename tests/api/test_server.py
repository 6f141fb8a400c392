"""The process around the API: ports, logs, health, and the document that describes it."""

from __future__ import annotations

import logging
import re
import socket
import time
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Request

from bichat.api.app import of_bichat
from bichat.api.asking import streamed
from bichat.api.server import listen
from bichat.config import Config
from bichat.errors import ReadsUnavailable
from bichat.errors.unusable import PortTaken
from tests.api.conftest import Api, served
from tests.api.tokens import SECRET, token


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTaken, match="BICHAT_PORT"):
        listen(*taken.getsockname())


def test_health_is_open_to_all(api: Api) -> None:
    for path in ("/health/live", "/health/ready"):
        assert httpx.get(f"{api.url}{path}").json() == {"status": "ok"}


def test_without_a_database_it_lives_but_is_not_ready(module_database_url: str, redis_url: str) -> None:
    config = Config(database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET)
    lost = msgspec.structs.replace(config, database_url=module_database_url + "_not_there")
    with served(config, reads_from=lost.database_url) as api, api.client() as anna:
        assert anna.get("/health/live").status_code == 200
        for path in ("/health/ready", "/v1/dialogues"):
            refused = anna.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["content-type"] == "application/problem+json"
            assert "not_there" not in refused.text


def test_configured_origins_may_call(module_database_url: str, redis_url: str) -> None:
    page = "https://page.example"
    config = Config(
        database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET,
        bichat_cors_origins=(page,),
    )  # fmt: skip
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,if-match,traceparent,x-request-id",
    }
    with served(config) as api, api.client() as anna:
        told = anna.get("/v1/dialogues", headers={"Origin": page})
        assert told.headers["access-control-allow-origin"] == page
        assert {"Location", "X-Request-Id"} <= set(told.headers["access-control-expose-headers"].split(", "))
        assert anna.options("/v1/dialogues", headers={"Origin": page, **asks}).status_code == 204
        for other in ("https://elsewhere.example", f"{page}.elsewhere.example"):
            told = anna.get("/v1/dialogues", headers={"Origin": other})
            assert "access-control-allow-origin" not in told.headers
            refused = anna.options("/v1/dialogues", headers={"Origin": other, **asks})
            assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)


ASKS = ("/v1/embeddings", "/v1/prompts/{name}/render", "/v1/search")
"""Queries that have a body."""


def test_the_document_is_closed_and_says_every_refusal(api: Api) -> None:
    document = httpx.get(f"{api.url}/schema/openapi.json").json()
    assert sorted(document["paths"]) == [
        "/health/live", "/health/ready", "/metrics",
        "/v1/audit/dialogues/{dialogue_id}",
        *(f"/v1/audit/dialogues/{{dialogue_id}}/{last}" for last in (
            "attempts", "events", "export", "messages/{message_id}/attempts/{number}", "verify",
        )),
        "/v1/audit/events", "/v1/dialogues", "/v1/dialogues/{dialogue_id}",
        *(f"/v1/dialogues/{{dialogue_id}}/{last}" for last in (
            "archive", "messages", "messages/{message_id}/cancel", "messages/{message_id}/retry", "restore",
            "stream", "unarchive",
        )),
        "/v1/embeddings", "/v1/ops/erasures", "/v1/ops/holds", "/v1/ops/holds/{hold_id}",
        "/v1/ops/projections", "/v1/ops/projections/{name}/rebuild", "/v1/ops/replies",
        "/v1/ops/replies/{message_id}/retry",
        "/v1/prompts", "/v1/prompts/{name}", "/v1/prompts/{name}/render", "/v1/search", "/v1/usage",
    ]  # fmt: skip
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("additionalProperties") is False or "properties" not in schema, name
    for path, method, operation in _operations(document):
        if path.startswith("/v1/"):
            assert operation["security"] == [{"bearer": []}]
            refusals = {"400", "401", "403", "404", "429", "503"}
            if path.endswith("/rebuild"):
                refusals |= {"409"}
            elif path in ASKS:
                refusals |= {"413"}
            elif method != "get":
                refusals |= {"409", "412", "413", "422"}
            told = {status for status in operation["responses"] if status >= "400"}
            assert told == refusals | ({"409"} if path.startswith("/v1/audit/") else set()), path
            assert "X-Request-Id" in [parameter["name"] for parameter in operation["parameters"]]
            assert all("X-Request-Id" in told["headers"] for told in operation["responses"].values())
            for status in told:
                assert list(operation["responses"][status]["content"]) == ["application/problem+json"]


def test_nothing_is_open_but_health_and_the_document(api: Api) -> None:
    document = httpx.get(f"{api.url}/schema/openapi.json").json()
    for path, method, _ in _operations(document):
        told = httpx.request(method, api.url + path)
        assert (told.status_code == 401) == path.startswith(("/v1/", "/metrics")), path


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(p, m, o) for p, item in document["paths"].items() for m, o in item.items()]


def test_the_page_needs_no_internet(api: Api) -> None:
    page = httpx.get(f"{api.url}/schema").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) == 3
    for path in loaded:
        assert httpx.get(f"{api.url}{path}").status_code == 200


def test_who_leaves_in_mid_body_is_no_error(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bichat")
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaver:
        head = f"POST /v1/dialogues HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        leaver.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    for _ in range(100):
        if "disconnected" in caplog.text:
            break
        time.sleep(0.05)
    told = [record for record in caplog.records if record.name != "bichat.api.observed"]
    assert [(record.levelname, record.exc_info) for record in told] == [("DEBUG", None)]


def test_a_path_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    scope: Any = {"type": "http", "method": "GET", "path": "/x\nERROR all is lost"}
    for error in (ValueError("ours"), ReadsUnavailable(reason="theirs")):
        of_bichat(Request(scope), error)
    assert [record.getMessage().count("\n") for record in caplog.records] == [0, 0]


@pytest.mark.parametrize(
    ("accept", "is_streamed"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream;charset=utf-8", True),
        ("application/json, text/event-stream", True),
        ("text/event-stream; q=0.5", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream;q=0.000", False),
        ("x-text/event-streams", False),
        ('application/json;profile="text/event-stream"', False),
        ("*/*", False),
        ("", False),
    ],
)
def test_a_stream_is_asked_for_by_its_name(accept: str, is_streamed: bool) -> None:
    assert streamed(accept) == is_streamed
