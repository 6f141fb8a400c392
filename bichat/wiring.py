"""Builds everything from a `Config`: the only place where parts are put together."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bichat import tracing
from bichat.config import Config, environment
from bichat.doorbell import Doorbell
from bichat.errors import WrongSetting
from bichat.events import schema
from bichat.events.keys import KeyStore
from bichat.events.ledger import Ledger

# litestar, openai and the like take long to import: each process imports only its own part, below.


def migrate(config: Config) -> list[str]:
    """Creates or updates the schema, the keys' schema and the read models' tables; returns what was new."""
    from bichat.projections import versions

    applied = schema.migrate(_url(config))
    applied += schema.migrate(_keys_url(config), schema.KEYS, name="KEYS_DATABASE_URL")
    with schema.connect(_url(config)) as connection:
        applied += [build.id for build in versions.ensure(connection)]
    with _keys(config):
        return applied


def run_api(config: Config) -> None:
    """Answers HTTP until SIGTERM or Ctrl-C."""
    _counted("api")
    from bichat.api import server
    from bichat.api.app import create_app
    from bichat.api.call import Parts
    from bichat.commands.execute import Executor
    from bichat.deltas import Deltas
    from bichat.projections.reads import Reads

    traces = tracing.on(config, "api")
    with traces, _log(config) as ledger, _doorbell(config) as doorbell, ExitStack() as stack:
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        parts = Parts(config, executor, Reads(_url(config)), Deltas(_redis_url(config)))
        server.run(create_app(parts), config.bichat_host, config.bichat_port)


def run_worker(config: Config) -> None:
    """Answers questions until SIGTERM or Ctrl-C."""
    _counted("worker", config)
    from bichat.commands.execute import Executor
    from bichat.deltas import Deltas
    from bichat.model import Model
    from bichat.workers.reply import ReplyWorker

    async def work(ledger: Ledger, executor: Executor) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        deltas, model = Deltas(_redis_url(config)), Model(config)
        try:
            await ReplyWorker(config, ledger, executor, model, deltas).run(stop)
        finally:
            await deltas.close()
            await model.close()

    traces = tracing.on(config, "worker")
    with traces, _log(config) as ledger, _doorbell(config) as doorbell, ExitStack() as stack:
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        asyncio.run(work(ledger, executor))


def run_projector(config: Config) -> None:
    """Keeps the read models up to date until SIGTERM or Ctrl-C."""
    _counted("projector", config)
    from bichat.events.feed import Feed
    from bichat.workers import project
    from bichat.workers.rebuilds import Rebuilds

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _log(config, reads=False) as ledger, _doorbell(config) as doorbell:
        project.run(_url(config), Feed(ledger.keys), doorbell, stop, Rebuilds(environment(config)))


def _counted(part: str, shown: Config | None = None) -> None:
    """Before anything counts: says under which name, and shows it at the port that `shown` may name.

    Under the name of the part, and not of the process, which ends: in `bichat serve` the next one goes on
    with the same files.
    """
    from prometheus_client import values

    if values.ValueClass is not values.MutexValue:  # there are files
        mine = os.getpid()
        name = lambda: part if os.getpid() == mine else os.getpid()  # noqa: E731
        values.ValueClass = values.MultiProcessValue(name)  # type: ignore[no-untyped-call]
    from bichat import metrics

    if shown and shown.bichat_metrics_port:
        metrics.serve(shown.bichat_host, shown.bichat_metrics_port)


@contextmanager
def _log(config: Config, *, reads: bool = True) -> Iterator[Ledger]:
    """The log, once it is sure that its schema and its master key are ours.

    `reads`: what this process does needs the read models too.
    """
    from bichat.projections import versions

    with schema.connect(_url(config)) as connection:
        schema.check(connection)
        if reads:
            versions.check(connection)
    with schema.connect(_keys_url(config), name="KEYS_DATABASE_URL") as connection:
        schema.check(connection, schema.KEYS)
    with _keys(config) as keys:
        ledger = Ledger(_url(config), keys)
        try:
            yield ledger
        finally:
            ledger.close()


@contextmanager
def _keys(config: Config) -> Iterator[KeyStore]:
    if config.bichat_master_key is None:
        raise WrongSetting(name="BICHAT_MASTER_KEY", reason="is missing")
    keys = KeyStore(_keys_url(config), config.bichat_master_key)
    try:
        keys.unlock()
        yield keys
    finally:
        keys.close()


@contextmanager
def _doorbell(config: Config) -> Iterator[Doorbell]:
    doorbell = Doorbell(_redis_url(config))
    try:
        yield doorbell
    finally:
        doorbell.close()


def _url(config: Config) -> str:
    if config.database_url is None:
        raise WrongSetting(name="DATABASE_URL", reason="is missing")
    return config.database_url


def _keys_url(config: Config) -> str:
    return config.keys_database_url or _url(config)


def _redis_url(config: Config) -> str:
    if config.redis_url is None:
        raise WrongSetting(name="REDIS_URL", reason="is missing")
    return config.redis_url
