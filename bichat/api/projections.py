"""The read models of the installation: how every build is, and asking for a new one."""

from __future__ import annotations

from litestar import Response, Router, get, post
from litestar.params import FromPath
from msgspec import Struct

from bichat.api.call import Call
from bichat.api.schemas import Time
from bichat.errors import NotFound
from bichat.errors.unusable import RebuildRuns
from bichat.projections import requested, standing
from bichat.projections.read_model import Build
from bichat.projections.standing import State
from bichat.projections.versions import MODELS

OPERATOR = {"roles": ("operator",)}


class Projection(Struct, frozen=True, kw_only=True):
    """One build of a read model; `version` is the shape of its tables, `state` how it is in one word.

    `serving`: it is read and kept up to date. `unfollowed`: it is read, but no projector keeps it up to
    date. `stopped`: its follower met something that it cannot go on from, `error` says what. `building`:
    it is being made, `phase` says how far. `failed`: making it did not work, `error` says why. `standby`:
    it is kept up to date for a way back, and not read.
    """

    name: str
    version: int
    build: int
    state: State
    serves: bool
    phase: str
    error: str
    position: int
    head: int
    lag_events: int
    lag_seconds: float
    rate: float
    parked: int
    runner: str
    running: bool
    slices: int | None
    loaded: int | None
    updated_at: Time


class Projections(Struct, frozen=True, kw_only=True):
    """Every build of every read model."""

    data: list[Projection]


@get("/", opt=OPERATOR)
async def projections(request: Call) -> Projections:
    """How every build of every read model is, those of other versions of bichat too."""
    found = await standing.builds(request.parts.reads)
    return Projections(data=[_projection(one) for one in found])


@post("/{name:str}/rebuild", status_code=202, opt=OPERATOR)
async def rebuild(request: Call, name: FromPath[str]) -> Response[Projection]:
    """Has a new build of a read model made, or an interrupted one gone on with; a projector does it."""
    model = next((model for model in MODELS if model.name == name), None)
    if model is None:
        raise NotFound(what="read model")
    async with request.parts.reads.connection() as connection:
        asked = await requested.request(connection, model)
    build = Build(model, asked.build)
    if asked.held:
        since, where = asked.started_at.isoformat(timespec="seconds"), asked.runner or "another process"
        raise RebuildRuns(build=build.id, since=since, runner=where, phase=asked.phase)
    found = await standing.builds(request.parts.reads)
    return Response(next(_projection(one) for one in found if (one.name, one.shape, one.build) == build.key))


def _projection(one: standing.Standing) -> Projection:
    same = {name: getattr(one, name) for name in Projection.__struct_fields__ if name not in _OURS}
    return Projection(version=one.shape, state=one.in_a_word, **same)


_OURS = ("version", "state")

router = Router("/ops/projections", route_handlers=[projections, rebuild], tags=["operations"])
