"""Bad requests: each gets a problem document that names the field, and changes nothing."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from bichat.projections import cursor
from tests.api.talk import ask

MESSAGE = {"message": "How much?"}
BODIES: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "body"),
    "no JSON": (b"{", "body"),
    "bad UTF-8": (b'{"message": "\xff"}', "body"),
    "a lone surrogate": (rb'{"message": "\ud800"}', "body"),
    "an array": ([], "body"),
    "two values": (b'{"message": "a"} {}', "body"),
    "no message": ({}, "message"),
    "an empty message": ({"message": ""}, "message"),
    "a blank message": ({"message": " \n\t "}, "message"),
    "a NUL": ({"message": "a\0b"}, "message"),
    "an escape": ({"message": "\x1b[2J"}, "message"),
    "a long message": ({"message": "x" * 32_001}, "message"),
    "a number": ({"message": 5}, "message"),
    "a long unknown field": ({**MESSAGE, "x" * 1000: 1}, "x" * 100),
    "an unknown field with a place": ({**MESSAGE, "a - at `$." + "x" * 1000: 1}, "x" * 100),
    "an unknown field": ({**MESSAGE, "mesage": 1}, "mesage"),
    "a label of two lines": ({**MESSAGE, "label": "a\nb"}, "label"),
    "a label that ends in a line": ({**MESSAGE, "label": "a\n"}, "label"),
    "a long label": ({**MESSAGE, "label": "x" * 256}, "label"),
    "a model with a space": ({**MESSAGE, "model": "gpt 4"}, "model"),
    "a text for a number": ({**MESSAGE, "max_tokens": "5"}, "max_tokens"),
    "no tokens": ({**MESSAGE, "max_tokens": 0}, "max_tokens"),
    "too hot": ({**MESSAGE, "temperature": 2.1}, "temperature"),
    "infinite": (b'{"message": "a", "top_p": 1e999}', "top_p"),
    "no number": (b'{"message": "a", "top_p": NaN}', "body"),
}


@pytest.mark.parametrize(("body", "field"), BODIES.values(), ids=BODIES.keys())
def test_a_bad_body_is_refused_by_name(anna: httpx.Client, body: Any, field: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    check(anna.post("/v1/dialogues", content=content), 400, field)


MESSAGES: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "content"),
    "both": ({"content": "a", "messages": [{"role": "user", "content": "a"}]}, "messages"),
    "none of several": ({"messages": []}, "messages"),
    "too many": ({"messages": [{"role": "user", "content": "a"}] * 101}, "messages"),
    "one of several": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": " "}]},
        "messages[1].content",
    ),
    "an answer": ({"messages": [{"role": "assistant", "content": "a"}]}, "messages[0].role"),
    "a long one of several": (
        {"messages": [{"role": "user", "content": "x" * 32_001}]},
        "messages[0].content",
    ),
    "a schedule": ({"content": "a", "schedule": "later"}, "schedule"),
    "a name of two lines": ({"content": "a", "name": "a\r\n"}, "name"),
}


@pytest.mark.parametrize(("body", "field"), MESSAGES.values(), ids=MESSAGES.keys())
def test_bad_messages_are_refused_by_name(anna: httpx.Client, body: Any, field: str) -> None:
    dialogue_id, _ = ask(anna)
    check(anna.post(f"/v1/dialogues/{dialogue_id}/messages", json=body), 400, field)
    assert anna.get(f"/v1/dialogues/{dialogue_id}").json()["version"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("Idempotency-Key", ""), ("Idempotency-Key", "x" * 256), ("Idempotency-Key", b"caf\xe9"),
     ("Idempotency-Key", ("a", "a")), ("If-Match", ('"2"', '"2"')),
     ("If-Match", "2"), ("If-Match", '"two"'), ("If-Match", 'W/"2"')],
)  # fmt: skip
def test_bad_headers_are_refused_by_name(
    anna: httpx.Client, name: str, value: str | bytes | tuple[str, str]
) -> None:
    dialogue_id, _ = ask(anna)
    headers: Any = [(name, one) for one in (value if isinstance(value, tuple) else (value,))]
    check(anna.post(f"/v1/dialogues/{dialogue_id}/archive", headers=headers), 400, name)


NOWHERE = "00000000-0000-7000-8000-000000000000"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
def test_a_body_of_another_kind_is_refused(anna: httpx.Client, kind: str) -> None:
    body = json.dumps(MESSAGE)
    check(anna.post("/v1/dialogues", content=body, headers={"Content-Type": kind}), 400, "Content-Type")
    for good in ("application/json", "Application/JSON ; charset=utf-8"):
        told = anna.post("/v1/dialogues", content=body, headers={"Content-Type": good})
        assert told.status_code == 202


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-22T12:00:00"]
)
def test_a_crafted_cursor_is_refused(anna: httpx.Client, time: str) -> None:
    check(anna.get("/v1/dialogues", params={"after": cursor.write((time, NOWHERE))}), 400, "after")
    fine = cursor.write(("2026-11-22T12:00:00+23:59", NOWHERE))
    assert anna.get("/v1/dialogues", params={"after": fine}).status_code == 200


QUERIES = {
    "?limit=0": "limit", "?limit=101": "limit", "?limit=many": "limit", "?offset=10001": "offset",
    "?state=gone": "state", "?after=here": "after", "?q=%00": "q", "?lmit=5": "lmit",
    "?min_position=-1": "min_position",
    "?offset=1&after=x": "offset", f"?min_position={2**63}": "min_position",
    "/x": "dialogue_id", f"/{NOWHERE}/stream?message_id=x": "message_id",
    f"/{NOWHERE}/stream?starting_after=1": "starting_after", f"/{NOWHERE}/messages?order=up": "order",
    f"/{NOWHERE}/messages?after=zz": "after",
}  # fmt: skip


@pytest.mark.parametrize(("query", "field"), QUERIES.items(), ids=QUERIES.keys())
def test_bad_queries_are_refused_by_name(anna: httpx.Client, query: str, field: str) -> None:
    check(anna.get(f"/v1/dialogues{query}"), 400, field)


def test_what_is_not_there_is_a_problem_too(anna: httpx.Client) -> None:
    check(anna.get("/v1/nothing"), 404)
    check(anna.get(f"/v1/dialogues/{uuid4()}"), 404)
    for file in ("%00", "x" * 256, "swagger-ui.css/x", "..%2f__init__.py", "swagger-ui.js.map"):
        check(anna.get(f"/schema/files/{file}"), 404)
    allowed = check(anna.put("/v1/dialogues"), 405).headers["allow"]
    assert set(allowed.split(", ")) == {"GET", "OPTIONS", "POST"}
    check(anna.post("/v1/dialogues", content=b"x" * 4_000_001), 413)


def test_only_configured_origins_are_told_they_may(anna: httpx.Client) -> None:
    told = anna.get("/v1/dialogues", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in told.headers if name.startswith("access-control")]


def check(told: httpx.Response, status: int, field: str | None = None) -> httpx.Response:
    """It is a problem document, and of this kind."""
    assert told.status_code == status, told.text
    assert told.headers["content-type"] == "application/problem+json"
    problem = told.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:bichat:error:")
    assert "Traceback" not in told.text
    if field:
        assert [error["field"] for error in problem["errors"]] == [field]
    return told
