"""200 dialogues from 20 clients while the worker is killed (-9) every 2 s: what became of every question.

    python bench/killed_workers.py --database-url postgresql://…/scratch --redis-url redis://…

Each question names a model of its own, and llmock gives each model an answer of its own, word by word, so
that an answer shows which question it was given to.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import httpx

from bench.stack import Stack, scripted_model, stack
from bichat.events.dialogue import MessageAdded, ReplyFailed
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger

WORDS = "the sales went well in this region over the last two quarters of the year, so they"
ENDS = ("reply.completed", "reply.failed", "reply.cancelled")


async def ask(client: httpx.AsyncClient, headers: dict[str, str], number: int) -> dict[str, Any]:
    """Asks one question in a dialogue of its own and follows its stream to the end."""
    body = {"message": f"How did the sales of region {number} go?", "model": model_of(number)}
    told = await client.post("/v1/dialogues", json=body, headers=headers)
    told.raise_for_status()
    accepted: dict[str, Any] = told.json()
    path = f"/v1/dialogues/{accepted['dialogue_id']}/stream"
    last, words, event = "", "", ""
    while event not in ENDS:
        follow = {**headers, **({"Last-Event-ID": last} if last else {})}
        params = {"message_id": accepted["message_id"]}
        try:
            async with client.stream("GET", path, headers=follow, params=params) as response:
                async for line in response.aiter_lines():
                    name, _, value = line.partition(": ")
                    if name == "id":
                        last = value
                    elif name == "event":
                        event = value
                        words = "" if event in ("reply.superseded", "reply.started") else words
                    elif name == "data" and event == "reply.delta":
                        words += json.loads(value)["text"]
        except httpx.TransportError:
            await asyncio.sleep(0.2)
    return {**accepted, "question": body["message"], "due": answer(number), "streamed": words}


def model_of(number: int) -> str:
    """The model that question `number` names."""
    return f"model-{number:04d}"


def answer(number: int) -> str:
    """What that model answers."""
    return f"Of region {number:04d}: {WORDS} say of region {number:04d}."


async def killer(bichat: Stack, every: float, workers: int) -> int:
    """Kills a worker and starts another, again and again."""
    kills = 0
    try:
        while True:
            await asyncio.sleep(every)
            name = f"worker {kills % workers}"
            bichat.kill(name)
            bichat.start(name, "worker")
            kills += 1
    except asyncio.CancelledError:
        return kills


async def run(
    bichat: Stack, dialogues: int, clients: int, every: float, workers: int
) -> tuple[list[dict[str, Any]], int]:
    numbers = iter(range(dialogues))
    told: list[dict[str, Any]] = []
    killing = asyncio.create_task(killer(bichat, every, workers))

    async def one(user: str) -> None:
        async with httpx.AsyncClient(base_url=bichat.url, timeout=120) as client:
            for number in numbers:
                told.append(await ask(client, bichat.headers(user), number))

    await asyncio.gather(*(one(f"u{n}") for n in range(clients)))
    killing.cancel()
    return told, await killing


def judge(database_url: str, told: list[dict[str, Any]]) -> Counter[str]:
    """What the log says of each acknowledged question."""
    keys = KeyStore(database_url, bytes(32))
    keys.unlock()
    ledger = Ledger(database_url, keys)
    found: Counter[str] = Counter(acknowledged=len(told))
    for one in told:
        facts = [event.fact for event in ledger.read(UUID(one["dialogue_id"]))]
        asked = [f for f in facts if isinstance(f, MessageAdded) and f.asks]
        answers = [f for f in facts if isinstance(f, MessageAdded) and f.answers]
        failures = [f for f in facts if isinstance(f, ReplyFailed) and f.final]
        found["lost"] += [f.content for f in asked] != [one["question"]] or not (answers or failures)
        found["answered"] += len(answers) == 1
        found["failed for good"] += len(failures)
        found["answered twice"] += len(answers) > 1
        found["attempts"] += sum(type(f).__name__ == "ReplyStarted" for f in facts)
        for answer in answers:
            text = answer.content or ""
            found["answered with another question's answer"] += one["due"][:15] not in text
            found["text doubled or cut"] += text != one["due"]
            found["streamed words differ from the answer"] += (
                bool(one["streamed"]) and one["streamed"] != text
            )
    ledger.close()
    keys.close()
    return found


@click.command(help=__doc__)
@click.option("--database-url", required=True)
@click.option("--redis-url", required=True)
@click.option("--dialogues", default=200, show_default=True)
@click.option("--clients", default=20, show_default=True)
@click.option("--every", default=2.0, show_default=True, help="Seconds between two kills.")
@click.option("--workers", default=1, show_default=True, help="Killed in turn.")
@click.option("--word", default=10, show_default=True, help="Milliseconds between two words.")
def main(  # noqa: PLR0917 - options
    database_url: str, redis_url: str, dialogues: int, clients: int, every: float, workers: int, word: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as logs,
        scripted_model({model_of(n): answer(n) for n in range(dialogues)}, chunk_delay_ms=word) as model_url,
        stack(database_url, redis_url, model_url, Path(logs)) as bichat,
    ):
        bichat.up(workers=workers)
        started = time.monotonic()
        told, kills = asyncio.run(run(bichat, dialogues, clients, every, workers))
        took = time.monotonic() - started
        found = judge(database_url, told)
    click.echo(f"{'seconds':>42} {took:8.1f}\n{'workers killed':>42} {kills:8}")
    for what in ("acknowledged", "answered", "failed for good", "answered twice",
                 "answered with another question's answer", "lost", "text doubled or cut",
                 "streamed words differ from the answer", "attempts"):  # fmt: skip
        click.echo(f"{what:>42} {found[what]:8}")


if __name__ == "__main__":
    main()
