"""Whether the process is alive, and whether it can do its work."""

from __future__ import annotations

from litestar import Router, get
from msgspec import Struct

from bichat.api.call import Call
from bichat.errors import Unavailable
from bichat.projections.standing import Standing, Watches
from bichat.projections.versions import MODELS

SHAPES = frozenset((model.name, model.shape) for model in MODELS)


class Health(Struct, frozen=True):
    """All is well."""

    status: str = "ok"


class NotReady(Unavailable):
    """{why}"""


@get("/live", status_code=200)
async def live() -> Health:
    """The process answers."""
    return Health()


@get("/ready", status_code=200)
async def ready(request: Call) -> Health:
    """The database answers, and what is read from it is followed and not far behind the log."""
    watches: Watches = request.app.state["watches"]
    try:
        found = await watches.builds.look()
    except Unavailable:
        raise NotReady(why="The database cannot be read, or is not migrated.") from None
    longest, lag = request.parts.config.bichat_ready_lag_seconds, request.parts.reads.replica_lag
    why = ailing(found, longest)
    if lag > longest:
        why = f"{why} The replica that queries are read from is {lag:.0f} s behind the log.".strip()
    if why:
        raise NotReady(why=why)
    return Health()


def ailing(builds: list[Standing], lag: float) -> str:
    """Why the builds that this code reads cannot be relied on, in plain words; empty when they can.

    Builds that nobody reads, under way or kept for a way back, do not count.
    """
    read = [one for one in builds if one.serves and (one.name, one.shape) in SHAPES]
    missing = SHAPES - {(one.name, one.shape) for one in read}
    ails = [f"There is no read model {name} in version {shape}." for name, shape in sorted(missing)]
    for one in read:
        how = "has stopped and" if one.state == "stopped" else "is late: it" if one.lag_seconds > lag else ""
        if how:
            behind = f"{one.lag_events} events and {one.lag_seconds:.0f} s behind the log"
            ails.append(f"The read model {one.name} {how} is {behind}.")
    return " ".join(ails)


router = Router("/health", route_handlers=[live, ready], tags=["health"])
