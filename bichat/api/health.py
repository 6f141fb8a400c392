"""Whether the process is alive, and whether it can do its work."""

from __future__ import annotations

import asyncio

from litestar import Router, get
from msgspec import Struct

from bichat.api.call import Call
from bichat.errors import Unavailable

PATIENCE = 3.0
"""Seconds that a database may take to say something."""


class Health(Struct, frozen=True):
    """All is well."""

    status: str = "ok"


class NotReady(Unavailable):
    """The database cannot be read, or is not migrated."""


@get("/live", status_code=200)
async def live() -> Health:
    """The process answers."""
    return Health()


@get("/ready", status_code=200)
async def ready(request: Call) -> Health:
    """The database answers and has bichat's schema."""
    try:
        async with asyncio.timeout(PATIENCE):
            await request.parts.reads.head()
    except Exception:  # whatever it is, work cannot be done
        raise NotReady() from None
    return Health()


router = Router("/health", route_handlers=[live, ready], tags=["health"])
