"""The servers of a data directory: one process owns them, others attach to them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from bichat.config import Config
from bichat.embedded.account import account_for_servers
from bichat.embedded.directory import Announced, announce, announced, data_directory, owner, take
from bichat.embedded.part import Part
from bichat.embedded.postgres import postgres
from bichat.embedded.runtime import Runtime
from bichat.embedded.sales import sales
from bichat.embedded.secrets import with_secrets
from bichat.embedded.smollm import CONTEXT_TOKENS, MODEL, smollm, weights
from bichat.embedded.valkey import valkey
from bichat.errors.unusable import DataDirectoryTaken


class Servers:
    """The servers that this process owns, and a config in which what they replace is filled in."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.parts: list[Part] = []
        self._directory = data_directory(config)
        self._lock: int | None = take(self._directory)
        self._account = account_for_servers(self._directory / "postgres")
        self._runtime = Runtime(self._account)
        self._urls: dict[str, str] = {}
        self._announce()

    def start(self) -> None:
        """Start whatever no URL was given for; raises `PartFailed`."""
        home, where = self._directory, (self._runtime, self._account)
        if _lacks(self.config, "openai_base_url"):
            self._launch("openai_base_url", *smollm(home / "model.log"))  # first: it loads the longest
        if _lacks(self.config, "database_url"):
            self._launch("database_url", *postgres(home / "postgres", *where))
        if _lacks(self.config, "redis_url"):
            self._launch("redis_url", *valkey(home / "valkey", *where))
        for part in self.parts:
            part.wait_until_ready()
        own = self._urls.get("database_url")
        if own and _lacks(self.config, "analytics_database_url") and (made := sales(own)):
            self._urls["analytics_database_url"] = made
        self.config = _filled(self.config, self._urls)
        self._announce(ready=True)

    def answers_at(self, api_url: str, certificate: Path | None = None) -> None:
        """Tell the other verbs where the API is, and by which certificate they know it."""
        shown = str(certificate.absolute()) if certificate else ""
        self._announce(ready=True, api_url=api_url, certificate=shown)

    def stop(self, patience: float = 5.0) -> None:
        """Stop what was started, within `patience` seconds, and let go of the data directory."""
        if self._lock is None:  # stopped already
            return
        for part in self.parts:
            part.ask_to_stop()
        deadline = time.monotonic() + patience
        for part in self.parts:
            part.stop(deadline - time.monotonic())
        announce(self._directory, None)
        self._runtime.close()
        os.close(self._lock)
        self._lock = None

    def _launch(self, field: str, part: Part, url: str) -> None:
        self.parts.append(part)
        self._urls[field] = url
        part.launch()

    def _announce(self, *, ready: bool = False, api_url: str = "", certificate: str = "") -> None:
        announce(self._directory, Announced(os.getpid(), ready, self._urls, api_url, certificate))


@contextmanager
def owned(config: Config) -> Iterator[Servers]:
    """Own the data directory and run in it what `config` lacks; raises `DataDirectoryTaken`."""
    servers = Servers(with_secrets(config))
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


@contextmanager
def attached_or_owned(config: Config, *needed: str) -> Iterator[Config]:
    """A config in which the `needed` URLs are those given, or the owner's, or those of servers of our own."""
    with ExitStack() as stack:
        if any(_lacks(config, field) for field in needed):
            try:
                config = stack.enter_context(owned(config)).config
            except DataDirectoryTaken as taken:
                config = _attached(with_secrets(config), taken)
        yield config


def api(config: Config) -> tuple[str, Path | None]:
    """Where the owner of the data directory serves (empty: nobody does), and the certificate shown there."""
    directory = config.bichat_data_dir
    found = announced(directory)
    if not found or owner(directory) != found.pid:
        return "", None
    return found.api_url, Path(found.certificate) if found.certificate else None


def _attached(config: Config, taken: DataDirectoryTaken, patience: float = 60.0) -> Config:
    """`config` with the owner's servers, once they have started; raises `taken` when they do not help."""
    deadline, directory = time.monotonic() + patience, data_directory(config)
    while (pid := owner(directory)) is not None and time.monotonic() < deadline:
        found = announced(directory)
        if found and found.ready and found.pid == pid:
            filled = _filled(config, found.urls)
            if not filled.brings_postgres and not filled.brings_redis:
                return filled
            break  # the owner was given a URL that we were not
        time.sleep(0.05)
    raise taken


def _lacks(config: Config, field: str) -> bool:
    if field == "openai_base_url":
        return config.brings_model and weights() is not None
    return getattr(config, field) is None


def _filled(config: Config, urls: dict[str, str]) -> Config:
    wanted: dict[str, object] = {field: url for field, url in urls.items() if _lacks(config, field)}
    if "openai_base_url" in wanted:
        tokens = config.bichat_context_tokens or CONTEXT_TOKENS
        wanted |= {"openai_api_key": "local", "bichat_model": MODEL, "bichat_context_tokens": tokens}
        # It knows no functions; its labels are useless, and the next answer would wait for them.
        wanted |= {"bichat_functions": False, "bichat_auto_label": False}
    return msgspec.structs.replace(config, **wanted)
