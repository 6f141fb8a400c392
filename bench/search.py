"""How well search finds: recall on the labelled set, by words, by meaning, and both merged.

    python -m bench.search [--model NAME --base-url URL]

Of each query one message is the right one; recall at 5 is how often it is among the first five, and `ms`
the median time of a search. Brings its own servers, in a directory that goes away.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import click
from tabulate import tabulate
from uuid_utils.compat import uuid7

from bench.labelled import MESSAGES, QUERIES
from bichat import wiring
from bichat.commands.dialogue import NewMessage, StartDialogue
from bichat.commands.execute import Executor
from bichat.config import Config
from bichat.embedded import owned
from bichat.errors import NotSimilar
from bichat.events.dialogue import Asked
from bichat.events.envelope import Actor, Metadata
from bichat.events.feed import Feed
from bichat.model.embedders import Embedders
from bichat.projections import search, vectors
from bichat.projections.finding import Search
from bichat.projections.reads import Reads
from bichat.wiring import opened
from bichat.workers import embed, project
from bichat.workers.beside import beside

USER = "anna"
Ask = Callable[[str], Awaitable[list[str]]]


@click.command()
@click.option("--model", help="At BASE_URL; else the local one.")
@click.option("--base-url", default="http://127.0.0.1:9/v1")
def main(model: str | None, base_url: str) -> None:
    """Says, embeds, asks, and prints a table."""
    with tempfile.TemporaryDirectory(prefix="bichat-bench-") as directory, ExitStack() as stack:
        given = Config(
            bichat_data_dir=Path(directory) / "data", openai_base_url=base_url, bichat_embedding_model=model,
            bichat_master_key=bytes(32),
        )  # fmt: skip
        config = stack.enter_context(owned(given)).config
        wiring.migrate(config)
        ledger = stack.enter_context(opened.log(config))
        doorbell = stack.enter_context(opened.doorbell(config))
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        stack.callback(executor.close)
        stop, feed = threading.Event(), Feed(ledger.keys)
        url = config.database_url or ""
        stack.enter_context(beside("projector", partial(project.run, url, feed, doorbell, stop), stop))
        stack.enter_context(beside("embeddings", partial(embed.run, config, feed, stop), stop))
        asyncio.run(_measured(config, executor))


async def _measured(config: Config, executor: Executor) -> None:
    tenant = uuid4()
    began = time.perf_counter()
    for text in MESSAGES:
        question = NewMessage(message_id=uuid7(), role="user", content=text, asks=Asked())
        command = StartDialogue(dialogue_id=uuid7(), user_id=USER, messages=(question,), label="")
        by = Metadata(tenant_id=tenant, actor=Actor("user", USER), command_id=uuid7())
        await executor.execute(command, by)
    reads = Reads(config.database_url or "")
    await reads.open()
    searching = Search(reads, Embedders(config))
    await _embedded(reads, tenant)
    print(f"{len(MESSAGES)} messages can be found after {time.perf_counter() - began:.1f} s")
    await reads.caught_up("transcripts", await reads.head())

    async def merged(query: str) -> list[str]:
        found = await searching.find(tenant, USER, text=query)
        assert found.similar, found.why
        return [hit.message.content or "" for hit in found.hits]

    async def meaning(query: str) -> list[str]:
        made = await searching.embed(query)
        found = await searching.find(tenant, USER, embedding=made.vector)
        return [hit.message.content or "" for hit in found.hits]

    async def words(query: str) -> list[str]:
        who = {"tenant_id": tenant, "user_id": USER, "limit": 10}
        async with reads.tenant(tenant) as connection:
            places = await search.matching(connection, who, query)
            said = await search.said(connection, tenant, places)
        return [said[place.message_id].content or "" for place in places]

    ways = {"words": words, "meaning": meaning, "merged": merged}
    table = [[name, *await _recall(ask)] for name, ask in ways.items()]
    print(tabulate(table, headers=["", "recall@1", "recall@5", "ms"], floatfmt=".2f"))
    await searching.close()
    await reads.close()


async def _embedded(reads: Reads, tenant: UUID) -> None:
    """Waits until every message has its vector."""
    while True:
        with suppress(NotSimilar):
            async with reads.tenant(tenant) as connection:
                table = (await vectors.serving(connection)).store.table
                found = await (await connection.execute(f"select count(*) from {table}".encode())).fetchone()
                if found == (len(MESSAGES),):
                    return
        await asyncio.sleep(0.1)


async def _recall(ask: Ask) -> list[float]:
    ranks, times = [], []
    for query, right in QUERIES:
        began = time.perf_counter()
        found = await ask(query)
        times.append((time.perf_counter() - began) * 1e3)
        ranks.append(found.index(MESSAGES[right]) if MESSAGES[right] in found else 99)
    best = [sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5)]
    return [*best, statistics.median(times)]


if __name__ == "__main__":
    main()
