"""A steady load on an API, from a process of its own: so many requests a second, however late the answers."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection as Pipe
from random import Random
from typing import Any

import httpx
from msgspec import Struct


class Dialogue(Struct, frozen=True):
    """A dialogue to read and rename, and what its owner sends to be let in."""

    id: str
    headers: dict[str, str]


class Sample(Struct, frozen=True):
    """One request: when it was due, by `time.monotonic` of this machine, and how many ms the answer took."""

    at: float
    ms: float
    kind: str
    error: str = ""


class Load:
    """Sends requests for as long as it is entered; then `samples` says what became of each."""

    def __init__(self, url: str, dialogues: list[Dialogue], rate: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.samples: list[Sample] = []
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(url, dialogues, rate, theirs), daemon=True)

    def __enter__(self) -> Load:
        """Returns when the first request is under way."""
        self._process.start()
        self._ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the answers that are still to come."""
        self._ours.send("stop")
        self.samples = self._ours.recv()
        self._process.join()


def percentile(samples: list[Sample], percent: int) -> float:
    """Of the answers' times in ms."""
    return statistics.quantiles((s.ms for s in samples), n=100)[percent - 1]


def _run(url: str, dialogues: list[Dialogue], rate: float, pipe: Pipe[Any, Any]) -> None:
    asyncio.run(_send(url, dialogues, rate, pipe))


async def _send(url: str, dialogues: list[Dialogue], rate: float, pipe: Pipe[Any, Any]) -> None:
    rng, samples, tasks = Random(1), list[Sample](), set[asyncio.Task[None]]()
    async with httpx.AsyncClient(
        base_url=url, timeout=30, limits=httpx.Limits(max_connections=200)
    ) as client:
        due = time.monotonic()
        pipe.send("started")
        while not pipe.poll():
            request = _request(client, rng, rng.choice(dialogues), due, samples)
            tasks = {task for task in tasks if not task.done()} | {asyncio.create_task(request)}
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)
    pipe.send(samples)


async def _request(
    client: httpx.AsyncClient, rng: Random, dialogue: Dialogue, due: float, samples: list[Sample]
) -> None:
    path, error = f"/v1/dialogues/{dialogue.id}", ""
    (kind,) = rng.choices(("list", "dialogue", "command"), (45, 45, 10))
    try:
        if kind == "command":
            body = {"label": f"Label {rng.randrange(1000)}"}
            response = await client.patch(path, json=body, headers=dialogue.headers)
        else:
            response = await client.get("/v1/dialogues" if kind == "list" else path, headers=dialogue.headers)
        if response.status_code >= 400:
            error = f"{kind}: {response.status_code} {response.text[:100]}"
    except httpx.HTTPError as failed:
        error = f"{kind}: {type(failed).__name__}"
    samples.append(Sample(due, (time.monotonic() - due) * 1000, kind, error))
