"""The command line: what it says, how it exits, and `serve` from the first line to the last."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import pytest
from click.testing import CliRunner
from llmock.pytest_plugin import LLMock

from bichat.cli import bichat

BICHAT = [sys.executable, "-m", "bichat"]
TENANT = "0190163d-8694-739b-aea5-966c26f8ad91"
SECRET = "a secret of more than thirty-two bytes"
VERBS = (
    "serve",
    "api",
    "worker",
    "projector",
    "migrate",
    "token",
    "chat",
    "prompts",
    "prompts list",
    "prompts set",
    "replies",
    "replies list",
    "replies retry",
    "usage",
    "health",
)
_OURS = re.compile("BICHAT_|OPENAI_|DATABASE_URL|REDIS_URL|KEYS_DATABASE_URL")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without settings but a data directory, which does not exist yet."""
    rest = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
    return {**rest, "BICHAT_DATA_DIR": str(tmp_path / "data"), "PYTHONUNBUFFERED": "1"}


def run(environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*BICHAT, *words]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_helps(verb: str) -> None:
    done = CliRunner().invoke(bichat, [*verb.split(), "--help"])
    assert done.exit_code == 0
    assert "Usage: " in done.stdout
    assert not verb or len(done.stdout.splitlines()) > 4


@pytest.mark.parametrize(
    "words",
    [
        "fly",
        "serve now",
        "token",
        "token --tenant one --user me",
        f"token --tenant {TENANT} --user me --role king",
        f"token --tenant {TENANT} --user me --ttl 0",
        f"token --tenant {TENANT} --user {'x' * 129}",
    ],
)
def test_wrong_usage_is_status_2(words: str) -> None:
    done = CliRunner().invoke(bichat, words.split())
    assert done.exit_code == 2
    assert "Error: " in done.stderr


