"""How one client speaks with the API: commands under a key until answered, streams over every cut."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from chaos.told import Answer, Heard, Query, Request, Stream

if TYPE_CHECKING:
    from chaos.crowd import Crowd

_BEAT = 20.0
"""Seconds of silence after which a stream is taken for dead: a comment is due every 15."""


class Wire:
    """One person's connection pool; whatever comes over it is noted in what the crowd was told."""

    def __init__(self, crowd: Crowd, rng: Random, headers: dict[str, str]) -> None:
        self._crowd, self._rng = crowd, rng
        self._http = httpx.AsyncClient(base_url=crowd.url, headers=headers, timeout=10)

    async def close(self) -> None:
        """Hangs up."""
        await self._http.aclose()

    async def send(self, request: Request, method: str, path: str, body: Any) -> Answer:
        """Under its key until it is known what came of it; now and then twice at once, or once more after."""
        self._crowd.told.requests.append(request)
        twice, chance = [self._answered(request, method, path, body)], self._rng.random()
        if chance < 0.05:
            twice.append(self._answered(request, method, path, body))
        first, *_ = await asyncio.gather(*twice)
        if 0.05 < chance < 0.15:
            await self._answered(request, method, path, body)
        return first

    async def _answered(self, request: Request, method: str, path: str, body: Any) -> Answer:
        while True:
            answer = await self._try(request.key, method, path, body)
            request.answers.append(answer)
            if answer.status not in (0, 503) and not (answer.status == 409 and answer.body.get("again")):
                return answer
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))

    async def _try(self, key: str, method: str, path: str, body: Any) -> Answer:
        self._crowd.saw("sent")
        headers = {"Idempotency-Key": key}
        try:
            told = await self._http.request(method, f"/v1/dialogues{path}", json=body, headers=headers)
        except httpx.TransportError:
            return Answer(time.time(), 0)
        known = told.json() if told.content else {}
        if told.status_code == 409:
            known["again"] = told.headers.get("x-should-retry") != "false"
        replayed = told.headers.get("Idempotent-Replayed") == "true"
        return Answer(time.time(), told.status_code, known, replayed)

    async def read(self, dialogue_id: UUID) -> None:
        """One of the queries that concern a dialogue."""
        path = self._rng.choice([f"/{dialogue_id}", f"/{dialogue_id}/messages", ""])
        try:
            status = (await self._http.get(f"/v1/dialogues{path}")).status_code
        except httpx.TransportError:
            status = 0
        self._crowd.told.queries.append(Query(time.time(), path, status))

    async def follow(self, stream: Stream) -> None:
        """To its end, over as many connections as it takes; now and then it hangs up by itself."""
        path = f"/v1/dialogues/{stream.dialogue_id}/stream"
        params = {"message_id": str(stream.message_id)} if stream.message_id else {}
        while not stream.over:
            headers = {"Last-Event-ID": stream.mark} if stream.mark else {}
            leaves = self._rng.randrange(1, 12) if self._rng.random() < 0.15 else None
            try:
                async with self._http.stream(
                    "GET", path, params=params, headers=headers, timeout=_BEAT
                ) as told:
                    if told.status_code == 200:
                        stream.connections += 1
                        await self._listen(stream, told, leaves)
                    else:
                        stream.refused.append(told.status_code)
            except httpx.TransportError:
                pass
            if not stream.over:
                await asyncio.sleep(self._rng.uniform(0.1, 0.6))

    async def _listen(self, stream: Stream, told: httpx.Response, leaves: int | None) -> None:
        id_ = type_ = ""
        async for line in told.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                id_ = value
            elif name == "event":
                type_ = value
            elif not line:  # as browsers do: an id counts once its block is whole, with an event or without
                stream.mark = id_ or stream.mark
                stream.since = stream.since or time.time()
            elif name == "data":
                stream.events.append(Heard(time.time(), type_, json.loads(value)))
                stream.mark = id_
                self._crowd.heard(stream)
                leaves = leaves - 1 if leaves else leaves
                if stream.over or leaves == 0:
                    return
