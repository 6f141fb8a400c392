"""One client: asks, adds, renames, cancels, asks again, and follows what comes of it, whatever breaks."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chaos import script
from chaos.told import Answer, Request, Stream
from chaos.wire import Wire

if TYPE_CHECKING:
    from chaos.crowd import Crowd

OPEN = 2
"""Questions that a client waits for at a time."""


class Client:
    """One person; what it does next is decided by its own share of the seed."""

    def __init__(self, crowd: Crowd, number: int, headers: dict[str, str]) -> None:
        self._crowd, self._who = crowd, f"user {number}"
        self._rng = Random(f"{crowd.seed} {number}")
        self._wire = Wire(crowd, self._rng, headers)
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
        await self._wire.close()

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
            await self._wire.read(self._rng.choice(self._dialogues))
        elif len(self._asked) < OPEN:
            await self._ask()

    async def _ask(self) -> None:
        number = self._crowd.number()
        refused = self._rng.random() < 0.05
        old = self._rng.choice(self._dialogues) if self._dialogues and self._rng.random() < 0.7 else None
        text, settings = script.question(number), {"model": script.model(number, refused=refused)}
        if old:
            request = Request(key=self._key(), who=self._who, doing="add", text=text)
            told = await self._wire.send(request, "POST", f"/{old}/messages", {"content": text, **settings})
        else:
            request = Request(key=self._key(), who=self._who, doing="start", text=text)
            told = await self._wire.send(request, "POST", "", {"message": text, **settings})
        if told.done:
            dialogue_id, message_id = UUID(told.body["dialogue_id"]), UUID(told.body["message_id"])
            self._asked[message_id] = dialogue_id
            self._crowd.saw("accepted", message_id)
            self._start(self._follow_reply(dialogue_id, message_id))
            if not old:
                self._dialogues.append(dialogue_id)
                if len(self._dialogues) == 1:
                    self._start(self._wire.follow(self._stream(dialogue_id)))

    async def _rename(self, dialogue_id: UUID) -> None:
        label = f"{self._who}, label {self._sent}"
        request = Request(key=self._key(), who=self._who, doing="rename", text=label)
        await self._wire.send(request, "PATCH", f"/{dialogue_id}", {"label": label})

    async def _cancel(self, message_id: UUID, dialogue_id: UUID) -> None:
        await self._change("cancel", message_id, dialogue_id)

    async def _retry(self, message_id: UUID, dialogue_id: UUID) -> None:
        if (await self._change("retry", message_id, dialogue_id)).done:
            self._asked[message_id] = dialogue_id
            self._crowd.saw("accepted", message_id)
            self._start(self._follow_reply(dialogue_id, message_id))

    async def _change(self, verb: Any, message_id: UUID, dialogue_id: UUID) -> Answer:
        request = Request(key=self._key(), who=self._who, doing=verb, message_id=message_id)
        return await self._wire.send(request, "POST", f"/{dialogue_id}/messages/{message_id}/{verb}", None)

    def _key(self) -> str:
        self._sent += 1
        return f"{self._who}, request {self._sent}"

    # --- streams ----------------------------------------------------------------------------------

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
        await self._wire.follow(stream)
        del self._asked[message_id]
        if stream.events[-1].type != "reply.completed":
            self._ended[message_id] = dialogue_id
        self._crowd.saw("ended", message_id)