@pytest.mark.parametrize(
    ("verb", "settings", "said"),
    [
        ("serve", {"BICHAT_PORT": "http"}, "BICHAT_PORT: "),
        ("serve", {"BICHAT_HOST": "203.0.113.1"}, "BICHAT_HOST: "),
        ("serve", {"BICHAT_DATA_DIR": "/dev/null"}, "BICHAT_DATA_DIR: "),
        ("migrate", {"DATABASE_URL": "mysql://x"}, "DATABASE_URL: "),
        ("migrate", {"DATABASE_URL": "postgresql://x@127.0.0.1:9/x"}, "BICHAT_MASTER_KEY: "),
        ("migrate", {"REDIS_URL": "here"}, "REDIS_URL: "),
        (f"token --tenant {TENANT} --user me", {"BICHAT_JWT_SECRET": "short"}, "BICHAT_JWT_SECRET: "),
        ("chat hello", {}, "No `bichat serve` runs here"),
        ("chat hello", {"BICHAT_URL": "http://127.0.0.1:9"}, "BICHAT_TOKEN: is missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_status_1_and_one_line(
    environ: dict[str, str], verb: str, settings: dict[str, str], said: str
) -> None:
    done = run({**environ, **settings}, *verb.split())
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("verb", ["migrate", "api", "worker", "projector", "serve"])
def test_an_unreachable_database_is_one_line_without_its_password(environ: dict[str, str], verb: str) -> None:
    environ |= {
        "DATABASE_URL": "postgresql://someone:hunter2@127.0.0.1:9/x",
        "REDIS_URL": "redis://127.0.0.1:9",
        "BICHAT_MASTER_KEY": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
        "BICHAT_JWT_SECRET": SECRET,
        "BICHAT_PORT": str(free_port()),
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }
    done = run(environ, verb)
    assert done.returncode == 1
    *before, last = done.stderr.splitlines()
    assert last.startswith("bichat: DATABASE_URL cannot be reached: ")
    assert all(" INFO bichat.cli: The " in line for line in before)
    assert "hunter2" not in done.stderr


def test_serve_on_a_taken_port_starts_nothing(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run({**environ, "BICHAT_PORT": str(port)}, "serve")
    assert done.returncode == 1
    assert done.stderr == (
        f"bichat: Port {port} on 127.0.0.1 is taken: stop what uses it, or set BICHAT_PORT.\n"
    )
    assert not Path(environ["BICHAT_DATA_DIR"], "postgres").exists()


@pytest.mark.parametrize(
    ("verb", "forgotten"), [("api", ["REDIS_URL"]), ("worker", ["REDIS_URL", "OPENAI_API_KEY"])]
)
def test_a_forgotten_setting_is_told(environ: dict[str, str], verb: str, forgotten: list[str]) -> None:
    environ |= {
        "DATABASE_URL": "postgresql://someone:hunter2@127.0.0.1:9/x",
        "BICHAT_MASTER_KEY": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
        "BICHAT_JWT_SECRET": SECRET,
    }
    said = run(environ, verb).stderr.splitlines()
    warned = [line.partition(" WARNING bichat.cli: ")[2] for line in said if " WARNING " in line]
    assert [line.split()[0] for line in warned] == forgotten


def test_a_token_says_who(environ: dict[str, str]) -> None:
    environ |= {"BICHAT_JWT_SECRET": SECRET, "BICHAT_JWT_ISSUER": "us", "BICHAT_JWT_AUDIENCE": "it"}
    words = f"token --tenant {TENANT} --user me --role user --role ops --ttl 60"
    made = run(environ, *words.split()).stdout.strip()
    claims = jwt.decode(made, SECRET, ["HS256"], issuer="us", audience="it")
    assert (claims["sub"], claims["tenant"], claims["roles"]) == ("me", TENANT, ["user", "ops"])
    assert 0 < claims["exp"] - time.time() <= 60


def test_a_token_for_a_given_database_needs_a_given_secret(
    environ: dict[str, str],
) -> None:
    environ |= {
        "DATABASE_URL": "postgresql://x@127.0.0.1:9/x",
        "BICHAT_MASTER_KEY": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    }
    done = run(environ, "token", "--tenant", TENANT, "--user", "me")
    assert (done.returncode, done.stdout) == (1, "")
    assert "BICHAT_JWT_SECRET" in done.stderr


class Serve:
    """`bichat serve` in another process."""

    def __init__(self, environ: Mapping[str, str], log: Path) -> None:
        self.environ, self._log = environ, log
        with log.open("wb") as out:
            self.process = subprocess.Popen([*BICHAT, "serve"], env=environ, stdout=out, stderr=out)

    def said(self) -> str:
        return self._log.read_text()

    def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def until_said(self, words: str) -> str:
        self.until(lambda: words in self.said())
        return self.said()

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.environ['BICHAT_PORT']}/health/live").is_success
        except httpx.TransportError:
            return False

    def children(self) -> dict[str, int]:
        """By the last word of how they were started: `worker`, `api`, …; Postgres is `postgres`."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                verb = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").rpartition("\0")[2]
            except FileNotFoundError:  # it has just ended
                continue
            found[verb if name.startswith("python") else name] = int(pid)
        return found


@pytest.fixture
def serve(environ: dict[str, str], llmock: LLMock, tmp_path: Path) -> Iterator[Serve]:
    """A `bichat serve` on a free port that asks llmock, and prints that it is ready."""
    settings = {
        **environ,
        "BICHAT_PORT": str(free_port()),
        "OPENAI_BASE_URL": llmock.base_url("openai"),
        "OPENAI_API_KEY": "x",
        "BICHAT_AUTO_LABEL": "off",
        "BICHAT_FUNCTIONS": "off",
    }
    serving = Serve(settings, tmp_path / "serve.log")
    try:
        serving.until_said("Ctrl-C")
        yield serving
    finally:
        if serving.process.poll() is None:
            serving.process.terminate()
            serving.process.wait(15)


def test_serve_prints_a_line_that_works(serve: Serve, llmock: LLMock) -> None:
    llmock.reply("Paris, of course.", times=None)
    lines = [line.strip() for line in serve.said().splitlines() if line.startswith("  ")]
    page, given, *_ = lines
    url = f"http://127.0.0.1:{serve.environ['BICHAT_PORT']}"
    assert page == f"{url}/bi-chat#token={given.removeprefix('TOKEN=')}"
    shown = httpx.get(page, headers={"Accept": "text/html"}, follow_redirects=True)
    assert shown.headers["content-type"].startswith("text/html")
    if shutil.which("curl"):
        shell = subprocess.run(
            ["sh", "-c", "\n".join(lines[1:])], capture_output=True, text=True, timeout=30, check=True
        )
        assert "event: reply.completed" in shell.stdout
        assert "Paris, of course." in shell.stdout
    talk = run(serve.environ, "chat", "And of Spain?")
    assert (talk.returncode, talk.stdout.strip()) == (0, "Paris, of course.")


def test_serve_starts_again_what_dies_and_no_question_is_lost(serve: Serve, llmock: LLMock) -> None:
    llmock.reply("Here.", times=None)
    for name in ("worker", "projector", "valkey-server", "postgres", "api"):
        before = serve.children()
        os.kill(before[name], signal.SIGKILL)
        serve.until(lambda name=name, pid=before[name]: serve.children().get(name) not in (None, pid))  # type: ignore[misc]
        serve.until(serve.answers)
        answered = run(serve.environ, "chat", f"Is {name} back?")
        assert (answered.returncode, answered.stdout.strip()) == (0, "Here."), answered.stderr + serve.said()
        assert " ended (status -9), starting it again in 0.5 s" in serve.said()


def test_serve_killed_and_started_again_at_once_goes_on(serve: Serve, llmock: LLMock, tmp_path: Path) -> None:
    llmock.reply("Kept.", times=None)
    assert run(serve.environ, "chat", "First?").returncode == 0
    serve.process.kill()
    serve.process.wait()
    again = Serve(serve.environ, tmp_path / "again.log")
    try:
        found = re.search(r"TOKEN=(\S+)", again.until_said("Ctrl-C"))
        assert found
        url = f"http://127.0.0.1:{serve.environ['BICHAT_PORT']}/v1/dialogues"
        [dialogue] = httpx.get(url, headers={"Authorization": f"Bearer {found[1]}"}).json()["data"]
        assert dialogue["last_message"]["content"] == "Kept."
    finally:
        again.process.terminate()
        assert again.process.wait(15) == 0


def test_serve_stops_in_time_with_a_stream_open(serve: Serve, llmock: LLMock) -> None:
    llmock.stall(seconds=60, times=None)
    found = re.search(r"TOKEN=(\S+)", serve.said())
    assert found
    headers = {
        "Authorization": f"Bearer {found[1]}",
        "Accept": "text/event-stream",
        "Idempotency-Key": str(uuid4()),
    }
    url = f"http://127.0.0.1:{serve.environ['BICHAT_PORT']}/v1/dialogues"
    with httpx.stream("POST", url, json={"message": "Hello?"}, headers=headers, timeout=20) as stream:
        chunks = stream.iter_text()
        assert "reply.started" in next(chunks) + next(chunks)
        children, began = serve.children(), time.monotonic()
        serve.process.send_signal(signal.SIGINT)
        for _ in chunks:
            pass
    assert serve.process.wait(15) == 0
    assert time.monotonic() - began <= 10
    assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())


def test_serve_a_second_time_names_the_first(serve: Serve) -> None:
    done = run(serve.environ, "serve")
    assert done.returncode == 1
    assert f"is in use by process {serve.process.pid}: stop it" in done.stderr
