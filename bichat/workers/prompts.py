"""Which system prompt applies to a reply: the tenant's newest, kept in this process until it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import UUID

from eventsourcing.application import LRUCache
from msgspec import Struct

from bichat.deltas import Deltas
from bichat.doorbell import PROMPTS
from bichat.prompts import Log, Prompt, newest

KEPT = 5.0
"""Seconds after which a prompt is read again, whoever rang or did not: Redis may be away."""
MOST = 1000
"""Tenants whose prompts are kept."""


class _Held(Struct, frozen=True):
    prompt: Prompt
    until: float


class Prompts:
    """Safe to use from several threads."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._held: LRUCache[UUID, _Held] = LRUCache(MOST)
        self._lock = threading.Lock()
        self._drops = 0

    def system(self, tenant_id: UUID) -> Prompt:
        """The tenant's system prompt; reads the log when it is not held. Raises what the log raises."""
        with self._lock:
            drops = self._drops
            held = self._get(tenant_id)
        if held and self._clock() < held.until:
            return held.prompt
        prompt = newest(self._log, tenant_id)
        with self._lock:
            if drops == self._drops:  # else it may have changed while it was read
                self._held.put(tenant_id, _Held(prompt, self._clock() + KEPT))
        return prompt

    def drop(self) -> None:
        """Some prompt has changed. It is not said which, for rings may be lost; they change rarely."""
        with self._lock:
            self._held, self._drops = LRUCache(MOST), self._drops + 1

    async def listen(self, deltas: Deltas) -> None:
        """Drops them whenever it rings, or may have rung unheard, until it is cancelled."""
        async with deltas.listen(PROMPTS) as follower:
            while True:
                if await follower.next(60):
                    self.drop()

    def _get(self, tenant_id: UUID) -> _Held | None:
        try:
            return self._held.get(tenant_id)
        except KeyError:
            return None
