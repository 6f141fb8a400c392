"""A prompt as it is or was, for who asks: read once the read model has what was written before."""

from __future__ import annotations

from msgspec import Struct

from bichat.api.call import Call
from bichat.api.schemas import Time
from bichat.errors import Invalid, NotFound, PromptParked
from bichat.events.prompt import SYSTEM
from bichat.projections import prompts
from bichat.projections.prompts import Version
from bichat.prompts import BUILT_IN


class PromptVersion(Struct, frozen=True, kw_only=True):
    """Who wrote a version of a prompt, or took it away, and when."""

    version: int
    changed_at: Time
    author: str
    removed: bool


class PromptHeader(Struct, frozen=True, kw_only=True):
    """A prompt without its text."""

    name: str
    version: int
    changed_at: Time
    author: str


class Prompt(Struct, frozen=True, kw_only=True):
    """A prompt; `built_in`: the tenant has none of its own, and nobody of the tenant wrote this one.

    Then `version` is that after which it is so, 0 from the start. `versions` are the newest hundred.
    """

    name: str
    version: int
    template: str
    built_in: bool
    changed_at: Time | None
    author: str | None
    versions: list[PromptVersion]


async def prompt(call: Call, name: str, least: int, at: int | None = None) -> Prompt:
    """As it is, `least` or newer, or as it was at a version; raises `NotFound`, `Invalid`, `Unavailable`s."""
    found = await _versions(call, name, max(least, at or 0), at)
    newest = found[0].version if found else 0
    for field, version in (("min_version", least), ("version", at or 0)):
        if version > newest and (found or name == SYSTEM):
            raise Invalid(field=field, reason=f"there is only version {newest}")
    shown = next((one for one in found if one.version == (at or newest)), None)
    versions = [
        PromptVersion(version=one.version, changed_at=one.changed_at, author=one.author, removed=one.removed)
        for one in found
    ]
    if shown is not None and shown.template is not None:
        return Prompt(
            name=name, version=shown.version, template=shown.template, built_in=False,
            changed_at=shown.changed_at, author=shown.author, versions=versions,
        )  # fmt: skip
    if name != SYSTEM:
        raise NotFound(what="prompt")
    return Prompt(
        name=name, version=at or newest, template=BUILT_IN.text, built_in=True, changed_at=None, author=None,
        versions=versions,
    )  # fmt: skip


async def _versions(call: Call, name: str, least: int, at: int | None) -> list[Version]:
    """What was written before this request is never missed: a miss counts once the read model has come up."""
    tenant_id, reads = call.user.tenant_id, call.parts.reads

    async def fetch() -> list[Version]:
        async with reads.tenant(tenant_id) as connection:
            return await prompts.versions(connection, tenant_id, name, at)

    found = await fetch()
    if not found or found[0].version < least:
        await reads.caught_up(prompts.MODEL.name, await reads.head())
        found = await fetch()
        if not found or found[0].version < least:
            async with reads.tenant(tenant_id) as connection:
                if await prompts.parked(connection, tenant_id, name):
                    raise PromptParked
    return found
