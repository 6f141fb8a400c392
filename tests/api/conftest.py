"""A running API over a real log, real read models and a real Valkey; replies are written by the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from msgspec import Struct

from bichat import tls
from bichat.api.app import Parts, create_app
from bichat.api.server import listen, server
from bichat.commands.execute import Executor
from bichat.config import Config
from bichat.deltas import Deltas
from bichat.doorbell import Doorbell
from bichat.events.feed import Feed
from bichat.model.embedders import Embedders
from bichat.projections.finding import Search
from bichat.projections.reads import Reads
from bichat.workers import project
from tests.api.tokens import SECRET, token
from tests.examples import opened


class Api(Struct, frozen=True):
    """What a test of the API talks to."""

    url: str
    redis_url: str
    executor: Executor
    reads: Reads

    def client(self, user: str = "anna", **claims: Any) -> httpx.Client:
        """A client with a token for `user`."""
        headers = {"Authorization": f"Bearer {token(user, **claims)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20)


@contextmanager
def served(config: Config, *, reads_from: str | None = None) -> Iterator[Api]:
    """The API with its writer and projectors, in threads of this process."""
    assert config.database_url is not None
    assert config.redis_url is not None
    with opened(config.database_url) as ledger, ExitStack() as stack:
        doorbell = Doorbell(config.redis_url)
        stack.callback(doorbell.close)
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        stop = threading.Event()
        _thread(stack, project.run, config.database_url, Feed(ledger.keys), doorbell, stop)
        stack.callback(stop.set)
        reads = Reads(reads_from or config.database_url, replica_url=config.database_read_url)
        search = Search(reads, Embedders(config))
        parts = Parts(config, executor, reads, Deltas(config.redis_url), search)
        running, socket = server(create_app(parts), tls.serving(config)), listen("127.0.0.1", 0)
        _thread(stack, running.run, [socket])
        stack.callback(setattr, running, "should_exit", True)
        scheme = "https" if config.serves_https else "http"
        yield Api(f"{scheme}://127.0.0.1:{socket.getsockname()[1]}", config.redis_url, executor, parts.reads)


def _thread(stack: ExitStack, run: Callable[..., object], *args: object) -> None:
    thread = threading.Thread(target=run, args=args, daemon=True)
    thread.start()
    stack.callback(thread.join, 10)


@pytest.fixture(scope="module")
def api(module_database_url: str, redis_url: str) -> Iterator[Api]:
    """One for the tests of a module: each test opens dialogues of its own."""
    config = Config(database_url=module_database_url, redis_url=redis_url, bichat_jwt_secret=SECRET)
    with served(config) as running:
        yield running


@pytest.fixture(scope="module")
def anna(api: Api) -> Iterator[httpx.Client]:
    """A person of the tenant."""
    with api.client() as client:
        yield client


@pytest.fixture
def tenant() -> UUID:
    """A tenant of the test's own."""
    return uuid4()


@pytest.fixture
def carl(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """Who audits the tenant, and asks nothing."""
    with api.client("carl", tenant=str(tenant), roles=["auditor"]) as client:
        yield client


@pytest.fixture
def olga(api: Api, tenant: UUID) -> Iterator[httpx.Client]:
    """Who keeps the tenant well and forgets people, and asks nothing."""
    with api.client("olga", tenant=str(tenant), roles=["ops"]) as client:
        yield client
