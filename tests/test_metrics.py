"""What processes count: all parts of `serve` in one scrape, a part at its own port, and bounded labels."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing, nullcontext, suppress
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from llmock.pytest_plugin import LLMock
from prometheus_client import REGISTRY

from bichat import metrics
from bichat.commands.batch import Batch
from bichat.commands.dialogue import RenameDialogue
from bichat.commands.job import Job, Outcome
from bichat.config import Config
from bichat.errors import VersionRace
from bichat.errors.model import ModelCutOff, ModelRefused
from bichat.events.dialogue_state import NOTHING
from bichat.events.ledger import Stream
from bichat.model import ChatMessage, ChatRequest, Model
from tests.api.test_metrics import Series, parsed, value
from tests.api.tokens import token
from tests.examples import NOON, by, opened, start, writing
from tests.test_cli import TENANT, Serve, environ, free_port, run, serve  # noqa: F401 - fixtures
from tests.test_story import environment, process  # noqa: F401 - a fixture

TENANT_ID = UUID(TENANT)


def scraped(serving: Serve, token: str) -> Series:
    url = f"http://127.0.0.1:{serving.environ['BICHAT_PORT']}/metrics"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while True:
        with suppress(httpx.TransportError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_one_scrape_of_serve_shows_every_part_and_goes_on_after_a_death(
    serve: Serve,  # noqa: F811
    llmock: LLMock,
) -> None:
    llmock.reply("Here.", times=None)
    made = run(serve.environ, "token", "--tenant", TENANT, "--user", "root", "--role", "operator")
    root = made.stdout.strip()
    assert run(serve.environ, "chat", "Who is there?").returncode == 0

    calls = {"model": "gpt-4.1-mini", "outcome": "ok"}
    replies = {"command": "CompleteReply", "outcome": "done"}
    until(lambda: value(scraped(serve, root), "bichat_commands_total", **replies) == 1)
    series = scraped(serve, root)
    assert value(series, "bichat_commands_total", command="StartDialogue", outcome="done") == 1  # the API's
    assert value(series, "bichat_model_call_duration_seconds_count", **calls) == 1  # the worker's
    assert value(series, "bichat_model_first_word_seconds_count", model="gpt-4.1-mini") == 1
    assert value(series, "bichat_model_tokens_total", model="gpt-4.1-mini", kind="completion") > 0
    build = {"read_model": "replies", "version": "2", "build": "1"}
    assert value(series, "bichat_projection_events_total", **build) >= 3  # the projector's
    assert value(series, "bichat_http_open_streams") == 0

    kept = Path(serve.environ["BICHAT_DATA_DIR"]) / "metrics"
    files = {path.name for path in kept.iterdir()}
    assert {name.rpartition("_")[2] for name in files} == {"api.db", "worker.db", "projector.db"}

    # A part that dies and is started again goes on counting where it was, in the same files.
    for part in ("worker", "api"):
        before = serve.children()
        os.kill(before[part], signal.SIGKILL)
        serve.until(lambda part=part, pid=before[part]: serve.children().get(part) not in (None, pid))  # type: ignore[misc]
        serve.until(serve.answers)
    assert run(serve.environ, "chat", "And now?").returncode == 0
    until(lambda: value(scraped(serve, root), "bichat_commands_total", **replies) == 2)
    series = scraped(serve, root)
    assert value(series, "bichat_model_call_duration_seconds_count", **calls) == 2
    assert value(series, "bichat_commands_total", command="StartDialogue", outcome="done") == 2
    assert {path.name for path in kept.iterdir()} == files


def test_a_part_shows_its_own_at_its_port_and_what_clients_name_gets_no_series(
    environment: dict[str, str],  # noqa: F811
    llmock: LLMock,
) -> None:
    llmock.fail(400, times=None)
    port = free_port()
    url = f"http://127.0.0.1:{environment['BICHAT_PORT']}"
    with ExitStack() as stack:
        stack.enter_context(process("api", environment))
        stack.enter_context(process("projector", environment))
        stack.enter_context(process("worker", {**environment, "BICHAT_METRICS_PORT": str(port)}))
        client = stack.enter_context(
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token()}"})
        )
        until(lambda: client.get("/health/ready").status_code == 200)
        for model in ("small", "made-up-1", "made-up-2"):
            assert client.post("/v1/dialogues", json={"message": "Hm?", "model": model}).status_code == 202

        def shown() -> Series:
            return parsed(httpx.get(f"http://127.0.0.1:{port}/metrics").text)

        calls = "bichat_model_call_duration_seconds_count"
        refused = {"outcome": "model_refused"}
        until(lambda: value(shown(), calls, model="other", **refused) == 2)
        until(lambda: value(shown(), calls, model="small", **refused) == 1)
        assert not [labels for _, labels in shown() if any("made-up" in text for _, text in labels)]
        assert (
            value(shown(), "bichat_commands_total", command="StartDialogue", outcome="done") == 0
        )  # the API's


def test_a_metrics_port_that_is_taken_is_one_line(environment: dict[str, str]) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run({**environment, "BICHAT_METRICS_PORT": port}, "projector")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"bichat: BICHAT_METRICS_PORT: {port} on 127.0.0.1 ")


class Writer:
    """What `metrics.commands` wraps: an `execute` that ends in some way."""

    @metrics.commands
    async def execute(self, command: str, end: Exception | None, wait: float = 0) -> Outcome:
        await asyncio.sleep(wait)
        if end:
            raise end
        return Outcome(dialogue_id=TENANT_ID, version=1, position=1)


def commands(outcome: str) -> float:
    return REGISTRY.get_sample_value("bichat_commands_total", {"command": "str", "outcome": outcome}) or 0


@pytest.mark.parametrize(
    ("end", "outcome"), [(None, "done"), (VersionRace(), "VersionRace"), (ValueError("ours"), "error")]
)
def test_how_a_command_ends_is_counted_and_passed_on(end: Exception | None, outcome: str) -> None:
    before = commands(outcome)
    with pytest.raises(type(end)) if end else nullcontext():
        asyncio.run(Writer().execute("some command", end))
    assert commands(outcome) == before + 1


def test_a_caller_that_leaves_is_counted_as_cancelled() -> None:
    async def leave() -> None:
        async with asyncio.timeout(0.01):
            await Writer().execute("some command", None, wait=5)

    before = commands("cancelled")
    with pytest.raises(TimeoutError):
        asyncio.run(leave())
    assert commands("cancelled") == before + 1


def test_what_a_rival_forestalled_is_counted(database_url: str) -> None:
    lost = REGISTRY.get_sample_value("bichat_writer_losers_total") or 0
    command = start()
    with opened(database_url) as ledger, opened(database_url) as other, writing(other) as rival:
        asyncio.run(rival.execute(command, by()))
        rename = RenameDialogue(dialogue_id=command.dialogue_id, label="ours")
        job = Job(rename, by(), None, None)
        batch = Batch(ledger, {command.dialogue_id: Stream(NOTHING)}, [job], NOON)
        batch.decide(job)
        asyncio.run(rival.execute(RenameDialogue(dialogue_id=command.dialogue_id, label="theirs"), by()))
        batch.append()
    assert REGISTRY.get_sample_value("bichat_writer_losers_total") == lost + 1


def calls(outcome: str) -> float:
    about = {"model": "other", "outcome": outcome}
    return REGISTRY.get_sample_value("bichat_model_call_duration_seconds_count", about) or 0


async def hear(llmock: LLMock, *, upto: int | None = None) -> None:
    model = Model(Config(openai_base_url=llmock.base_url(), openai_api_key="a key"), silence=5)
    request = ChatRequest(model="of tests", messages=(ChatMessage("user", "How many?"),))
    try:
        async with aclosing(model.stream(request)) as chunks:
            async for _ in chunks:
                if upto is not None:
                    return
    finally:
        await model.close()


def test_calls_are_counted_by_how_they_end(llmock: LLMock) -> None:
    before = {outcome: calls(outcome) for outcome in ("ok", "interrupted", "model_refused", "model_cut_off")}
    words = REGISTRY.get_sample_value("bichat_model_first_word_seconds_count", {"model": "other"}) or 0
    llmock.reply("one two three")
    asyncio.run(hear(llmock))
    llmock.reply("one two three")
    asyncio.run(hear(llmock, upto=1))
    llmock.fail(400)
    with pytest.raises(ModelRefused):
        asyncio.run(hear(llmock))
    llmock.disconnect(after_chunks=2)
    with pytest.raises(ModelCutOff):
        asyncio.run(hear(llmock))
    assert {outcome: calls(outcome) - count for outcome, count in before.items()} == dict.fromkeys(before, 1)
    assert REGISTRY.get_sample_value("bichat_model_first_word_seconds_count", {"model": "other"}) == words + 3


def test_a_process_of_a_pool_leaves_no_files(tmp_path: Path) -> None:
    code = (
        "import multiprocessing as m, concurrent.futures as c\n"
        "if __name__ == '__main__':\n"
        "    with c.ProcessPoolExecutor(1, m.get_context('spawn')) as pool:\n"
        "        pool.submit(exec, 'import bichat.metrics').result()\n"
    )
    script = tmp_path / "pool.py"
    script.write_text(code)
    kept = tmp_path / "metrics"
    kept.mkdir()
    told = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(kept), "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, str(script)], env=told, check=True, timeout=30)
    assert list(kept.iterdir()) == []
    subprocess.run([sys.executable, "-c", "import bichat.metrics"], env=told, check=True, timeout=30)
    assert list(kept.iterdir()) != []
