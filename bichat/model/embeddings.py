"""Texts as vectors, by a model: what every provider of them does, and the one over OpenAI's protocol."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from bichat.config import Config
from bichat.errors.model import ModelNonsense
from bichat.model import wire
from bichat.model.server import Server

Vector = tuple[float, ...]
"""Of length 1: the nearer two texts are in meaning, the greater is the product of their vectors."""

MOST = 16_000
"""Dimensions; Postgres' vectors have no more."""
BATCH = 64
"""Texts in one call."""


class Embedder(Protocol):
    """A model that makes vectors of texts; vectors of different models cannot be compared."""

    @property
    def name(self) -> str:
        """The model's, the same for as long as its vectors are."""

    @property
    def elsewhere(self) -> bool:
        """Whether a server has it, which can be away; one in this process is slow at worst."""

    async def embed(self, texts: Sequence[str], *, asked: bool = False) -> list[Vector]:
        """A vector for each text, in order; raises `ModelError`.

        What a model does not take of a long text is left out. `asked`: they are what somebody looks
        for, and not what is to be found; some models want to know.
        """

    async def close(self) -> None:
        """Lets go of what it holds."""


def unit(numbers: Sequence[float]) -> Vector | None:
    """The vector in this direction; None when there is no such thing."""
    length = math.hypot(*numbers)  # which overflows only where the result would
    if not 0 < length < math.inf:
        return None
    return tuple([number / length for number in numbers])


class _Datum(Struct):
    index: int
    embedding: list[float]


class _Answer(Struct):
    data: list[_Datum]


class OpenAIEmbedder:
    """A model behind OPENAI_BASE_URL."""

    elsewhere = True
    LONGEST = 16_000
    """Characters of a text that are sent: OpenAI's models take 8,192 tokens."""

    def __init__(self, config: Config, name: str, *, patience: float = 60) -> None:
        """`patience`: seconds that an answer may take."""
        self.name, self._patience = name, patience
        self._server = Server(config, patience)

    async def embed(self, texts: Sequence[str], *, asked: bool = False) -> list[Vector]:
        """As every embedder does; at most `BATCH` texts in one call."""
        found: list[Vector] = []
        for first in range(0, len(texts), BATCH):
            found += await self._call([text[: self.LONGEST] for text in texts[first : first + BATCH]])
        return found

    async def _call(self, texts: list[str]) -> list[Vector]:
        body = {"model": self.name, "input": [wire.clean(text) for text in texts], "encoding_format": "float"}
        with self._server.plainly():
            async with asyncio.timeout(self._patience):
                told = await self._server.client.post("/embeddings", cast_to=object, body=body)
            answer = msgspec.convert(told, _Answer)
        if sorted(datum.index for datum in answer.data) != list(range(len(texts))):
            raise ModelNonsense(detail=f"{len(answer.data)} vectors for {len(texts)} texts")
        vectors = [unit(d.embedding) for d in sorted(answer.data, key=lambda datum: datum.index)]
        sizes = {len(vector or ()) for vector in vectors}
        if None in vectors or len(sizes) != 1 or not 1 <= max(sizes) <= MOST:
            raise ModelNonsense(detail="its vectors are not of one size, or without a direction")
        return [vector for vector in vectors if vector]

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()
