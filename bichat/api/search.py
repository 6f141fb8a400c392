"""Search in what a person said and was told, and the vectors that go with it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Router, post
from litestar.params import JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from bichat.api import answers, asking, reading
from bichat.api.call import Call
from bichat.api.parameters import MinPosition
from bichat.api.schemas import Message, Text
from bichat.errors import Invalid, NotSimilar
from bichat.errors.model import ModelError
from bichat.model.embeddings import MOST

Numbers = Annotated[list[float], Meta(min_length=1, max_length=MOST)]


class Wanted(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What is looked for: a text as `query`, or an `embedding` as `/v1/embeddings` makes them."""

    query: Text | UnsetType = UNSET
    embedding: Numbers | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=1, le=100)] = 10


class ToEmbed(Struct, forbid_unknown_fields=True, kw_only=True):
    """What an embedding is wanted of."""

    text: Text


class Hit(Struct, frozen=True, kw_only=True):
    """A message that was found, and how well it fits, from 0 to 1, among those of this answer."""

    dialogue_id: UUID
    message: Message
    score: float


class Results(Struct, frozen=True, kw_only=True):
    """The best first. `similar`: meaning was looked at, and not words alone; `why` it was not."""

    data: list[Hit]
    similar: bool
    why: str | UnsetType = UNSET


class Embedding(Struct, frozen=True, kw_only=True):
    """A vector of length 1, and the model that made it: only its vectors can be compared with it."""

    embedding: list[float]
    model: str


@post("/search", status_code=200)
async def find(request: Call, data: JSONBody[Wanted], min_position: MinPosition = None) -> Results:
    """The caller's own messages, asked and answered, that fit best; none of deleted dialogues.

    A text is looked for by its words and by its meaning. A message is found by its words at once, which
    `min_position` waits for, and by its meaning some seconds later.
    """
    if (data.query is UNSET) == (data.embedding is UNSET):
        raise Invalid(field="query", reason="give one of query and embedding")
    if data.query:
        asking.check_length(request, "query", data.query)
        await _affords(request)
    for name in ("search", "transcripts"):
        await reading.reached(request, name, min_position)
    found = await request.parts.search.find(
        request.user.tenant_id, request.user.id,
        text=data.query or None, embedding=data.embedding or None, top_k=data.top_k,
    )  # fmt: skip
    hits = [
        Hit(dialogue_id=hit.dialogue_id, message=answers.shown(hit.message), score=hit.score)
        for hit in found.hits
    ]
    return Results(data=hits, similar=found.similar, why=found.why or UNSET)


@post("/embeddings", status_code=200)
async def embed(request: Call, data: JSONBody[ToEmbed]) -> Embedding:
    """The vector of a text, as messages are compared with it; of a long text that of its beginning."""
    asking.check_length(request, "text", data.text)
    await _affords(request)
    try:
        made = await request.parts.search.embed(data.text)
    except ModelError:
        raise NotSimilar(why="the model that makes them cannot be asked right now") from None
    return Embedding(embedding=list(made.vector), model=made.model)


async def _affords(request: Call) -> None:
    """Refuses what a paid model would have to read, once the tenant's tokens or budget are spent."""
    if request.parts.config.bichat_embedding_model and (unless := await request.spent()):
        raise unless


router = Router("/", route_handlers=[find, embed], tags=["search"])
