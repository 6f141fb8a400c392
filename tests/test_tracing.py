"""Traces: one from the request to the model's call, over the log: real processes, a real collector."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from llmock.pytest_plugin import LLMock

from bichat import tracing
from bichat.config import Config
from bichat.errors import NotFound, ReadsUnavailable
from tests.api.tokens import token
from tests.collector import Collector, collecting
from tests.examples import opened
from tests.test_story import environment, hear, process, ready

__all__ = ["environment"]

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"
SSE = {"Accept": "text/event-stream"}
QUESTION, ANSWER = "How were the Zanzibar sales?", "Zanzibar sold nothing."


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@contextmanager
def installation(environment: dict[str, str], *parts: str) -> Iterator[httpx.Client]:
    """Anna, before the running parts; whoever leaves has waited for them to stop."""
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(process(part, environment))
        yield stack.enter_context(ready(environment))


def stored(url: str, dialogue_id: str) -> list[str]:
    """The traceparents in the log, in order."""
    with opened(url) as ledger:
        return [event.trace for event in ledger.read(UUID(dialogue_id))]


def test_one_trace_goes_from_the_request_to_the_model(
    environment: dict[str, str], database_url: str, collector: Collector, llmock: LLMock
) -> None:
    llmock.reply(ANSWER)
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    once = {"Idempotency-Key": "once", "traceparent": CALLER}
    again = {"Idempotency-Key": "once", "traceparent": CALLER.replace("0af7", "1af7")}
    with installation(environment, "projector", "worker", "api") as anna:
        [*_, told] = hear(anna, "POST", "/v1/dialogues", json={"message": QUESTION}, headers=SSE | once)
        assert anna.post("/v1/dialogues", json={"message": QUESTION}, headers=again).status_code == 202
        assert anna.get("/v1/dialogues", params={"q": "Zanzibar"}).status_code == 200

    # Each span hangs below the one that caused it, over the log into the other process.
    spans = collector.trace(TRACE)
    request, command, reply = (spans[n] for n in ("POST /v1/dialogues", "execute StartDialogue", "reply"))
    assert (request.service, reply.service) == ("bichat-api", "bichat-worker")
    assert request.parent == "b7ad6b7169203331"
    assert (command.parent, reply.parent) == (request.span_id, command.span_id)
    for name in ("execute StartReply", "chat small", "execute CompleteReply"):
        assert spans[name].parent == reply.span_id
    assert not any(span.failed for span in collector.spans)

    # The log says so too, and a repeat changes nothing in it.
    assert {trace[3:35] for trace in stored(database_url, told["dialogue_id"])} == {TRACE}
    assert stored(database_url, told["dialogue_id"])[0] == f"00-{TRACE}-{command.span_id}-01"

    # They say where, what and how much, in the standard's words, and nothing that anybody said.
    assert request.values | {"http.request.method": "POST", "http.route": "/v1/dialogues"} == request.values
    assert (request.values["http.response.status_code"], request.values["bichat.dialogue_id"]) == (
        200,
        told["dialogue_id"],
    )
    assert spans["chat small"].values["gen_ai.request.model"] == "small"
    assert spans["chat small"].values["gen_ai.usage.input_tokens"] > 0
    for secret in ("Zanzibar", token()[-20:], "a key", "once"):
        assert secret.encode() not in collector.raw


@pytest.mark.parametrize(
    "given",
    [
        "", "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01", f"ff-{TRACE}-b7ad6b7169203331-01",
        f"{CALLER}-more", CALLER.upper(), f"{CALLER}, {CALLER}", "é" * 40, CALLER + " " * 600,
    ],
)  # fmt: skip
def test_a_broken_traceparent_is_as_none(collector: Collector, given: str) -> None:
    config = Config(otel_exporter_otlp_endpoint=collector.url)
    with tracing.on(config, "test"), tracing.span("outer", parent=given):
        own = tracing.traceparent()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", own)
    [span] = collector.spans
    assert (span.parent, span.trace_id) == ("", own[3:35])
    assert TRACE not in own


def test_who_asked_not_to_be_sampled_is_not(collector: Collector) -> None:
    with tracing.on(Config(otel_exporter_otlp_endpoint=collector.url), "test"):
        with tracing.span("outer", parent=CALLER[:-1] + "0"):
            own = tracing.traceparent()
        with tracing.span("reply", parent=own):  # what was stored is heeded later
            pass
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", own)
    assert collector.spans == []


def test_an_error_is_told_by_its_name(collector: Collector) -> None:
    def fail(error: Exception) -> None:
        with pytest.raises(type(error)), tracing.span(type(error).__name__):
            raise error

    with tracing.on(Config(otel_exporter_otlp_endpoint=collector.url), "test"):
        fail(ValueError("Zanzibar"))
        fail(ReadsUnavailable(reason="Zanzibar"))
        fail(NotFound(what="Zanzibar"))
    assert [(s.name, s.values["error.type"], s.failed) for s in collector.spans] == [
        ("ValueError", "ValueError", True),
        ("ReadsUnavailable", "ReadsUnavailable", True),
        ("NotFound", "NotFound", False),
    ]
    assert b"Zanzibar" not in collector.raw


def test_off_nothing_is_stored_or_made(environment: dict[str, str], database_url: str) -> None:
    with installation(environment, "api") as anna:
        told = anna.post("/v1/dialogues", json={"message": QUESTION}, headers={"traceparent": CALLER}).json()
    assert set(stored(database_url, told["dialogue_id"])) == {""}
    assert not tracing.enabled()
    with tracing.span("outer", parent=CALLER) as span:
        assert (span, tracing.traceparent()) == (None, "")


@pytest.mark.parametrize("dead", ["refuses", "never answers"])
def test_a_dead_collector_is_said_once_and_holds_nobody_up(
    environment: dict[str, str], tmp_path: Path, dead: str
) -> None:
    told = tmp_path / "stderr"
    with ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            if dead == "never answers":
                stack.enter_context(server.dup())
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        api = stack.enter_context(process("api", environment, stack.enter_context(told.open("wb"))))
        anna = stack.enter_context(ready(environment))
        for _ in range(15):
            began = time.monotonic()
            assert anna.post("/v1/dialogues", json={"message": QUESTION}).status_code == 202
            assert time.monotonic() - began < 2
            time.sleep(0.2)
        anna.close()
        began = time.monotonic()
        api.terminate()
        assert api.wait(10) == 0
        assert time.monotonic() - began < 4
    lines = told.read_text().splitlines()
    said = sum("opentelemetry" in line for line in lines)
    assert said == 1 or (said == 0 and dead == "never answers")  # which is noticed after 5 s


def test_without_the_packages_the_start_says_what_to_install(environment: dict[str, str]) -> None:
    hidden = "import sys; sys.modules['opentelemetry.sdk'] = None; from bichat.cli import main; main()"
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    for verb in ("api", "worker", "serve"):
        argv = [sys.executable, "-c", hidden, verb]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        said = done.stderr.splitlines()[-1]
        assert said.startswith("bichat: OTEL_EXPORTER_OTLP_ENDPOINT: ")
        assert said.endswith("pip install 'bichat[tracing]'")
