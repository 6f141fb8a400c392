"""A whole bichat with its crowd, as most scenarios want it, and the judgement at their end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from bench.stack import Stack, scripted_model, stack
from chaos import evidence, heard, oracle, script
from chaos.breaking import Breaking
from chaos.crowd import Crowd, clients_of
from chaos.verdict import Verdict
from chaos.world import World

LEASE, RECOVERY = 15.0, 5.0
"""Seconds that a claim lasts, and that all may take beyond it once everything is back."""
WORD = 15
"""Milliseconds between two words of the model: an answer takes a third of a second."""


class Running:
    """What a scenario breaks, and whom it breaks it for."""

    def __init__(self, world: World, bichat: Stack, crowd: Crowd, database_url: str) -> None:
        self.world, self.stack, self.crowd, self.database_url = world, bichat, crowd, database_url
        self.breaking = Breaking(world, bichat)

    def tell(self, what: str, **facts: object) -> None:
        """Something that was done, for the history."""
        self.world.history.tell("chaos", what, **facts)

    def recovers(self, since: float, within: float, verdict: Verdict, what: str) -> float:
        """Seconds until every question that was open has ended and something new was accepted."""
        crowd, open_ = self.crowd, dict(self.crowd.open).items()

        def left() -> list[tuple[UUID, float]]:
            # With its time: a question that ended and was asked again is another one.
            return sorted(open_ & crowd.open.items())

        recovered = crowd.wait_until(lambda: not left() and crowd.accepted_at > since, within)
        took = time.monotonic() - since
        verdict.check(recovered, f"{what}: not recovered {took:.1f} s later, open: {left()[:5]}")
        self.tell(what, recovered=f"{took:.2f} s")
        slowest = verdict.counts["slowest recovery, ms"]
        verdict.counts["slowest recovery, ms"] = max(slowest, round(1000 * took))
        return took

    def judge(self, verdict: Verdict, *, whole: bool = False) -> None:
        """Lets what is open come to its end, then compares everything with everything."""
        settled = self.crowd.stop(LEASE + RECOVERY)
        verdict.check(not self.stack.crashed(), f"parts crashed: {self.stack.crashed()}")
        verdict.check(settled, f"{len(self.crowd.open)} questions had not ended: {list(self.crowd.open)[:5]}")
        log = evidence.read(self.database_url)
        oracle.judge(self.crowd.told, log, script.due, verdict)
        for stream in self.crowd.told.streams:
            heard.judge(stream, log, verdict, whole=whole)
        oracle.judge_shown(evidence.shown(self.stack, log), log, verdict)
        oracle.judge_verified(evidence.verified(self.stack), verdict)


@contextmanager
def running(world: World, *, workers: int = 0, **settings: str) -> Iterator[Running]:
    """Workers, a projector, an API and twenty clients that have begun; all stopped at the end."""
    database_url = world.database()
    count = 1000 if world.short else 6000
    with (
        scripted_model(script.answers(count), chunk_delay_ms=WORD) as model_url,
        stack(database_url, world.redis_url, model_url, world.scratch / "logs", **settings) as bichat,
    ):
        bichat.up(workers=workers or (1 if world.short else 2))
        crowd = clients_of(bichat, model_url, seed=world.seed, short=world.short)
        crowd.start()
        try:
            yield Running(world, bichat, crowd, database_url)
        finally:
            crowd.stop(0)
