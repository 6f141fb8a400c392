"""Log lines: whose they are, that nobody's words are in them, and that nobody can forge one."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
from llmock.pytest_plugin import LLMock

from tests.api.tokens import token
from tests.examples import TENANT
from tests.test_story import environment, hear, process, ready

__all__ = ["environment"]

SSE = {"Accept": "text/event-stream"}
QUESTION, ANSWER, LABEL = "How were the Zanzibar sales?", "Quagga sold nothing.", "Pangolin"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING|ERROR|CRITICAL) [\w.]+: ")


def story(environment: dict[str, str], told: Path, llmock: LLMock) -> str:
    """Much that can happen to a conversation; returns the dialogue's id, and what was logged is in `told`."""
    with told.open("wb") as stderr, ExitStack() as stack:
        for part in ("projector", "worker", "api"):
            stack.enter_context(process(part, environment, stderr=stderr))
        anna = stack.enter_context(ready(environment, "/health/ready"))
        llmock.reply(ANSWER)
        first = {"message": QUESTION, "label": LABEL}
        [*_, end] = hear(anna, "POST", "/v1/dialogues", json=first, headers=SSE | {"X-Request-Id": "asked"})
        path = f"/v1/dialogues/{end['dialogue_id']}"
        llmock.fail(400, message=f"This is not fit to be answered: {QUESTION}")
        hear(anna, "POST", f"{path}/messages", json={"content": QUESTION}, headers=SSE)
        anna.get("/v1/dialogues", params={"q": "Zanzibar"})
        assert anna.get("/v1/Zanzibar").status_code == 404
        assert anna.get("/v1/dialogues/Zanzibar").status_code == 400
        assert anna.patch(path, json={"label": "Zan\nzibar"}).status_code == 400
        assert anna.post(f"{path}/messages", content=b'{"content": Zanzibar').status_code == 400
        address = ("127.0.0.1", int(environment["BICHAT_PORT"]))
        with socket.create_connection(address) as stranger:
            stranger.sendall(b"Zanzibar\r\n\r\n")
            assert b"400" in stranger.recv(1000)
        with socket.create_connection(address) as hasty:  # the second is served in the wake of the first
            known = (
                f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {anna.headers['Authorization']}\r\n\r\n"
            )
            unknown = "GET /v1/Zanzibar HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            hasty.sendall(f"{known}{unknown}".encode())
            while hasty.recv(10_000):
                pass
    return str(end["dialogue_id"])


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_of_a_story_say_whose_they_are_and_nothing_that_was_said(
    environment: dict[str, str], llmock: LLMock, tmp_path: Path, form: str
) -> None:
    told = tmp_path / "stderr"
    # What the model's client would tell if it were let: whole requests.
    dialogue_id = story(environment | {"BICHAT_LOG": form, "OPENAI_LOG": "debug"}, told, llmock)
    text = told.read_text()
    for said in ("anzibar", "uagga", "angolin", "not fit", token()[-20:]):
        assert said not in text
    if form == "text":
        assert all(LINE.match(line) for line in text.splitlines()), text
        return
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert "Invalid HTTP request received." in [line["message"] for line in lines]  # uvicorn's

    [asked] = [line for line in lines if line.get("request_id") == "asked"]
    assert re.fullmatch(r"POST /v1/dialogues 200 \d+\.\d ms", asked["message"])
    assert (asked["method"], asked["route"], asked["status"]) == ("POST", "/v1/dialogues", 200)
    assert (asked["tenant_id"], asked["dialogue_id"]) == (str(TENANT), dialogue_id)
    assert asked["command_id"]
    assert asked["milliseconds"] > 0

    requests = {(line["method"], line["route"], line["status"]): line for line in lines if "route" in line}
    assert not any(route.startswith("/health") for _, route, _ in requests)
    assert requests["GET", "/v1/dialogues", 200]["tenant_id"] == str(TENANT)
    unknown = [line for line in lines if line.get("status") == 404]
    assert len(unknown) == 2
    assert not any("tenant_id" in line or "dialogue_id" in line for line in unknown)
    assert "dialogue_id" not in requests["GET", "/v1/dialogues/{dialogue_id}", 400]

    turns = [line for line in lines if line["logger"] == "bichat.workers.record"]
    described, replied = ["DescribeFunction"] * 3, ("StartReply", "CompleteReply", "StartReply")
    assert [line["message"] for line in turns if line["dialogue_id"] == dialogue_id] == [
        *described, *(f"{command}, attempt 1" for command in replied),
        "FailReply, attempt 1: model_refused, model small",
    ]  # fmt: skip
    assert all(line["tenant_id"] == str(TENANT) and line["message_id"] for line in turns)


