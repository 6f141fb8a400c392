"""One client: asks, adds, renames, cancels, asks again, and follows what comes of it, whatever breaks."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from chaos import script
from chaos.told import Answer, Heard, Query, Request, Stream

if TYPE_CHECKING:
    from chaos.crowd import Crowd

OPEN = 2
"""Questions that a client waits for at a time."""
_BEAT = 20.0
"""Seconds of silence after which a stream is taken for dead: a comment is due every 15."""


class Client:
    """One person with one connection pool; what it does next is decided by its own share of the seed."""

    def __init__(self, crowd: Crowd, number: int, headers: dict[str, str]) -> None:
        self._crowd, self._who = crowd, f"user {number}"
        self._rng = Random(f"{crowd.seed} {number}")
        self._http = httpx.AsyncClient(base_url=crowd.url, headers=headers, timeout=10)
        self._dialogues: list[UUID] = []
        self._asked: dict[UUID, UUID] = {}
        """Questions that are open, and their dialogues."""
        self._ended: dict[UUID, UUID] = {}
        """Questions that failed or were cancelled, and have not been asked again."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent = 0

    async def live(self) -> None:
        """Acts until the crowd stops, then waits until all that was asked has ended."""
        while not self._crowd.stopping:
            await self._act()
            await asyncio.sleep(self._rng.uniform(0, 2 * self._crowd.pause))
        while self._asked:
            await asyncio.wait(self._tasks, timeout=0.1)

    async def leave(self) -> None:
        """Hangs up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    # --- commands ---------------------------------------------------------------------------------

    async def _act(self) -> None:
        chance = self._rng.random()
        if self._ended and chance < 0.3:
            await self._retry(*self._ended.popitem())
        elif self._asked and chance < 0.4:
            await self._cancel(*self._rng.choice(list(self._asked.items())))
        elif self._dialogues and chance < 0.5:
            await self._rename(self._rng.choice(self._dialogues))
        elif self._dialogues and chance < 0.65:
            await self._read(self._rng.choice(self._dialogues))
        elif len(self._asked) < OPEN:
            await self._ask()

    async def _ask(self) -> None:
        number = self._crowd.number()
        refused = self._rng.random() < 0.05
        old = self._rng.choice(self._dialogues) if self._dialogues and self._rng.random() < 0.7 else None
        text, settings = script.question(number), {"model": script.model(number, refused=refused)}
        if old:
            request = Request(key=self._key(), who=self._who, doing="add", text=text)
            told = await self._send(request, "POST", f"/{old}/messages", {"content": text, **settings})
        else:
            request = Request(key=self._key(), who=self._who, doing="start", text=text)
            told = await self._send(request, "POST", "", {"message": text, **settings})
        if told.done:
            dialogue_id, message_id = UUID(told.body["dialogue_id"]), UUID(told.body["message_id"])
            self._asked[message_id] = dialogue_id
            self._crowd.saw("accepted", message_id)
            self._start(self._follow_reply(dialogue_id, message_id))
            if not old:
                self._dialogues.append(dialogue_id)
                if len(self._dialogues) == 1:
                    self._start(self._follow(self._stream(dialogue_id)))

    async def _rename(self, dialogue_id: UUID) -> None:
        label = f"{self._who}, label {self._sent}"
        request = Request(key=self._key(), who=self._who, doing="rename", text=label)
        await self._send(request, "PATCH", f"/{dialogue_id}", {"label": label})

    async def _cancel(self, message_id: UUID, dialogue_id: UUID) -> None:
        await self._change("cancel", message_id, dialogue_id)

    async def _retry(self, message_id: UUID, dialogue_id: UUID) -> None:
        if (await self._change("retry", message_id, dialogue_id)).done:
            self._asked[message_id] = dialogue_id
            self._crowd.saw("accepted", message_id)
            self._start(self._follow_reply(dialogue_id, message_id))

    async def _change(self, verb: Any, message_id: UUID, dialogue_id: UUID) -> Answer:
        request = Request(key=self._key(), who=self._who, doing=verb, message_id=message_id)
        return await self._send(request, "POST", f"/{dialogue_id}/messages/{message_id}/{verb}", None)

    def _key(self) -> str:
        self._sent += 1
        return f"{self._who}, request {self._sent}"

    async def _send(self, request: Request, method: str, path: str, body: Any) -> Answer:
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

    # --- queries and streams ----------------------------------------------------------------------

    async def _read(self, dialogue_id: UUID) -> None:
        path = self._rng.choice([f"/{dialogue_id}", f"/{dialogue_id}/messages", ""])
        try:
            status = (await self._http.get(f"/v1/dialogues{path}")).status_code
        except httpx.TransportError:
            status = 0
        self._crowd.told.queries.append(Query(time.time(), path, status))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._crowd.failed(error)

    def _stream(self, dialogue_id: UUID, message_id: UUID | None = None) -> Stream:
        stream = Stream(who=self._who, dialogue_id=dialogue_id, message_id=message_id)
        self._crowd.told.streams.append(stream)
        return stream

    async def _follow_reply(self, dialogue_id: UUID, message_id: UUID) -> None:
        stream = self._stream(dialogue_id, message_id)
        await self._follow(stream)
        del self._asked[message_id]
        if stream.events[-1].type != "reply.completed":
            self._ended[message_id] = dialogue_id
        self._crowd.saw("ended", message_id)

    async def _follow(self, stream: Stream) -> None:
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
