"""P6: whole turns, 32 clients at once: asked, streamed word by word, committed, visible; and the model alone.

A client asks its next question, in the same dialogue, as soon as it has heard that the answer is committed
and can be read. The yardstick: as many clients straight at the model server, which keeps nothing.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

from msgspec import Struct, field

from bench.first_word import ANSWER, MODEL, QUESTION
from bench.line import Line, Rounds
from bench.listener import EVENT_STREAM, Listener
from bench.place import Place
from bench.stack import scripted_model, stack

CLIENTS, ROUNDS, SECONDS = 32, 3, 5.0
WORKERS = 2
"""Worker processes in the second set-up."""
PEERS = "peers on 2 cores: 18-21 /s persisted, 49 /s not persisted"

Ask = Callable[[Listener, str], AsyncIterator[bytes]]
"""Asks in the dialogue of that id, or a new one if it is empty."""


class Round(Struct):
    """What the turns of some seconds came to."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    """Milliseconds of each turn that ended well."""
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Turns per second."""
        return len(self.took) / self.seconds


def measure(place: Place) -> Line:
    """Turns per second with one worker process; with more, and how long a turn takes, in the notes."""
    with (
        scripted_model({MODEL: ANSWER}, chunk_delay_ms=0) as model_url,
        place.database() as url,
        stack(url, place.redis_url, model_url, place.scratch / "turns") as made,
    ):
        made.up()
        through = _at(made.url, made.headers() | EVENT_STREAM, _bichat, b"event: reply.completed")
        straight = _at(model_url, {"Authorization": "Bearer x"}, _model, b"data: [DONE]")
        through(1.0), straight(1.0)  # everybody warms up
        pairs = [(through(SECONDS), straight(SECONDS)) for _ in range(ROUNDS)]
        for n in range(1, WORKERS):
            made.start(f"worker {n}", "worker")
        through(5.0)  # they start meanwhile
        more = [through(SECONDS) for _ in range(ROUNDS)]
    return _line([ours for ours, _ in pairs], [alone for _, alone in pairs], more)


def _line(ours: list[Round], alone: list[Round], more: list[Round]) -> Line:
    rates, yardstick = (Rounds([one.rate for one in rounds]) for rounds in (ours, alone))
    wrong = sum((one.wrong for one in (*ours, *alone, *more)), Counter[str]())
    return Line(
        id="P6", work=f"whole turns, {CLIENTS} clients, 1 worker process", unit="/s",
        ours=rates.median, spread=rates.spread, yardstick=yardstick.median,
        yardstick_spread=yardstick.spread, ratio=rates.median / yardstick.median,
        target="reported", met=not wrong,
        notes=[
            f"with {WORKERS} worker processes {Rounds([one.rate for one in more]).median:.0f} /s; {PEERS}",
            f"a turn takes {_percentiles(ours)}; with {WORKERS} worker processes {_percentiles(more)};"
            f" the model alone {_percentiles(alone)}",
            f"turns that did not end well: {dict(wrong) or 'none'}",
        ],
    )  # fmt: skip


def _at(url: str, headers: dict[str, str], ask: Ask, end: bytes) -> Callable[[float], Round]:
    """Rounds of so many seconds at `url`; a turn that has ended well ends in `end`."""

    async def client(found: Round, until: float) -> None:
        listener, dialogue_id = Listener(url, headers), ""
        try:
            while (began := time.perf_counter()) < until:
                heard = b"".join([piece async for piece in ask(listener, dialogue_id)])
                if end not in heard:
                    found.wrong[heard[-100:].decode(errors="replace")] += 1
                elif (now := time.perf_counter()) < until:
                    found.took.append(1000 * (now - began))
                if told := re.search(rb'"dialogue_id":"([^"]+)"', heard):
                    dialogue_id = told[1].decode()
        finally:
            listener.close()

    async def clients(seconds: float) -> Round:
        found, until = Round(seconds=seconds), time.perf_counter() + seconds
        await asyncio.gather(*(client(found, until) for _ in range(CLIENTS)))
        return found

    return lambda seconds: asyncio.run(clients(seconds))


def _bichat(listener: Listener, dialogue_id: str) -> AsyncIterator[bytes]:
    if dialogue_id:
        return listener.post(f"/v1/dialogues/{dialogue_id}/messages", {"content": QUESTION})
    return listener.post("/v1/dialogues", {"message": QUESTION})


def _model(listener: Listener, _: str) -> AsyncIterator[bytes]:
    asked = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    return listener.post("/chat/completions", asked)


def _percentiles(rounds: list[Round]) -> str:
    times = sorted(time for one in rounds for time in one.took)
    return f"p50 {statistics.median(times):.0f} ms, p95 {times[int(0.95 * len(times))]:.0f} ms"
