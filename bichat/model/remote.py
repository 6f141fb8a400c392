"""Vectors from a server that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from bichat.config import Config
from bichat.errors.model import ModelNonsense
from bichat.model import wire
from bichat.model.embeddings import BATCH, MOST, Vector, unit
from bichat.model.server import Server


class _Datum(Struct):
    index: int
    embedding: list[float]


class _Answer(Struct):
    data: list[_Datum]


msgspec.json.Decoder(_Answer)  # prepares it, as `envelope.fact` does its facts: search and worker are threads


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
