"""Words taken back out of Redis, and out of the file that it keeps on disk: their person is forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any
from uuid import UUID

from redis.exceptions import ResponseError

WORDS = "bichat:reply:"
"""What the keys of words begin with; then come the ids of dialogue and question, and the attempt."""
REFUSED = 10
"""Seconds in which no attempt can begin to speak in these dialogues: its worker may not know yet."""
SAY = """
local id, text, v, kept = ARGV[1], ARGV[2], ARGV[3]
if id ~= '1-0' then
    kept = redis.pcall('xadd', KEYS[1], 'nomkstream', 'maxlen', '~', ARGV[4], id, 'text', text, 'v', v)
elseif redis.call('exists', KEYS[2]) == 0 then
    kept = redis.pcall('xadd', KEYS[1], id, 'text', text, 'v', v)
end
if type(kept) == 'table' and kept.err and not string.find(kept.err, 'equal or smaller') then return kept end
redis.call('expire', KEYS[1], ARGV[5])
return redis.call('publish', ARGV[6], ARGV[7])
"""
"""Keeps words of an attempt and publishes them; the first ones are not kept if the dialogue was forgotten
just now. Later ones are only added to those that are there, so nothing comes back that was deleted. Words
that are not newer had arrived, only the answer to that was lost."""
END = """
redis.call('expire', KEYS[1], ARGV[1])
return redis.call('publish', ARGV[2], ARGV[3])
"""
PATIENCE, PAUSE = 60.0, 0.05
"""Seconds for which a rewrite that began before may go on, and between two looks at it."""
_TOGETHER = 1000

log = logging.getLogger(__name__)


def forgotten(dialogue_id: UUID) -> str:
    """The key that is there while nobody may begin to speak in a dialogue."""
    return f"bichat:forgotten:{dialogue_id}"


def hot(dialogue_id: UUID) -> str:
    """The key of the answers about a dialogue (`hot`)."""
    return f"bichat:hot:{dialogue_id}"


async def forget(redis: Any, dialogues: Collection[UUID]) -> bool:
    """Deletes the words of all attempts in these dialogues, and answers about them.

    Then Redis begins to write its file anew.

    A server that does not do that on request is taken at its word; False when it was too busy to.
    """
    for some in _chunks(list(dialogues)):
        async with redis.pipeline(transaction=False) as pipe:
            for dialogue_id in some:
                pipe.set(forgotten(dialogue_id), "", ex=REFUSED)
                pipe.delete(hot(dialogue_id))
            await pipe.execute()
    wanted = {str(dialogue_id) for dialogue_id in dialogues}
    keys = redis.scan_iter(f"{WORDS}*", count=_TOGETHER)
    # Not while the keys are gone through: whoever deletes what he counts may count it twice.
    found = [key async for key in keys if key.removeprefix(WORDS).partition(":")[0] in wanted]
    for some_keys in _chunks(found):
        await redis.delete(*some_keys)
    return await _rewrite(redis)


def _chunks(values: list[Any]) -> list[list[Any]]:
    return [values[n : n + _TOGETHER] for n in range(0, len(values), _TOGETHER)]


async def _rewrite(redis: Any) -> bool:
    """One that is under way has begun before the words were deleted: another has to come after it."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < end:
        try:
            await redis.bgrewriteaof()
        except ResponseError as error:
            if "in progress" not in str(error):
                log.warning("Redis keeps erased words in its files until it rewrites them: %s", error)
                return True
        else:
            return True
        await asyncio.sleep(PAUSE)
    return False
