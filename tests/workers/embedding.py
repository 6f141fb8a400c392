"""Embedding workers in threads of a test, and waiting for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bichat.config import Config
from bichat.events import schema
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.projections import vectors
from bichat.workers import embed


@contextmanager
def embedding(config: Config, ledger: Ledger) -> Iterator[threading.Event]:
    """A worker; gives what stops it."""
    stop = threading.Event()
    run = threading.Thread(target=embed.run, args=(config, Feed(ledger.keys), stop), kwargs={"poll": 0.02})
    run.start()
    try:
        yield stop
    finally:
        stop.set()
        run.join(20)
        assert not run.is_alive()


def caught_up(models: list[vectors.Model], head: int) -> bool:
    """Whether all that was said can be found."""
    return any(model.state == "serving" and model.position >= head for model in models)


async def until(
    config: Config, seen: Callable[[list[vectors.Model], int], bool] = caught_up, seconds: float = 30
) -> list[vectors.Model]:
    """Waits for the register to be as `seen` says, given the end of the log."""
    with schema.connect(config.database_url or "") as connection:
        async with asyncio.timeout(seconds):
            while True:
                models = vectors.models(connection)
                row = connection.execute("select bichat.head()").fetchone()
                if row and seen(models, row[0]):
                    return models
                await asyncio.sleep(0.02)
