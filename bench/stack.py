"""A whole bichat as separate processes, for measuring it from outside: loopback only, ended afterwards."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import jwt
from uuid_utils.compat import uuid7

TENANT = uuid7()


class Stack:
    """The processes of one bichat on one database."""

    def __init__(
        self, database_url: str, redis_url: str, model_url: str, logs: Path, **settings: str
    ) -> None:
        """`settings` are variables that differ from what is set here."""
        self.port = free_port()
        self.secret = secrets.token_hex(32)
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._crashes: dict[str, int] = {}
        self.logs, self.database_url = logs, database_url
        self._environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "OPENAI_BASE_URL": model_url,
            "BICHAT_MODEL": "gpt-4o-mini",
            "BICHAT_AUTO_LABEL": "off",  # one call for one answer
            "BICHAT_FUNCTIONS": "off",
            "BICHAT_PORT": str(self.port),
            "BICHAT_JWT_SECRET": self.secret,
            "BICHAT_MASTER_KEY": base64.b64encode(bytes(32)).decode(),
            **settings,
        }

    def token(self, user: str, tenant: UUID = TENANT, **claims: object) -> str:
        """A token good for an hour, unless `claims` say another time."""
        given = {"sub": user, "tenant": str(tenant), "exp": int(time.time()) + 3600, **claims}
        return jwt.encode(given, self.secret, "HS256")

    def headers(self, user: str = "u", tenant: UUID = TENANT, **claims: object) -> dict[str, str]:
        """What authenticates `user`."""
        return {"Authorization": f"Bearer {self.token(user, tenant, **claims)}"}

    def start(self, name: str, verb: str, **settings: str) -> None:
        """Starts one part; `name` tells it from others of its kind, `settings` are its alone."""
        self._crashes = self.crashed()  # the one before it may have ended by itself
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "bichat", verb],
                env=self._environment | settings, stdout=log, stderr=log,
            )  # fmt: skip

    def verb(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """`bichat WORDS`, as an operator says it beside what runs; with what it said."""
        verb = [sys.executable, "-m", "bichat", *words]
        return subprocess.run(
            verb, env=self._environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].kill()
        self.processes[name].wait()

    def up(self, *, workers: int = 1) -> None:
        """Migrates and starts an API, a projector and workers; returns when they answer."""
        verb = [sys.executable, "-m", "bichat", "migrate"]
        subprocess.run(verb, env=self._environment, check=True, stdout=subprocess.DEVNULL)
        self.start("api", "api")
        self.start("projector", "projector")
        for n in range(workers):
            self.start(f"worker {n}", "worker")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        said = "".join(log.read_text(errors="replace")[-500:] for log in sorted(self.logs.glob("*.log")))
        raise TimeoutError(f"the api did not become ready: {said or 'nobody said why'}")

    def crashed(self) -> dict[str, int]:
        """The parts that a signal ended which nobody sends, and that signal's number."""
        sent = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        codes = {name: -(process.poll() or 0) for name, process in self.processes.items()}
        return self._crashes | {n: number for n, number in codes.items() if number > 0 and number not in sent}

    def down(self) -> None:
        """Stops every part, the hard way if it must be."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def scripted_model(answers: dict[str, str], chunk_delay_ms: int) -> Iterator[str]:
    """llmock as so many models, each with the one answer that `answers` gives it, word by word; its URL."""
    port = free_port()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "llmock", "serve", "-p", str(port),
         "--stream-chunk-delay-ms", str(chunk_delay_ms), "--log-level", "error"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        script = [
            {"type": "reply", "text": text, "times": None, "match": {"model": name}}
            for name, text in answers.items()
        ]
        url = f"http://127.0.0.1:{port}"
        httpx.post(f"{url}/_llmock/scenario", json={"behaviors": script}).raise_for_status()
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def stack(database_url: str, redis_url: str, model_url: str, logs: Path, **settings: str) -> Iterator[Stack]:
    """A stack that is stopped in any case; call `up` on it."""
    logs.mkdir(parents=True, exist_ok=True)
    made = Stack(database_url, redis_url, model_url, logs, **settings)
    try:
        yield made
    finally:
        made.down()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
