"""What a long dialogue costs: adding a message and reading the newest page at 10 and at 20,000 messages.

    python bench/growth.py --database-url postgresql://…/scratch --redis-url redis://…

Over HTTP, through an API process and a projector of its own; nothing answers the questions.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click
import httpx

from bench.stack import stack

TEXT = "Which region sold most of the new line in the second quarter, and by how much?"
ASKED, AT_ONCE = 200, 100


def timed(call: object, times: int) -> list[float]:
    """Milliseconds of each call."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()  # type: ignore[operator]
        took.append((time.perf_counter() - started) * 1000)
    return took


@click.command(help=__doc__)
@click.option("--database-url", required=True)
@click.option("--redis-url", required=True)
@click.option("--messages", default=20_000, show_default=True)
def main(database_url: str, redis_url: str, messages: int) -> None:
    with (
        tempfile.TemporaryDirectory() as logs,
        stack(database_url, redis_url, "http://127.0.0.1:9/v1", Path(logs)) as bichat,
        httpx.Client(base_url=bichat.url, headers=bichat.headers(), timeout=30) as client,
    ):
        bichat.up(workers=0)

        def checked(response: httpx.Response) -> httpx.Response:
            response.raise_for_status()
            return response

        def new(size: int) -> str:
            path = checked(client.post("/v1/dialogues", json={"message": TEXT})).json()["dialogue_id"]
            path = f"/v1/dialogues/{path}"
            left = size - 1
            while left > 0:
                some = [{"role": "user", "content": TEXT}] * min(AT_ONCE, left)
                told = checked(client.post(f"{path}/messages", json={"messages": some})).json()
                left -= len(some)
            checked(client.get(path, params={"min_version": told["version"]}))
            return path

        def measure(path: str) -> tuple[list[float], list[float]]:
            add = timed(lambda: checked(client.post(f"{path}/messages", json={"content": TEXT})), ASKED)
            page = timed(lambda: checked(client.get(path)), ASKED)
            return add, page

        measure(new(10))  # everybody warms up
        started = time.monotonic()
        long = new(messages)
        click.echo(f"grown to {messages:,} messages in {time.monotonic() - started:.1f} s")
        found = {10: measure(new(10)), messages: measure(long)}
        click.echo(
            f"{'messages':>10} {'AddMessage p50':>16} {'p99':>8} {'newest page p50':>17} {'p99':>8}   (ms)"
        )
        for size, (add, page) in found.items():
            figures = [statistics.median(add), sorted(add)[-2], statistics.median(page), sorted(page)[-2]]
            click.echo(
                f"{size:>10,} {figures[0]:>16.2f} {figures[1]:>8.2f} {figures[2]:>17.2f} {figures[3]:>8.2f}"
            )
        short, long_ = found[10], found[messages]
        ratios = [statistics.median(b) / statistics.median(a) for a, b in zip(short, long_, strict=True)]
        click.echo(f"ratio of the medians: AddMessage {ratios[0]:.2f}, newest page {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
