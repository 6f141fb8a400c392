"""One story over HTTP with everything real: Postgres, Valkey, llmock as the model, three processes."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import httpx
import pytest
from llmock.pytest_plugin import LLMock

from bichat import chat
from bichat.chat import parsed
from tests.api.talk import kinds, words
from tests.api.tokens import SECRET, token
from tests.examples import MASTER_KEY

ANSWER = "Sales were 42 million in May, and 40 in April."


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@pytest.fixture
def environment(database_url: str, redis_url: str, llmock: LLMock) -> dict[str, str]:
    """What the processes of an installation are told."""
    return {
        **os.environ,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "OPENAI_BASE_URL": llmock.base_url(),
        "OPENAI_API_KEY": "a key",
        "BICHAT_MODEL": "small",
        "BICHAT_AUTO_LABEL": "off",
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "BICHAT_JWT_SECRET": SECRET,
        "BICHAT_PORT": free_port(),
    }


@contextmanager
def process(
    part: str, environment: dict[str, str], stderr: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`bichat api`, `worker` or `projector`; stops on SIGTERM, with exit status 0."""
    running = subprocess.Popen([sys.executable, "-m", "bichat", part], env=environment, stderr=stderr)
    try:
        yield running
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[httpx.Client]:
    """Anna, before the running installation."""
    with ExitStack() as stack:
        for part in ("projector", "worker", "api"):
            stack.enter_context(process(part, environment))
        yield stack.enter_context(ready(environment, "/health/ready"))


@contextmanager
def ready(environment: dict[str, str], health: str = "/health/live") -> Iterator[httpx.Client]:
    """Anna, once the API is well."""
    url, headers = f"http://127.0.0.1:{environment['BICHAT_PORT']}", {"Authorization": f"Bearer {token()}"}
    with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
        wait(client, health)
        yield client


def wait(client: httpx.Client, health: str) -> None:
    """Until the API is well; for as long as a machine takes that is busy with other tests."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if client.get(health).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "the API does not get well"
        time.sleep(0.05)


def hear(client: httpx.Client, method: str, path: str, **request: Any) -> list[dict[str, Any]]:
    """A stream to its end."""
    with client.stream(method, path, **request) as response:
        assert response.status_code == 200
        return list(parsed(response.iter_lines()))


def test_a_question_is_asked_answered_streamed_and_never_lost(
    client: httpx.Client, llmock: LLMock, capsys: pytest.CaptureFixture[str]
) -> None:
    sse = {"Accept": "text/event-stream"}

    # Anna asks, and hears the answer word by word.
    llmock.slow_first_token(1)  # she is there before it begins
    llmock.reply(ANSWER)
    heard = hear(
        client, "POST", "/v1/dialogues", json={"message": "How were sales?", "label": "Sales"}, headers=sse
    )
    assert kinds(heard) == ["started", "completed"]
    assert words(heard) == heard[-1]["message"]["content"] == ANSWER
    path, asked = f"/v1/dialogues/{heard[0]['dialogue_id']}", heard[0]["message_id"]

    # It is all there: in the dialogue, in the list, in what was spent, and again in the stream.
    dialogue = client.get(path, params={"min_version": heard[-1]["version"]}).json()
    assert [m["content"] for m in dialogue["messages"]] == ["How were sales?", ANSWER]
    assert dialogue["messages"][0]["status"] == "answered"
    [listed] = client.get("/v1/dialogues", params={"min_position": heard[-1]["position"]}).json()["data"]
    assert listed == {name: value for name, value in dialogue.items() if name != "messages"}
    [used] = client.get("/v1/usage", params={"min_position": heard[-1]["position"]}).json()["data"]
    assert used["total_tokens"] == dialogue["last_message"]["usage"]["total_tokens"] > 0
    assert hear(client, "GET", f"{path}/stream?message_id={asked}")[-1]["message"] == heard[-1]["message"]

    # The model breaks off in mid-sentence: she hears that, and then an answer all the same.
    llmock.disconnect(after_chunks=3)
    llmock.reply(ANSWER, times=2)  # the first time it is broken off
    heard = hear(client, "POST", f"{path}/messages", json={"content": "And in May?"}, headers=sse)
    assert heard[-1]["message"]["content"] == ANSWER
    assert kinds(heard)[-2:] == ["started", "completed"]
    assert kinds(heard)[:-2] in ([], ["started", "superseded"])  # the first attempt may be over too soon
    assert [event["attempt"] for event in heard if event["type"] != "reply.delta"][-2:] == [2, 2]

    # It refuses for good: the question is kept, and can be asked again.
    llmock.fail(400)
    heard = hear(client, "POST", f"{path}/messages", json={"content": "And why?"}, headers=sse)
    assert (kinds(heard)[-1], heard[-1]["error"]["code"]) == ("failed", "model_refused")
    llmock.reply("Because.")
    retried = client.post(f"{path}/messages/{heard[-1]['message_id']}/retry").json()
    heard = hear(
        client, "GET", f"{path}/stream?message_id={heard[-1]['message_id']}&starting_after={heard[-1]['id']}"
    )
    assert (kinds(heard)[-1], heard[-1]["message"]["content"]) == ("completed", "Because.")
    assert heard[-1]["version"] > retried["version"]

    # She deletes it, and brings it back: nothing is lost.
    gone = client.delete(path).json()
    assert client.get("/v1/dialogues", params={"min_position": gone["position"]}).json()["data"] == []
    back = client.post(f"{path}/restore").json()
    kept = client.get(path, params={"min_version": back["version"]}).json()
    assert [m["role"] for m in kept["messages"]] == ["user", "assistant"] * 3

    # Another time she talks in the terminal.
    llmock.reply("Hello, Anna.")
    assert chat.run(str(client.base_url), token(), "Hello?") == 0
    assert capsys.readouterr().out == "Hello, Anna.\n"
    llmock.fail(400)
    assert chat.run(str(client.base_url), token(), "Hello?") == 1
    assert "no reply" in capsys.readouterr().err
    assert chat.run(str(client.base_url), token(exp=1), "Hello?") == 1
    assert capsys.readouterr().err == "bichat: The token has expired. (401)\n"


def test_a_server_that_stops_leaves_every_stream_resumable(
    client: httpx.Client, environment: dict[str, str], llmock: LLMock
) -> None:
    llmock.slow_first_token(2)
    llmock.reply(ANSWER)
    other = {**environment, "BICHAT_PORT": free_port()}
    with process("api", other) as second, httpx.Client(headers=client.headers, timeout=20) as elsewhere:
        url = f"http://127.0.0.1:{other['BICHAT_PORT']}"
        wait(elsewhere, f"{url}/health/live")
        asked = client.post("/v1/dialogues", json={"message": "How were sales?"}).json()
        path = f"/v1/dialogues/{asked['dialogue_id']}/stream?message_id={asked['message_id']}"
        with elsewhere.stream("GET", url + path) as response:
            lines = parsed(response.iter_lines())
            heard = [next(lines)]
            began = time.monotonic()
            second.send_signal(signal.SIGTERM)
            heard += lines
            assert second.wait(10) == 0
            assert time.monotonic() - began < 5
    assert kinds(heard) == ["started"]
    rest = hear(client, "GET", path, headers={"Last-Event-ID": heard[-1]["id"]})
    assert (kinds(rest), rest[-1]["message"]["content"]) == (["completed"], ANSWER)
    assert words(heard + rest) in ("", ANSWER)  # none when the answer was there before she came back
