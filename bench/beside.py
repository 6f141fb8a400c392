"""50 requests a second, first with nothing beside them, then beside a rebuild of all read models.

    python -m bench.beside --events 1000000

Three of five read (a dialogue, a list), two add a message to a dialogue of the history: an API, a projector,
no worker, and each request in its turn, whether or not those before were answered. The rebuild is
`bichat projections rebuild --all`, from its start to its end, with the check and the switches.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter
from uuid import UUID

import click
import httpx
import psycopg
from msgspec import Struct, field
from tabulate import tabulate

from bench import history
from bench.place import NO_MODEL, place
from bench.rebuild import rebuilt
from bench.stack import Stack, stack
from bichat.events import schema

RATE, QUIET = 50, 40.0
"""Requests a second; seconds without a rebuild."""
OPEN = "select id, tenant_id, user_id from bichat.dialogues_v1 where state = 'active' order by id limit 5000"


class Told(Struct):
    """What became of the requests: milliseconds from when each was due, and what was wrong."""

    took: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)

    def row(self, name: str) -> tuple[object, ...]:
        """As the table has it."""
        cuts = statistics.quantiles(self.took, n=100)
        shown = (f"{ms:.1f}" for ms in (cuts[49], cuts[94], cuts[98], max(self.took)))
        return (name, len(self.took), self.wrong.total(), *shown)


class Asking:
    """People who ask at a rate, until they are told to stop."""

    def __init__(
        self, client: httpx.AsyncClient, bichat: Stack, dialogues: list[tuple[UUID, UUID, str]]
    ) -> None:
        self._client, self._dialogues = client, dialogues
        self._headers = {who: bichat.headers(who[1], who[0]) for who in {(t, u) for _, t, u in dialogues}}
        self._random = random.Random(1)

    async def during(self, what: asyncio.Task[None]) -> Told:
        """What became of the requests that were sent until `what` was done."""
        told, due, asked = Told(), time.monotonic(), set[asyncio.Task[None]]()
        while not what.done():
            asked.add(asyncio.create_task(self._one(told, due)))
            due += 1 / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*asked)
        what.result()
        return told

    async def _one(self, told: Told, due: float) -> None:
        dialogue_id, tenant_id, user_id = self._random.choice(self._dialogues)
        path, headers = f"/v1/dialogues/{dialogue_id}", self._headers[tenant_id, user_id]
        try:
            match self._random.randrange(5):
                case 0:
                    answer = await self._client.get("/v1/dialogues", headers=headers)
                case 1 | 2:
                    answer = await self._client.get(path, headers=headers)
                case _:
                    body = {"content": "And in the week before?"}
                    answer = await self._client.post(f"{path}/messages", json=body, headers=headers)
            if answer.is_error:
                told.wrong[f"{answer.status_code} {answer.text[:200]}"] += 1
        except httpx.TransportError as error:
            told.wrong[type(error).__name__] += 1
        told.took.append(1000 * (time.monotonic() - due))


async def measured(bichat: Stack, dialogues: list[tuple[UUID, UUID, str]]) -> tuple[Told, Told, str]:
    """Without and with a rebuild, and what that said."""
    said: list[str] = []

    async def rebuild() -> None:
        verb = ("projections", "rebuild", "--all")
        done = await asyncio.to_thread(bichat.verb, *verb, timeout=1800)
        if done.returncode:
            raise RuntimeError(done.stderr)
        said.append(done.stdout)

    async with httpx.AsyncClient(base_url=bichat.url, timeout=30) as client:
        asking = Asking(client, bichat, dialogues)
        await asking.during(asyncio.create_task(asyncio.sleep(5)))  # the first of each are slower
        quiet = await asking.during(asyncio.create_task(asyncio.sleep(QUIET)))
        beside = await asking.during(asyncio.create_task(rebuild()))
    return quiet, beside, said[0]


@click.command(help=__doc__)
@click.option("--events", default=1_000_000, show_default=True)
def main(events: int) -> None:
    with place() as here, here.database() as url, contextlib.ExitStack() as opened:
        made, _ = history.made(url, events)
        with schema.connect(url) as connection:
            connection.prepare_threshold = None
            rebuilt(connection, url)  # much faster than the projector, which would come to all of it too
        with psycopg.connect(url) as connection:
            dialogues = connection.execute(OPEN).fetchall()
        bichat = opened.enter_context(stack(url, here.redis_url, NO_MODEL, here.scratch / "beside"))
        bichat.up(workers=0)
        quiet, beside, said = asyncio.run(measured(bichat, dialogues))
    click.echo(said)
    rows = [quiet.row("without"), beside.row("beside a rebuild")]
    head = [f"{RATE}/s, {made:,} events", "requests", "errors", "p50 ms", "p95 ms", "p99 ms", "longest ms"]
    click.echo(tabulate(rows, headers=head))
    for wrong, times in (quiet.wrong + beside.wrong).most_common(5):
        click.echo(f"{times} x {wrong}")


if __name__ == "__main__":
    main()