def test_a_request_has_one_id(environment: dict[str, str]) -> None:
    with process("api", environment), ready(environment) as anna:

        def answered(given: str | None = None) -> str:
            headers = {} if given is None else {b"X-Request-Id": given.encode()}
            answer: str = anna.get("/v1/nowhere", headers=headers).headers["x-request-id"]
            return answer

        assert answered("from.the-Proxy_1") == "from.the-Proxy_1"
        for harmful in ("", "two words", "x" * 65, "a\tb", "é", 'x" status=200'):
            assert re.fullmatch("[0-9a-f-]{36}", answered(harmful))
        assert answered() != answered()
        for path in ("/health/live", "/schema/openapi.json", "/v1/dialogues/x"):
            assert anna.get(path).headers["x-request-id"]
        assert httpx.get(str(anna.base_url.join("/v1/usage"))).headers["x-request-id"]  # refused


def logged(form: str, *code: str) -> str:
    """What a program writes to stderr whose log has this form."""
    begin = (
        f"import logging; from bichat import logs; logs.begin({form!r}); log = logging.getLogger('bichat.x')"
    )
    program = "\n".join([begin, *map(dedent, code)])
    argv = [sys.executable, "-c", program]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stderr


FORGED = "harmless\n2026-11-22 12:00:00,000 ERROR bichat.api: forged\r\x1b[2K\u2028\x85\u202e{}"


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_can_be_forged(form: str) -> None:
    text = logged(
        form,
        f"""
        with logs.about(request_id={FORGED!r}):
            log.warning("%s", {FORGED!r}, extra={{"status": {FORGED!r}, "route": "\\ud800"}})
            try:
                raise OSError({FORGED!r})
            except OSError:
                log.exception({FORGED!r})
        log.warning("\\ud800")
        """,
    )
    begun = [line for line in text.split("\n") if line and not line.startswith("    ")]
    assert len(begun) == 3
    assert not set("\r\x1b\u2028\x85\u202e") & set(text)
    assert all(LINE.match(line) if form == "text" else json.loads(line) for line in begun)


@pytest.mark.parametrize("form", ["text", "json"])
def test_errors_are_told_without_the_values_that_they_quote(form: str, database_url: str) -> None:
    """Asked of the database itself, and of those who wrap its errors."""
    text = logged(
        form,
        f"""
        import asyncio, psycopg, sys, threading
        from bichat.errors import LogUnavailable
        from bichat.errors.model import ModelRefused
        from eventsourcing.persistence import IntegrityError

        def fail(query, *values):
            with psycopg.connect({database_url!r}) as connection:
                connection.execute("create temp table t (a text primary key, b int)")
                for _ in range(2):
                    connection.execute(query, values)

        def told(work):
            try:
                work()
            except Exception as error:
                log.warning("it was %s", error)
                log.exception("whole")

        def wrapped():
            try:
                fail("insert into t (a) values (%s)", "Zanzibar")
            except psycopg.Error as error:
                raise IntegrityError(str(error)) from error

        def grouped():
            raise ExceptionGroup("Zanzibar", [ValueError("Zanzibar"), ModelRefused(detail="Zanzibar")])

        async def forgotten():
            async def never_looked_at():
                fail("select %s::int", "Zanzibar")
            asyncio.create_task(never_looked_at())
            await asyncio.sleep(0.5)

        told(wrapped)
        told(lambda: fail("select %s::text::int", "Zanzibar"))
        told(lambda: fail("select nonsense"))
        told(lambda: psycopg.connect("postgresql://127.0.0.1:9/x"))
        told(grouped)
        told(lambda: {{}}["Zanzibar"])
        asyncio.run(forgotten())
        thread = threading.Thread(target=fail, args=("select %s::text::int", "Zanzibar"))
        thread.start()
        thread.join()
        raise ValueError("Zanzibar")
        """,
    )
    assert "anzibar" not in text
    assert "DETAIL" not in text
    for clear in (
        "UniqueViolation (23505)", "InvalidTextRepresentation (22P02)", "IntegrityError", "KeyError",
        'UndefinedColumn (42703): column "nonsense" does not exist', "Connection refused",
        "ModelRefused (model_refused)", "Task exception was never retrieved",
        "a thread ends with an error of its own", "bichat ends with an error of its own",
    ):  # fmt: skip
        assert clear in text.replace('\\"', '"')


def test_who_is_slow_is_not_on_the_line_before_the_end(environment: dict[str, str], tmp_path: Path) -> None:
    """A stream's line is written when it is over."""
    told = tmp_path / "stderr"
    with told.open("wb") as stderr, process("api", environment, stderr=stderr), ready(environment) as anna:
        asked = anna.post("/v1/dialogues", json={"message": QUESTION}, headers=SSE | {"Accept": "*/*"}).json()
        path = f"/v1/dialogues/{asked['dialogue_id']}/messages"
        with anna.stream("POST", path, json={"content": "More?"}, headers=SSE) as stream:
            chunks = stream.iter_raw()
            assert next(chunks)
            time.sleep(0.3)
            assert "/messages" not in told.read_text()
        deadline = time.monotonic() + 5
        while "/messages" not in told.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    line: Any = next(line for line in told.read_text().splitlines() if "/messages" in line)
    spent = re.search(r" POST /v1/dialogues/\{dialogue_id\}/messages 200 (\d+)\.\d ms ", line)
    assert spent
    assert int(spent[1]) > 250
