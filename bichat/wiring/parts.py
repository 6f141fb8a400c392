"""The parts that run until they are told to stop: api, worker, projector."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from bichat import tracing
from bichat.config import Config, environment
from bichat.embedded import owner
from bichat.wiring import opened

if TYPE_CHECKING:
    from bichat.commands.execute import Executor
    from bichat.events.ledger import Ledger

TURN = 0.0005
"""Seconds after which a thread that computes makes way for one that could go on (Python's own figure: 5 ms).

Writers and runners get answers of the database several times a batch, and would wait so long each time.
"""

# litestar, openai and the like take long to import: each process imports only its own part, below.


def run_api(config: Config) -> None:
    """Answers HTTP until SIGTERM or Ctrl-C."""
    _begun("api", config)
    from bichat.api import server
    from bichat.api.app import create_app
    from bichat.api.call import Parts
    from bichat.commands.execute import Executor
    from bichat.deltas import Deltas
    from bichat.model.embedders import Embedders
    from bichat.projections.finding import Search
    from bichat.projections.reads import Reads

    traces = tracing.on(config, "api")
    with traces, opened.log(config) as ledger, opened.doorbell(config) as doorbell, ExitStack() as stack:
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        reads = Reads(opened.url(config), replica_url=config.database_read_url)
        search = Search(reads, Embedders(config))
        parts = Parts(config, executor, reads, Deltas(opened.redis_url(config)), search)
        server.run(create_app(parts), config)


def run_worker(config: Config) -> None:
    """Answers questions until SIGTERM or Ctrl-C."""
    _begun("worker", config)
    from bichat.commands.execute import Executor
    from bichat.deltas import Deltas
    from bichat.events.feed import Feed
    from bichat.model import Model
    from bichat.wiring.functions import toolbox
    from bichat.workers import embed
    from bichat.workers.beside import beside
    from bichat.workers.reply import ReplyWorker

    async def work(ledger: Ledger, executor: Executor) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        deltas, model = Deltas(opened.redis_url(config)), Model(config)
        try:
            async with toolbox(config) as functions:
                await ReplyWorker(config, ledger, executor, model, deltas, toolbox=functions).run(stop)
        finally:
            await deltas.close()
            await model.close()

    traces = tracing.on(config, "worker")
    with traces, opened.log(config) as ledger, opened.doorbell(config) as doorbell, ExitStack() as stack:
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        ended = threading.Event()
        with beside("embeddings", partial(embed.run, config, Feed(ledger.keys), ended), ended):
            asyncio.run(work(ledger, executor))


def run_projector(config: Config) -> None:
    """Keeps the read models up to date until SIGTERM or Ctrl-C."""
    _begun("projector", config)
    from bichat.commands.execute import Executor
    from bichat.events.feed import Feed
    from bichat.events.proof.signing import Signer
    from bichat.workers import archiving, erasures, project, sealing
    from bichat.workers.beside import beside
    from bichat.workers.rebuilds import Rebuilds

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with opened.log(config, reads=False) as ledger, opened.doorbell(config) as doorbell, ExitStack() as stack:
        signer = Signer(ledger.keys, config.bichat_signing_key)
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        left = partial(erasures.run, executor, opened.redis_url(config), stop)
        new = partial(sealing.run, opened.url(config), signer, stop)
        if config.bichat_archive_after:
            after = timedelta(days=config.bichat_archive_after)
            idle = partial(archiving.run, executor, opened.url(config), after, stop)
            stack.enter_context(beside("archiving", idle, stop))
        with beside("erasures", left, stop), beside("sealing", new, stop):
            project.run(opened.url(config), Feed(ledger.keys), doorbell, stop, Rebuilds(environment(config)))


def _begun(part: str, config: Config) -> None:
    """What every part does first: a crash in a library shows its stacks, threads make way, it is counted."""
    faulthandler.enable()
    sys.setswitchinterval(TURN)
    _counted(part, config)


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
