"""The loop that goes on with erasures that somebody has left: a process that died, or Redis that was away."""

from __future__ import annotations

import asyncio
import logging
import threading

from bichat.commands.execute import Executor
from bichat.deltas import Deltas
from bichat.errors import LogUnavailable, Stopping, Unavailable
from bichat.events.keys import register
from bichat.forgetting.erasing import Forgetting
from bichat.logs import described

LEFT = 5.0
"""Seconds after which whoever was asked should be done; who is still at it keeps others off."""
_LONGEST = 60.0

log = logging.getLogger(__name__)


def run(executor: Executor, redis_url: str, stop: threading.Event, every: float = LEFT) -> None:
    """Finishes what is open until `stop` is set; looks more rarely while that does not help."""
    pause = every
    while not stop.wait(pause):
        try:
            still = asyncio.run(_look(executor, redis_url))
            pause = min(pause * 2, _LONGEST) if still else every
        except Stopping:
            return
        except Unavailable as error:
            log.warning("An erasure waits: %s", error)
        except Exception:  # read models are followed, whatever ails this
            log.exception("An erasure was not finished")
            pause = min(pause * 2, _LONGEST)


async def _look(executor: Executor, redis_url: str) -> bool:
    """Whether something is still open after it was gone on with."""
    keys = executor.ledger.keys
    found = await asyncio.to_thread(register.under_way, keys, LEFT)
    if not found:
        return False
    deltas = Deltas(redis_url)
    try:
        for erasure in found:
            log.info("The erasure %s was left in the middle: it goes on", erasure.erasure_id)
            try:
                await Forgetting(executor, deltas).resume(erasure)
            except (Stopping, LogUnavailable):
                raise  # it is the same with all others
            except Exception as error:  # whatever ails this one
                log.warning("The erasure %s was not finished: %s", erasure.erasure_id, described(error))
    finally:
        await deltas.close()
    return bool(await asyncio.to_thread(register.under_way, keys, LEFT))
