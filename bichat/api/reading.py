"""Reads that wait: a read model is asked again once it has what was committed before the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

from bichat.api.call import Call
from bichat.errors import DialogueParked, Invalid, NotFound
from bichat.events.transcript import Dialogue
from bichat.projections import transcripts


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=_Versioned)


async def waited(
    call: Call, fetch: Callable[[], Awaitable[V | None]], dialogue_id: UUID, *, what: str = "dialogue",
    version: int = 0, field: str = "min_version",
) -> V:  # fmt: skip
    """What `fetch` finds in `transcripts`, at `version` or newer.

    What was accepted before this request is never missed: a miss counts only once the read model is
    where the log is now. Another's and none at all take the same path to the same `NotFound`. Raises
    `Invalid`, naming `field`, for a version that is not there yet, `ReadModelBehind` after 5 s, and
    `DialogueParked` for what may be missing because it could not be digested.
    """
    found = await fetch()
    if found is None or found.version < version:
        await call.parts.reads.caught_up("transcripts", await call.parts.reads.head())
        found = await fetch()
        if found is None or found.version < version:
            await _not_parked(call, dialogue_id)
    if found is None:
        raise NotFound(what=what)
    if found.version < version:
        raise Invalid(field=field, reason=f"there is only version {found.version}")
    return found


async def dialogue(call: Call, dialogue_id: UUID, version: int = 0, field: str = "min_version") -> Dialogue:
    """A dialogue of the caller's with its newest messages; deleted ones too, their state says so."""

    async def fetch() -> Dialogue | None:
        async with call.parts.reads.tenant(call.user.tenant_id) as connection:
            return await transcripts.newest(connection, call.user.tenant_id, dialogue_id, call.user.id)

    return await waited(call, fetch, dialogue_id, version=version, field=field)


async def _not_parked(call: Call, dialogue_id: UUID) -> None:
    tenant_id = call.user.tenant_id
    async with call.parts.reads.tenant(tenant_id) as connection:
        if await transcripts.parked(connection, tenant_id, dialogue_id, call.user.id):
            raise DialogueParked


async def reached(call: Call, name: str, position: int | None) -> None:
    """Waits until read model `name` has everything up to `position`; more than there is is `Invalid`."""
    if position is None:
        return
    if position > await call.parts.reads.head():
        raise Invalid(field="min_position", reason="is more than there is")
    await call.parts.reads.caught_up(name, position)
