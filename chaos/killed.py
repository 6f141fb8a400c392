"""R1: every part killed with -9 at each of four moments while twenty clients write.

Recovered is who was there when the part came back: every question that was open then has ended, as its
client was told, and something new was accepted. The next part is killed only then.
"""

from __future__ import annotations

import itertools
import time

from chaos.moments import MOMENTS, reached
from chaos.running import LEASE, RECOVERY, Running, running
from chaos.verdict import Verdict
from chaos.world import World

DONE = (
    "kill -9 of worker, projector, api, Redis, Postgres, before the model is called, in mid-stream, after the"
    " last word, before the commit is acknowledged, while 20 clients write"
)
PARTS = ("worker 0", "projector", "api", "Redis", "Postgres")


def run(world: World, verdict: Verdict) -> None:
    """Each part at each moment, in an order of the seed; in the short version each part at one."""
    cases = list(itertools.product(PARTS, MOMENTS))
    world.rng.shuffle(cases)
    if world.short:
        cases = list({part: (part, moment) for part, moment in cases}.values())
    with running(world) as here:
        for part, moment in cases:
            _kill(here, part, moment, verdict)
        met, kills = verdict.counts["at their moment"], verdict.counts["kills"]
        verdict.check(2 * met > kills, f"only {met} of {kills} kills met their moment")
        here.judge(verdict)


def _kill(here: Running, part: str, moment: str, verdict: Verdict) -> None:
    """Kills it then, brings it back a moment later, and waits until everything has gone on."""
    with reached(moment, here.crowd, here.world, here.database_url) as met:
        here.breaking.kill(part)
        here.tell(f"killed {part}, {moment}", met=met)
    verdict.counts["kills"] += 1
    verdict.counts["at their moment"] += met
    time.sleep(here.world.rng.uniform(0, 1.0))
    back = here.breaking.back(part)
    here.recovers(back, LEASE + RECOVERY, verdict, f"{part}, killed {moment}, was back")
