"""Search: a person's messages by words and by meaning, both rankings merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from bichat.errors import Invalid, NotSimilar
from bichat.errors.model import ModelError
from bichat.events.transcript import Message
from bichat.model.embedders import Embedders
from bichat.model.embeddings import Vector, unit
from bichat.model.soon import Soon
from bichat.projections import search, vectors
from bichat.projections.lately import Lately
from bichat.projections.reads import Reads
from bichat.projections.vectors import Serving

DEPTH = 100
"""Of each ranking, how many places count at least."""
_FLAT = 20
"""How much less a place counts than the one before it: 1/21, 1/22, …"""


class Hit(Struct, frozen=True):
    """A message that was found; scores, from 0 to 1, compare what was found by one call."""

    dialogue_id: UUID
    message: Message
    score: float


class Found(Struct, frozen=True):
    """The best first; `similar`: whether nearness in meaning was looked at, and if not, `why`."""

    hits: list[Hit]
    similar: bool
    why: str = ""


class Embedding(NamedTuple):
    """A vector of a text, by the model of this name."""

    vector: Vector
    model: str


_Meant = tuple[Serving, Vector]
"""A vector, and where those are that it can be compared with."""


class Search:
    """Finds messages of one person, by words, by meaning, or both; never in dialogues that are deleted."""

    def __init__(self, reads: Reads, embedders: Embedders) -> None:
        self._reads, self._embedders = reads, embedders
        self._lately: Lately[Vector] = Lately(256)
        self._soon = Soon()

    async def close(self) -> None:
        """Lets go of the models' servers."""
        await self._embedders.close()

    async def find(
        self, tenant_id: UUID, user_id: str, *, text: str | None = None,
        embedding: Sequence[float] | None = None, top_k: int = 10,
    ) -> Found:  # fmt: skip
        """The `top_k` messages that fit a text or a vector best.

        By text, both rankings are merged, and without vectors words have to do. Raises `Invalid` for a
        vector that is none of the model's, `NotSimilar` where vectors cannot be compared.
        """
        if text is None:
            given = await self._given(embedding or ())
            return await self._found(tenant_id, user_id, None, given, top_k)
        try:
            return await self._found(tenant_id, user_id, text, await self._meant(text), top_k)
        except (NotSimilar, ModelError) as error:
            why = str(error.facts.get("why", "the model that makes embeddings cannot be asked right now"))
        found = await self._found(tenant_id, user_id, text, None, top_k)
        return replace(found, why=why)

    async def embed(self, text: str) -> Embedding:
        """A text's vector as it can be searched for; raises `NotSimilar` and `ModelError`."""
        try:
            serving, vector = await self._meant(text)
            return Embedding(vector, serving.name)
        except NotSimilar:  # it cannot be searched for, but made
            embedder = self._embedders.get()
            return Embedding(await self._soon.embed(embedder, text), embedder.name)

    async def _meant(self, text: str) -> _Meant:
        """The vector by the very model whose vectors are there: those of two models are never mixed."""
        serving = await self._serving()
        key = (serving.name, text)
        vector = self._lately.get(key)
        if vector is None:
            vector = await self._soon.embed(self._embedders.get(serving.name), text)
            self._lately.put(key, vector)
        if len(vector) != serving.dimensions:
            raise NotSimilar(why=f"{serving.name} makes vectors of another size than it did")
        return serving, vector

    async def _given(self, numbers: Sequence[float]) -> _Meant:
        serving, vector = await self._serving(), unit(numbers)
        if len(numbers) != serving.dimensions:
            reason = f"has {len(numbers)} numbers; those of {serving.name} have {serving.dimensions}"
            raise Invalid(field="embedding", reason=reason)
        if vector is None:
            raise Invalid(field="embedding", reason="has no direction: it must be finite, and not all zeros")
        return serving, vector

    async def _serving(self) -> Serving:
        async with self._reads.connection() as connection:
            return await vectors.serving(connection)

    async def _found(
        self, tenant_id: UUID, user_id: str, text: str | None, near: _Meant | None, top_k: int
    ) -> Found:
        who = {"tenant_id": tenant_id, "user_id": user_id, "limit": max(top_k, DEPTH)}
        async with self._reads.tenant(tenant_id) as connection:
            rankings: list[list[tuple[search.Place, float]]] = []
            if text is not None:
                # Words that are everywhere find much that fits badly: such a place counts little.
                matching = await search.matching(connection, who, text)
                rankings.append([(place, place.share**2) for place in matching])
            if near:
                nearest = await search.nearest(connection, who, near[0], vectors.written(near[1]))
                rankings.append([(place, 1.0) for place in nearest])
            best = _merged(rankings)[:top_k]
            said = await search.said(connection, tenant_id, [place for place, _ in best])
        hits = [Hit(p.dialogue_id, said[p.message_id], score) for p, score in best if p.message_id in said]
        return Found(hits, similar=near is not None)


def _merged(rankings: Sequence[Sequence[tuple[search.Place, float]]]) -> list[tuple[search.Place, float]]:
    """By reciprocal ranks: places of rankings whose own scores cannot be compared, added up."""
    scores: dict[search.Place, float] = {}
    places: dict[UUID, search.Place] = {}
    for ranking in rankings:
        for rank, (place, weight) in enumerate(ranking):
            place = places.setdefault(place.message_id, place)  # noqa: PLW2901
            part = weight * (_FLAT + 1) / (_FLAT + 1 + rank) / len(rankings)
            scores[place] = scores.get(place, 0.0) + part
    return sorted(scores.items(), key=lambda both: (-both[1], both[0].message_id.int))
