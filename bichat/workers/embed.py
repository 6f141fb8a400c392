"""The embedding worker: gives every message a vector, in batches, and keeps to what was erased."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg

from bichat.config import Config
from bichat.errors import LogUnavailable, NotSimilar
from bichat.errors.model import ModelError, ModelNonsense, ModelRefused
from bichat.errors.unusable import EventTooNew
from bichat.events.feed import Feed
from bichat.logs import described
from bichat.model.embedders import Embedders
from bichat.model.embeddings import Embedder, Vector
from bichat.projections import vectors
from bichat.projections.sql import statement
from bichat.projections.vectors import Model, Store
from bichat.workers.embedding import Batch, Batches

POLL = 0.5
"""Seconds between two looks at the log."""
NICE = 10
"""A tenth of what others get when there is too little for all; with less it would hold up its own process."""
_LONGEST_PAUSE = 60.0

log = logging.getLogger(__name__)


def run(config: Config, feed: Feed, stop: threading.Event, *, poll: float = POLL) -> None:
    """Works until `stop` is set, in a thread and an event loop of its own.

    Of each model one worker in all processes; the others stand by. A model that is new is fed with
    all that the log has, while the one before it goes on to be searched and fed.
    """
    _make_way()
    asyncio.run(_Worker(config, feed, stop, poll).run())


def _make_way() -> None:
    """Whoever else computes on this machine goes first: people wait for words, not for vectors.

    Linux alone has this for one thread; the local model's, which is started from here, inherits it.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


class _Worker:
    def __init__(self, config: Config, feed: Feed, stop: threading.Event, poll: float) -> None:
        self._url, self._stop, self._poll = config.database_url or "", stop, poll
        self._embedders = Embedders(config)
        self._feed, self._batches = feed, Batches(feed)
        self._registered = False
        self._held: set[int] = set()
        """Models that this worker feeds, and no other; the locks go with its connection."""
        self._trouble = ""

    async def run(self) -> None:
        pause = self._poll
        while not self._stop.is_set():
            try:
                with closing(_connect(self._url)) as connection:
                    self._held.clear()
                    while not self._stop.is_set():
                        busy = await self._look(connection)
                        self._well()
                        pause = self._poll
                        await self._rest(0 if busy else pause)
            except (psycopg.Error, NotSimilar, ModelError, LogUnavailable, EventTooNew) as error:
                pause = min(max(pause * 2, 1.0), _LONGEST_PAUSE)
                self._say(error)
                await self._rest(max(pause, getattr(error, "retry_after", None) or 0.0))
            except Exception:
                log.exception("The embedding worker goes on after an error of its own")
                pause = _LONGEST_PAUSE
                await self._rest(pause)
        await self._embedders.close()

    async def _look(self, connection: psycopg.Connection[Any]) -> bool:
        """One step of each model that is fed; whether there may be more."""
        vector = vectors.prepare(connection)
        registered = vectors.models(connection)
        for model in registered:  # also of those that nobody feeds any more
            vectors.erase(connection, Store(model.number, vector))
        if not self._registered:
            await self._register(connection, registered, vector)
            registered = vectors.models(connection)
        vectors.drop_left(connection, vector)
        busy, failed = False, None
        for model in self._fed(connection, registered):
            try:
                busy |= await self._step(connection, model, vector)
            except (ModelError, NotSimilar) as error:  # the other one goes on
                connection.execute(statement("vectors", "failed"), (described(error), model.number))
                failed = error
        if failed and not busy:
            raise failed
        return busy

    def _fed(self, connection: psycopg.Connection[Any], registered: Sequence[Model]) -> list[Model]:
        """The model that is wanted, and until it has caught up the one that serves meanwhile.

        Where another one has taken its place, this worker's settings are old: it does no more.
        """
        wanted = [m for m in registered if m.name == self._embedders.name and m.state != "retired"]
        if not wanted and self._registered:
            return []
        serving = [m for m in registered if m.state == "serving" and m not in wanted]
        return [model for model in [*wanted, *serving] if self._mine(connection, model)]

    def _mine(self, connection: psycopg.Connection[Any], model: Model) -> bool:
        if model.number not in self._held:
            row = connection.execute(statement("vectors", "lock"), (model.number,)).fetchone()
            if row == (True,):
                self._held.add(model.number)
        return model.number in self._held

    async def _register(
        self, connection: psycopg.Connection[Any], registered: Sequence[Model], vector: str
    ) -> None:
        """Once in the life of a worker: who was started with the newest settings came last."""
        embedder = self._embedders.get()
        if all(model.name != embedder.name or model.state == "retired" for model in registered):
            [probe] = await embedder.embed(["bichat"])
            vectors.register(connection, embedder.name, len(probe), vector)
            log.info("Messages get embeddings by %s", embedder.name)
        self._registered = True

    async def _step(self, connection: psycopg.Connection[Any], model: Model, vector: str) -> bool:
        """Brings a model on by a batch, or lets it serve when there is none; whether there was one."""
        store = Store(model.number, vector)
        batch = self._batches.next(connection, model.position)
        if batch is None:
            if model.state == "building":
                vectors.serve(connection, model, vector)
                log.info("%s has caught up with the log: its embeddings are searched", model.name)
            return False
        made = await self._made(connection, store, batch, model)
        if not vectors.add(connection, store, made, model.position, batch.upto):
            log.info("%s was moved on by another worker", model.name)
        return True

    async def _made(
        self, connection: psycopg.Connection[Any], store: Store, batch: Batch, model: Model
    ) -> list[vectors.Embedded]:
        """The batch's messages with vectors: of texts that this person wrote before, those of then."""
        known = vectors.known(connection, store, [bytes.fromhex(text.digest) for text in batch.texts])
        new = {text.digest: text.content for text in batch.texts if text.digest not in known}
        if new:
            embedder = self._embedders.get(model.name)
            made = await self._embed(embedder, list(new.values()))
            if any(v is not None and len(v) != model.dimensions for v in made):
                raise ModelNonsense(detail=f"vectors of {model.name} are not of {model.dimensions} numbers")
            known |= {d: vectors.written(v) for d, v in zip(new, made, strict=True) if v is not None}
        for text in batch.texts:
            if text.digest not in known:
                log.warning("The message %s gets no embedding: %s refuses it", text.message_id, model.name)
        return [text.embedded(known[text.digest]) for text in batch.texts if text.digest in known]

    async def _embed(self, embedder: Embedder, texts: list[str]) -> list[Vector | None]:
        """A vector for each text, None for one that is to blame for a refusal: halves find out which."""
        try:
            return list(await embedder.embed(texts))
        except (ModelRefused, ModelNonsense):
            if len(texts) == 1:
                await embedder.embed(["bichat"])  # raises if it is not the text
                return [None]
        half = len(texts) // 2
        return await self._embed(embedder, texts[:half]) + await self._embed(embedder, texts[half:])

    async def _rest(self, seconds: float) -> None:
        await asyncio.to_thread(self._stop.wait, seconds)

    def _say(self, error: Exception) -> None:
        """One line when something begins to be in the way."""
        trouble = described(error)
        if trouble != self._trouble:
            log.warning("Messages get no embeddings for now: %s", trouble)
        self._trouble = trouble

    def _well(self) -> None:
        if self._trouble:
            log.warning("Messages get embeddings again")
        self._trouble = ""


def _connect(url: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(
        url, autocommit=True, connect_timeout=5, application_name="bichat embeddings", prepare_threshold=0,
        keepalives_idle=5, keepalives_interval=2, keepalives_count=3,
    )  # fmt: skip
    connection.execute(statement("runner", "configure"), prepare=False)
    return connection
