"""P5: the first word of an answer through bichat, beside the same client straight at the model server.

Nobody else is there: one question at a time, each in a dialogue of its own, the two ways by turns. What
counts is how much later the first word comes than it would without bichat.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from bench.line import Line, Rounds
from bench.listener import EVENT_STREAM, Listener
from bench.place import Place
from bench.stack import scripted_model, stack

ROUNDS, TIMES, WARM = 5, 16, 10
REST = 0.05
"""Seconds between two questions: everybody is idle again."""
TARGET = 20.0
MODEL = "gpt-4o-mini"
QUESTION = "Which region sold most of the new line in the second quarter, and by how much?"
ANSWER = "The north sold most of it, a fifth more than the south, and that mainly in the very last month."
FIRST = ANSWER.partition(" ")[0].encode()

Ask = Callable[[], Awaitable[float]]


def measure(place: Place) -> Line:
    """`ours` is what bichat adds, the yardstick what the model takes; the ratio is that of the wholes."""
    with (
        scripted_model({MODEL: ANSWER}, chunk_delay_ms=5) as model_url,
        place.database() as url,
        stack(url, place.redis_url, model_url, place.scratch / "first_word") as made,
    ):
        made.up()
        ours, straight = asyncio.run(_rounds(made.url, made.headers(), model_url))
    added = Rounds([statistics.median(a) - statistics.median(b) for a, b in zip(ours, straight, strict=True)])
    alone = Rounds([statistics.median(times) for times in straight])
    through = statistics.median(statistics.median(times) for times in ours)
    return Line(
        id="P5", work="first word through bichat, idle: added to the model's own", unit="ms",
        ours=added.median, spread=added.spread, yardstick=alone.median, yardstick_spread=alone.spread,
        ratio=through / alone.median, target="≤ 20 ms more, p50", met=added.median <= TARGET,
        notes=[
            f"first word through bichat {_percentiles(ours)}; straight {_percentiles(straight)}"
            f" ({ROUNDS} x {TIMES} questions each way, one at a time)"
        ],
    )  # fmt: skip


async def _rounds(
    url: str, headers: dict[str, str], model_url: str
) -> tuple[list[list[float]], list[list[float]]]:
    bichat, model = Listener(url, headers | EVENT_STREAM), Listener(model_url, {"Authorization": "Bearer x"})
    asked = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}

    async def through() -> float:
        return await first_word(bichat, "/v1/dialogues", {"message": QUESTION}, b"event: reply.delta")

    async def straight() -> float:
        return await first_word(model, "/chat/completions", asked, FIRST)

    ways: tuple[Ask, Ask] = (through, straight)
    try:
        for _ in range(WARM):
            await _both(ways)
        rounds = [[await _both(ways) for _ in range(TIMES)] for _ in range(ROUNDS)]
    finally:
        bichat.close()
        model.close()
    return [[a for a, _ in pairs] for pairs in rounds], [[b for _, b in pairs] for pairs in rounds]


async def _both(ways: tuple[Ask, Ask]) -> tuple[float, float]:
    took = []
    for ask in ways:
        took.append(await ask())
        await asyncio.sleep(REST)
    return took[0], took[1]


async def first_word(listener: Listener, path: str, data: object, word: bytes) -> float:
    """Milliseconds until `word`; hears the rest as well."""
    began, took, heard = time.perf_counter(), 0.0, b""
    async for piece in listener.post(path, data):
        heard += piece
        if not took and word in heard:
            took = 1000 * (time.perf_counter() - began)
    if not took:
        raise RuntimeError(f"no word came: {heard[-300:]!r}")
    return took


def _percentiles(rounds: list[list[float]]) -> str:
    times = sorted(time for times in rounds for time in times)
    return f"p50 {statistics.median(times):.1f} ms, p95 {times[int(0.95 * len(times))]:.1f} ms"
