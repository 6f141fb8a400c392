"""R2: Redis emptied in mid-stream, then absent for a minute, then back.

While it is away everything goes on but words as they are written: what is asked then is answered then, every
query is served, and the message that ends each stream arrives.
"""

from __future__ import annotations

import time

import redis

from chaos.moments import reached
from chaos.running import LEASE, RECOVERY, Running, running
from chaos.verdict import Verdict
from chaos.world import World

DONE = "Redis emptied, then absent for a minute, while 20 clients write, read and listen"
SOON = LEASE + RECOVERY
"""Seconds that an answer may take at most, as ever; there is no part to wait for."""


def run(world: World, verdict: Verdict) -> None:
    """In the short version it is away for 6 s."""
    with running(world) as here:
        for _ in range(2 if world.short else 10):
            with reached("in mid-stream", here.crowd, world, here.database_url):
                with redis.Redis.from_url(world.redis_url) as link:
                    link.flushall()
                here.tell("emptied Redis")
            here.recovers(time.monotonic(), SOON, verdict, "Redis was emptied")
        _absent(here, 6.0 if world.short else 60.0, verdict)
        heard = here.crowd.wait_for("word", 20, SOON)
        verdict.check(heard, "Redis is back, and nothing is heard word by word")
        here.judge(verdict)


def _absent(here: Running, seconds: float, verdict: Verdict) -> None:
    """What is told meanwhile: commands done, queries served, replies ended."""
    with reached("in mid-stream", here.crowd, here.world, here.database_url):
        here.breaking.kill("Redis")
        here.tell("killed Redis")
    began, until = time.time(), time.monotonic() + seconds
    while time.monotonic() < until - seconds / 3:  # what is asked in the last third may end afterwards
        here.recovers(time.monotonic(), SOON, verdict, "without Redis")
    time.sleep(max(0.0, until - time.monotonic()))
    ended = time.time()
    here.breaking.back("Redis")
    here.tell("Redis is back")
    told = here.crowd.told
    answers = [a for request in told.requests for a in request.answers if began < a.at < ended]
    queries = [query for query in told.queries if began < query.at < ended]
    away = [answer.status for answer in answers if not answer.done and answer.status != 409]
    verdict.check(not away, f"commands were answered with {away} without Redis")
    missed = [query for query in queries if query.status != 200]
    verdict.check(not missed, f"queries were answered with {missed} without Redis")
    verdict.counts["commands without Redis"] = sum(answer.done for answer in answers)
    verdict.counts["queries without Redis"] = len(queries)
    verdict.check(bool(answers and queries), "nothing was asked without Redis")
