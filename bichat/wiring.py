"""Builds everything from a `Config`: the only place where parts are put together."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bichat import tracing
from bichat.config import Config, environment
from bichat.doorbell import Doorbell
from bichat.embedded import owner
from bichat.errors.unusable import WrongSetting
from bichat.events import schema
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger

if TYPE_CHECKING:
    from bichat.backup.merge import Merged
    from bichat.backup.restore import Restored
    from bichat.commands.execute import Executor
    from bichat.projections.processes import Database
    from bichat.projections.verify import Progress

# litestar, openai and the like take long to import: each process imports only its own part, below.


def migrate(config: Config) -> list[str]:
    """Creates or updates the schema, the keys' schema and the read models' tables; returns what was new."""
    from bichat.projections import versions

    with schema.connect(_url(config)) as connection:
        schema.refuse_half_restored(connection)
    applied = schema.migrate(_url(config))
    applied += schema.migrate(_keys_url(config), schema.KEYS, name="KEYS_DATABASE_URL")
    with schema.connect(_url(config)) as connection:
        applied += [build.id for build in versions.ensure(connection)]
    with _keys(config):
        return applied


def database(config: Config) -> Database:
    """What operators' verbs work on, once it is sure that its schema and its master key are ours."""
    _check(config)
    with _keys(config):
        return _place(config)


@contextmanager
def key_store(database: Database) -> Iterator[KeyStore]:
    """Its keys, unlocked."""
    keys = database.key_store()
    try:
        keys.unlock()
        yield keys
    finally:
        keys.close()


@contextmanager
def writer(database: Database) -> Iterator[Executor]:
    """Executes operators' commands; followers see what it wrote at their next look."""
    from bichat.commands.execute import Executor

    with key_store(database) as keys, ExitStack() as stack:
        ledger = Ledger(database.url, keys)
        stack.callback(ledger.close)
        executor = Executor(ledger)
        executor.start()
        stack.callback(executor.close)
        yield executor


def missing(config: Config) -> str:
    """The names of the read models of which the database does not have this code's shape."""
    from bichat.projections import versions

    with schema.connect(_url(config)) as connection:
        return " ".join(model.name for model in versions.missing(connection))


def fill(config: Config, progress: Progress) -> None:
    """Builds the read models that this code has in a shape which the database has not."""
    from bichat.projections import rebuild, versions
    from bichat.projections.processes import cores

    with schema.connect(_url(config)) as connection:
        missing = versions.missing(connection)
    if missing:
        rebuild.rebuild(database(config), missing, jobs=cores(), progress=progress)


def restore(config: Config, directory: Path, progress: Progress) -> Restored:
    """Brings the log back from a backup; the database need not be anything yet."""
    from bichat.backup import restore as work

    return work.restore(_place(config), directory, progress)


def restore_keys(config: Config, file: Path) -> Merged:
    """Brings keys back from their file; the stores need not be anything yet."""
    from bichat.backup import merge

    return merge.restore(_place(config), file)


def run_api(config: Config) -> None:
    """Answers HTTP until SIGTERM or Ctrl-C."""
    _counted("api", config)
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
    from bichat.commands.execute import Executor
    from bichat.events.feed import Feed
    from bichat.events.proof.signing import Signer
    from bichat.workers import erasures, project, sealing
    from bichat.workers.beside import beside
    from bichat.workers.rebuilds import Rebuilds

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _log(config, reads=False) as ledger, _doorbell(config) as doorbell, ExitStack() as stack:
        signer = Signer(ledger.keys, config.bichat_signing_key)
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        left = partial(erasures.run, executor, _redis_url(config), stop)
        new = partial(sealing.run, _url(config), signer, stop)
        with beside("erasures", left, stop), beside("sealing", new, stop):
            project.run(_url(config), Feed(ledger.keys), doorbell, stop, Rebuilds(environment(config)))


def _counted(part: str, config: Config) -> None:
    """Before anything counts: says under which name, and shows it at a port of its own if that is wanted.

    In `bichat serve` not under the name of the process, as the library does, but of the part, which is
    there once: started again, it goes on with the same files.
    """
    from prometheus_client import values

    from_serve = owner(config.bichat_data_dir.absolute()) == os.getppid()
    if values.ValueClass is not values.MutexValue and from_serve:
        mine = os.getpid()
        name = lambda: part if os.getpid() == mine else os.getpid()  # noqa: E731
        values.ValueClass = values.MultiProcessValue(name)  # type: ignore[no-untyped-call]
    if part != "api" and config.bichat_metrics_port:
        from bichat import metrics

        metrics.serve(config.bichat_host, config.bichat_metrics_port)


@contextmanager
def _log(config: Config, *, reads: bool = True) -> Iterator[Ledger]:
    """The log, once it is sure that its schema and its master key are ours.

    `reads`: what this process does needs the read models too.
    """
    from bichat.projections import versions

    _check(config)
    if reads:
        with schema.connect(_url(config)) as connection:
            versions.check(connection)
    with _keys(config) as keys:
        keys.watch()
        ledger = Ledger(_url(config), keys)
        try:
            yield ledger
        finally:
            ledger.close()


def _place(config: Config) -> Database:
    from bichat.projections.processes import Database

    return Database(
        url=_url(config), keys_url=_keys_url(config), master_key=_master_key(config),
        old_master_key=config.bichat_old_master_key, signing_key=config.bichat_signing_key,
        redis_url=config.redis_url,
    )  # fmt: skip


def _check(config: Config) -> None:
    with schema.connect(_url(config)) as connection:
        schema.check(connection)
    with schema.connect(_keys_url(config), name="KEYS_DATABASE_URL") as connection:
        schema.check(connection, schema.KEYS)


@contextmanager
def _keys(config: Config) -> Iterator[KeyStore]:
    """The keys of the log; a store without any, beside a log with events, is not theirs."""
    with schema.connect(_url(config)) as connection:
        new = not schema.has_events(connection)
    keys = KeyStore(_keys_url(config), _master_key(config), config.bichat_old_master_key)
    try:
        keys.unlock(new=new)
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


def _master_key(config: Config) -> bytes:
    if config.bichat_master_key is None:
        raise WrongSetting(name="BICHAT_MASTER_KEY", reason="is missing")
    return config.bichat_master_key


def _redis_url(config: Config) -> str:
    if config.redis_url is None:
        raise WrongSetting(name="REDIS_URL", reason="is missing")
    return config.redis_url
