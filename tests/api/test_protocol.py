"""What is refused before it is a request: no HTTP, and heads without an end."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from bichat.api.protocol import LARGEST_HEAD
from tests.api.conftest import Api


def told(api: Api, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the problem that raw bytes are answered with, and then the line is cut."""
    host, port = api.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as line:
        try:
            for part in parts:
                line.sendall(part)
            while some := line.recv(65_536):
                answer += some
        except ConnectionError:  # refused in the middle of what was still being sent
            assert answer or len(parts) > 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)


def test_what_is_no_http_is_told_so(api: Api) -> None:
    for nonsense in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
        status, problem = told(api, nonsense)
        assert (status, problem["status"]) == (400, 400)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live?" + b"a" * LARGEST_HEAD + b" HTTP/1.1\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nX: " + b"a" * LARGEST_HEAD + b"\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n" + b"X: a\r\n" * LARGEST_HEAD + b"\r\n",
        b"GET /health/live HTTP/1.1\r\nX: " + b"a" * 1_000_000,  # no end in sight
    ],
)
def test_a_head_has_an_end(api: Api, head: bytes) -> None:
    status, problem = told(api, head)
    assert (status, problem["type"].rpartition(":")[2]) == (431, "HeadTooLarge")


def test_large_heads_and_larger_bodies_are_taken_one_after_the_other(api: Api) -> None:
    with api.client() as anna:
        for _ in range(3):
            assert anna.get("/v1/usage", headers={"X-Large": "a" * (LARGEST_HEAD - 2000)}).is_success
            refused = anna.post("/v1/dialogues", json={"message": "a" * 300_000})
            assert refused.status_code == 400
            assert "message" in refused.text


def test_others_are_served_meanwhile(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"GET /health/live HTTP/1.1\r\nX: ")
        assert httpx.get(f"{api.url}/health/live").is_success
