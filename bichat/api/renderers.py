"""Templates are rendered aside of the event loop: a few at a time, and of one tenant one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from anyio import CapacityLimiter, to_thread

from bichat.rendering import RendererBusy

AT_ONCE = 2
"""Each is a process, and may take a second."""
WAITING = 8
"""Of one tenant; more would only wait until nobody wants to know any more."""

T = TypeVar("T")


class Renderers:
    """Nobody waits for what another tenant renders, but when several tenants do so at once."""

    def __init__(self) -> None:
        self._all = CapacityLimiter(AT_ONCE)
        self._tenants: dict[UUID, CapacityLimiter] = {}

    async def run(self, tenant_id: UUID, work: Callable[[], T]) -> T:
        """What `work` returns or raises, done in a thread. Raises `RendererBusy`."""
        mine = self._tenants.setdefault(tenant_id, CapacityLimiter(1))
        if mine.statistics().tasks_waiting >= WAITING:
            raise RendererBusy
        try:
            async with mine:
                return await to_thread.run_sync(work, limiter=self._all)
        finally:
            now = mine.statistics()
            if not now.borrowed_tokens and not now.tasks_waiting:
                self._tenants.pop(tenant_id, None)
