"""What tests say and hear: questions over HTTP, streams as lists, replies written in the worker's place."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from bichat.chat import parsed
from bichat.commands.reply import CompleteReply, FailReply
from bichat.deltas import Deltas, Said
from tests.api.conftest import Api
from tests.examples import TENANT, USAGE, by_worker, start_reply

Asked = tuple[UUID, UUID]


def ask(client: httpx.Client, message: str = "How much?") -> Asked:
    """A new dialogue; its id and its question's."""
    told = client.post("/v1/dialogues", json={"message": message})
    assert told.status_code == 202, told.text
    return UUID(told.json()["dialogue_id"]), UUID(told.json()["message_id"])


def events(
    client: httpx.Client,
    asked: Asked,
    *,
    whole: bool = False,
    connected: Callable[[], object] = lambda: None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """The events of a question's stream, or of the `whole` dialogue's."""
    params = {**options.pop("params", {}), **({} if whole else {"message_id": str(asked[1])})}
    with client.stream("GET", f"/v1/dialogues/{asked[0]}/stream", params=params, **options) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        connected()
        yield from parsed(response.iter_lines())


class Ear:
    """Hears a stream in a thread of its own, from the moment it is made."""

    def __init__(self, client: httpx.Client, asked: Asked, *, last: str = "", **options: Any) -> None:
        """To the stream's end, or to the first event whose type or state is `last`."""
        self.heard: list[dict[str, Any]] = []
        self._connected, self._last = threading.Event(), last
        self._thread = threading.Thread(target=self._hear, args=(client, asked, options), daemon=True)
        self._thread.start()
        assert self._connected.wait(10)

    def _hear(self, client: httpx.Client, asked: Asked, options: dict[str, Any]) -> None:
        for event in events(client, asked, connected=self._connected.set, **options):
            self.heard.append(event)
            if self._last in (event["type"], event.get("state")):
                return

    def until(self, text: str) -> None:
        """Returns once the newest kind of event, or all words so far, are `text`."""
        deadline = time.monotonic() + 10
        while text not in (kinds(self.heard)[-1:] or [""])[0] and words(self.heard).strip() != text:
            assert time.monotonic() < deadline, self.heard
            time.sleep(0.01)

    def out(self) -> list[dict[str, Any]]:
        """Everything, once it is over."""
        self._thread.join(15)
        assert not self._thread.is_alive(), self.heard
        return self.heard


def kinds(told: list[dict[str, Any]]) -> list[str]:
    """What happened, without the words."""
    return [event["type"].removeprefix("reply.") for event in told if event["type"] != "reply.delta"]


def words(told: list[dict[str, Any]]) -> str:
    """What was heard."""
    return "".join(event["text"] for event in told if event["type"] == "reply.delta")


def write(
    api: Api,
    asked: Asked,
    text: str = "It is a lot.",
    *,
    attempt: int = 1,
    said: int | None = None,
    end: str = "completed",
    tenant: UUID = TENANT,
) -> None:
    """Starts an attempt, says its words (`said` of them) and ends it: completed, failed, again or not."""
    dialogue_id, message_id = asked

    async def reply() -> None:
        deltas = Deltas(api.redis_url)
        await api.executor.execute(start_reply(dialogue_id, message_id, attempt), by_worker(tenant))
        for n, word in enumerate(text.split(" ")[:said], 1):
            await deltas.say(dialogue_id, Said(message_id, attempt, n, word + " "))
        await deltas.close()

    asyncio.run(reply())
    if end != "not":
        finish(api, asked, text, attempt=attempt, end=end, tenant=tenant)


def finish(
    api: Api,
    asked: Asked,
    text: str = "It is a lot.",
    *,
    attempt: int = 1,
    end: str = "completed",
    tenant: UUID = TENANT,
) -> None:
    """Ends an attempt that runs."""
    about = {"dialogue_id": asked[0], "message_id": asked[1], "attempt": attempt, "usage": USAGE}
    command: Any
    if end == "completed":
        command = CompleteReply(**about, answer_id=uuid7(), content=text, model="small", finish_reason="stop")  # type: ignore[arg-type]
    else:
        final = end == "failed"
        command = FailReply(**about, code="model_cut_off", detail="no end", partial=text[:5], final=final)  # type: ignore[arg-type]
    asyncio.run(execute(api, command, tenant))


async def execute(api: Api, command: Any, tenant: UUID = TENANT) -> None:
    """As a worker."""
    await api.executor.execute(command, by_worker(tenant))
