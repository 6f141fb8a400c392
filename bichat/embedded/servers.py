"""Who owns the servers of a data directory: one process at a time; others attach to them or are refused."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from bichat.config import Config
from bichat.embedded.account import Account, account_for_servers
from bichat.embedded.part import Part
from bichat.embedded.postgres import postgres
from bichat.embedded.secrets import data_directory, with_secrets, write_private
from bichat.embedded.smollm import CONTEXT_TOKENS, MODEL, smollm, weights
from bichat.embedded.valkey import valkey
from bichat.errors import DataDirectoryTaken


class Announced(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the owner of a data directory tells the others (`servers.json`, 0600)."""

    pid: int
    runtime: str
    ready: bool = False
    urls: dict[str, str] = {}
    """By the config's field name; only what the owner brought along."""
    api_url: str = ""
    """Where `bichat serve` answers; empty when the owner is another verb."""


class Servers:
    """The servers that this process owns, and a config in which what they replace is filled in."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.parts: list[Part] = []
        self._directory = data_directory(config)
        self._lock: int | None = _take(self._directory)
        if (before := announced(config)) and Path(before.runtime).name.startswith(_PREFIX):
            shutil.rmtree(before.runtime, ignore_errors=True)  # left by an owner that was killed
        self._account = account_for_servers()
        self._runtime = _runtime_directory(self._account)
        self._urls: dict[str, str] = {}
        self._announce()

    def start(self, *, model: bool) -> None:
        """Start what no URL was given for; raises `PartFailed`."""
        slow: Part | None = None
        if model and self.config.brings_model and weights():  # it loads while the others start
            slow, self._urls["openai_base_url"] = smollm(self._directory / "model.log")
            self.parts.append(slow)
            slow.launch()
        if self.config.brings_postgres:
            self._bring("database_url", *postgres(self._directory / "postgres", self._runtime, self._account))
        if self.config.brings_redis:
            self._bring("redis_url", *valkey(self._directory / "valkey", self._runtime, self._account))
        if slow:
            slow.wait_until_ready()
        self.config = _filled(self.config, self._urls)
        self._announce(ready=True)

    def answers_at(self, api_url: str) -> None:
        """Tell the other verbs where the API is."""
        self._announce(ready=True, api_url=api_url)

    def stop(self, patience: float = 5.0) -> None:
        """Stop what was started, within `patience` seconds, and let go of the data directory."""
        if self._lock is None:  # stopped already
            return
        for part in self.parts:
            part.ask_to_stop()
        deadline = time.monotonic() + patience
        for part in self.parts:
            part.stop(deadline - time.monotonic())
        (self._directory / _ANNOUNCED).unlink(missing_ok=True)
        shutil.rmtree(self._runtime, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def _bring(self, field: str, part: Part, url: str) -> None:
        self.parts.append(part)
        part.start()
        self._urls[field] = url

    def _announce(self, *, ready: bool = False, api_url: str = "") -> None:
        content = Announced(os.getpid(), str(self._runtime), ready, self._urls, api_url)
        write_private(self._directory / _ANNOUNCED, msgspec.json.encode(content))


@contextmanager
def owned(config: Config, *, model: bool = True) -> Iterator[Servers]:
    """Own the data directory; raises `DataDirectoryTaken` when another process does."""
    servers = Servers(with_secrets(config))
    try:
        servers.start(model=model)
        yield servers
    finally:
        servers.stop()


@contextmanager
def attached_or_owned(config: Config, *, model: bool = False) -> Iterator[Config]:
    """A config with every URL: those given, those of the owner that runs, or servers of our own."""
    if not (config.brings_postgres or config.brings_redis or (model and config.brings_model and weights())):
        yield config
        return
    try:
        with owned(config, model=model) as servers:
            yield servers.config
    except DataDirectoryTaken:
        yield _attached(with_secrets(config))


def announced(config: Config) -> Announced | None:
    """What the owner of the data directory said last; it may be dead."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((config.bichat_data_dir / _ANNOUNCED).read_bytes(), type=Announced)
    return None


_ANNOUNCED = "servers.json"
_PREFIX = "bichat-"


def _attached(config: Config, patience: float = 60.0) -> Config:
    """`config` with the owner's servers, which may still be starting."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = announced(config)
        if found and found.ready and _alive(found.pid):
            filled = _filled(config, found.urls)
            if filled.brings_postgres or filled.brings_redis:  # it uses others than its own
                raise DataDirectoryTaken(path=config.bichat_data_dir, pid=found.pid)
            return filled
        time.sleep(0.05)
    raise DataDirectoryTaken(path=config.bichat_data_dir, pid="unknown")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _filled(config: Config, urls: dict[str, str]) -> Config:
    wanted: dict[str, object] = {f: url for f, url in urls.items() if getattr(config, f) is None}
    if not config.brings_model:
        wanted.pop("openai_base_url", None)
    if "openai_base_url" in wanted:
        tokens = config.bichat_context_tokens or CONTEXT_TOKENS
        wanted |= {"openai_api_key": "local", "bichat_model": MODEL, "bichat_context_tokens": tokens}
    return msgspec.structs.replace(config, **wanted)


def _take(directory: Path) -> int:
    """Lock the directory for as long as this process lives; the kernel lets go of it when we die."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise DataDirectoryTaken(path=directory, pid=pid) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _runtime_directory(account: Account) -> Path:
    """A private directory with a short path: a socket's may have 100 bytes, a data directory's any number."""
    runtime = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    sockets = runtime / "sockets"
    sockets.mkdir(mode=0o700)
    if account.uid is not None:
        runtime.chmod(0o711)
    account.own(sockets)
    return runtime
