"""P2: messages posted over HTTP while read models and a worker run, beside a bare route with one INSERT."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psycopg

from bench import bare, crowd
from bench.busy import Busy
from bench.crowd import Crowd, Target, Told
from bench.line import Line, Rounds, compared
from bench.place import Place
from bench.stack import Stack, free_port, scripted_model, stack

USERS, DIALOGUES = 20, 500
ROUNDS, SECONDS, WARM_UP = 3, 6.0, 3.0
ANSWER = "North sold most of it, by a fifth more than South, and West came last as in every week of the year."
WORD = 50
"""Milliseconds between two words of the model: a quick one."""
TARGET = 0.8


class Talk:
    """A bichat in which people have begun to talk."""

    def __init__(self, bichat: Stack, database_url: str, targets: list[Target]) -> None:
        self.bichat, self.database_url, self.targets = bichat, database_url, targets
        self._workers = itertools.count()

    def post(self, seconds: float, *, rate: float = 0.0, once: bool = False) -> Told:
        """People post, as fast as they are answered or at a rate."""
        return crowd.run(Crowd(self.bichat.port, self.targets, seconds, WARM_UP, rate=rate, once=once))

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Somebody answers; whoever measures something else next has the machine for himself."""
        name = f"worker {next(self._workers)}"
        self.bichat.start(name, "worker")
        try:
            yield
        finally:
            self.bichat.processes[name].terminate()
            self.bichat.processes[name].wait(12)
            self.caught_up()

    def answers(self) -> int:
        """Replies in the log."""
        with psycopg.connect(self.database_url) as connection:
            query = "select count(*) from bichat.stored_events where topic = 'MessageAdded' and actor is null"
            [found] = connection.execute(query).fetchone() or (0,)
            return int(found)

    def caught_up(self) -> None:
        """Returns when the read models have what the log has."""
        query = "select min(position) >= %s from bichat.checkpoints"
        deadline = time.monotonic() + 30
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            head = connection.execute("select bichat.head()").fetchone()
            while connection.execute(query, head).fetchone() != (True,):
                if time.monotonic() > deadline:
                    raise TimeoutError("the read models are still behind")
                time.sleep(0.1)


@contextmanager
def talk(place: Place, database_url: str) -> Iterator[Talk]:
    """A bichat without a worker, and in it dialogues of several people."""
    logs = place.scratch / "posting"
    with (
        scripted_model({"gpt-4o-mini": ANSWER}, WORD) as model,
        stack(database_url, place.redis_url, model, logs) as bichat,
    ):
        bichat.up(workers=0)
        people = [bichat.headers(f"user {n}") for n in range(USERS)]

        def begin(headers: dict[str, str]) -> Target:
            answer = client.post("/v1/dialogues", json={"message": "Good morning"}, headers=headers)
            found = answer.raise_for_status().json()["dialogue_id"]
            return Target(f"/v1/dialogues/{found}/messages", headers)

        with httpx.Client(base_url=bichat.url, timeout=30) as client, ThreadPoolExecutor(8) as pool:
            everybody = itertools.islice(itertools.cycle(people), DIALOGUES)
            yield Talk(bichat, database_url, list(pool.map(begin, everybody)))


@contextmanager
def bare_route(database_url: str) -> Iterator[int]:
    """The yardstick, by its port; it takes its row from the log, which has one by now."""
    with psycopg.connect(database_url) as connection:
        connection.execute(bare.TABLE)
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.bare", str(port), database_url])
    try:
        deadline = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(12)


def measure(place: Place) -> Line:
    """The line."""
    ours, yardstick, replies = [], [], []
    with place.database() as url, talk(place, url) as here:
        with here.worker():
            here.post(1.0)  # everybody warms up
        with bare_route(url) as port:
            for number in range(ROUNDS):
                with here.worker():
                    before = here.answers()
                    with Busy.of(here.bichat) as busy:
                        ours.append(here.post(SECONDS))
                    replies.append((here.answers() - before) / (SECONDS + WARM_UP))
                yardstick.append(crowd.run(Crowd(port, here.targets, SECONDS)))
                place.say(
                    f"round {number + 1}: {ours[-1].rate:,.0f}/s, a bare route {yardstick[-1].rate:,.0f}/s"
                )
        with here.worker():
            once = here.post(SECONDS, once=True)
    rates = compared(Rounds([one.rate for one in ours]), Rounds([one.rate for one in yardstick]))
    refused = [f"{name}: {n}" for one in (*ours, *yardstick, once) for name, n in one.refused.items()]
    milliseconds = [Rounds(column).median for column in zip(*(one.milliseconds for one in ours), strict=True)]
    return Line(
        id="P2", work="messages posted over HTTP", unit="/s", target=f"≥ {TARGET}",
        met=rates["ratio"] >= TARGET and not refused and min(replies) > 0, **rates,
        notes=[
            f"answered in {milliseconds[0]:.0f} ms (p50), {milliseconds[1]:.0f} ms (p99), at 64 connections;"
            f" the worker added {Rounds(replies).median:.0f} replies/s",
            f"each with an Idempotency-Key: {once.rate:,.0f}/s",
            busy.told(),
            f"refused: {', '.join(refused) if refused else 'none'}",
        ],
    )  # fmt: skip
