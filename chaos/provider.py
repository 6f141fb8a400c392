"""A model's server that misbehaves as it is told: llmock as a process, its script and its journal."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.stack import free_port

KEY = "sk-of-nobody"


class Provider:
    """One llmock."""

    def __init__(self, port: int) -> None:
        self._admin = f"http://127.0.0.1:{port}/_llmock"
        self.url = f"http://127.0.0.1:{port}/v1"

    @property
    def settings(self) -> dict[str, str]:
        """What lets a bichat ask this one."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": KEY}

    def script(self, *behaviors: dict[str, Any]) -> None:
        """Adds behaviours to those that wait."""
        told = httpx.post(f"{self._admin}/scenario", json={"behaviors": behaviors})
        if told.status_code != 201:
            raise ValueError(told.text)

    def asked(self) -> list[dict[str, Any]]:
        """Every request so far, with its fault and its times."""
        found: list[dict[str, Any]] = httpx.get(f"{self._admin}/requests", timeout=30).json()["requests"]
        return found

    def findings(self) -> list[dict[str, Any]]:
        """What llmock holds against its client."""
        found: list[dict[str, Any]] = httpx.get(f"{self._admin}/verdict", timeout=30).json()["findings"]
        return found

    def ask(self, body: dict[str, Any]) -> httpx.Response:
        """The same that a bichat would be told, past bichat."""
        return httpx.post(
            f"{self.url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=30
        )


@contextmanager
def provider(*options: str) -> Iterator[Provider]:
    """Starts llmock with these options of its own and ends it."""
    port = free_port()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "llmock", "serve", "-p", str(port), "--log-level", "error", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            if process.poll() is not None:
                raise RuntimeError(f"llmock ended at once with {process.returncode}")
            time.sleep(0.05)
        yield Provider(port)
    finally:
        process.terminate()
        process.wait()
