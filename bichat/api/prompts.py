"""The tenant's prompts: everybody reads and renders them, ops write them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta, Struct

from bichat import rendering
from bichat.api import reading
from bichat.api.call import Call
from bichat.api.parameters import BIGGEST, Cursor, Limit, MinPosition
from bichat.api.prompt import Prompt, PromptHeader, prompt
from bichat.api.schemas import TEXT
from bichat.commands.job import Outcome
from bichat.commands.prompt import ChangePrompt, RemovePrompt
from bichat.errors import Invalid
from bichat.events.prompt import SYSTEM
from bichat.projections import cursor, prompts
from bichat.prompts import LONGEST, NAME, check

READERS = {"roles": ("user", "ops")}
OPS = {"roles": ("ops",)}

Name = Annotated[str, PathParameter(pattern=NAME)]
MinVersion = Annotated[
    int | None,
    QueryParameter(ge=1, le=BIGGEST, description="Waits up to 5 s until the prompt is read at this version."),
]
AtVersion = Annotated[
    int | None, QueryParameter(name="version", ge=1, le=BIGGEST, description="As it was; else as it is.")
]


class NewPrompt(Struct, forbid_unknown_fields=True, kw_only=True):
    """A prompt's text: of `system` what the model is shown as it is, of any other a Jinja template."""

    template: Annotated[str, Meta(min_length=1, max_length=LONGEST, pattern=TEXT)]


class ToRender(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a template is filled in with."""

    data: dict[str, Any] = {}


class ChangedPrompt(Struct, frozen=True, kw_only=True):
    """A command is in the log, or had nothing to change."""

    prompt: str
    version: int
    position: int


class Rendered(Struct, frozen=True, kw_only=True):
    """A template filled in, and which version of it."""

    text: str
    version: int


class Prompts(Struct, frozen=True, kw_only=True):
    """A page of the tenant's own prompts by name; `next` goes on after it."""

    data: list[PromptHeader]
    next: str | None


class _Place(Struct, frozen=True, array_like=True):
    name: str


@get("/", opt=READERS)
async def page(
    request: Call, after: Cursor = None, limit: Limit = 20, min_position: MinPosition = None
) -> Prompts:
    """The tenant's prompts, by name."""
    await reading.reached(request, prompts.MODEL.name, min_position)
    tenant_id, place = request.user.tenant_id, cursor.read(after, _Place).name if after else None
    async with request.parts.reads.tenant(tenant_id) as connection:
        found = await prompts.page(connection, tenant_id, after=place, limit=limit + 1)
    listed = [
        PromptHeader(name=one.name, version=one.version, changed_at=one.changed_at, author=one.author)
        for one in found[:limit]
    ]
    return Prompts(data=listed, next=cursor.write((listed[-1].name,)) if len(found) > limit else None)


@get("/{name:str}", opt=READERS)
async def show(request: Call, name: Name, min_version: MinVersion = None, at: AtVersion = None) -> Prompt:
    """A prompt with its newest or another version's text; `system` is always there."""
    return await prompt(request, name, min_version or 0, at)


@put("/{name:str}", status_code=200, opt=OPS)
async def change(request: Call, name: Name, data: JSONBody[NewPrompt]) -> Response[ChangedPrompt]:
    """Gives a prompt a text, a new version of it; the same text again changes nothing."""
    parts, tenant_id = request.parts, request.user.tenant_id
    await parts.renderers.run(tenant_id, partial(check, name, data.template, parts.config.context_tokens))
    command = ChangePrompt(tenant_id=tenant_id, name=name, template=data.template)
    return _changed(name, await request.execute(command, data))


@delete("/{name:str}", status_code=200, opt=OPS)
async def remove(request: Call, name: Name) -> Response[ChangedPrompt]:
    """Takes a prompt away; without one of the tenant's own, `system` is the built-in one."""
    command = RemovePrompt(tenant_id=request.user.tenant_id, name=name)
    return _changed(name, await request.execute(command))


@post("/{name:str}/render", status_code=200, opt=READERS)
async def render(
    request: Call, name: Name, data: JSONBody[ToRender], min_version: MinVersion = None
) -> Rendered:
    """A template filled in with data; whatever it uses must be there."""
    if name == SYSTEM:
        raise Invalid(field="name", reason=f"{SYSTEM} is no template: the model is shown it as it is")
    found = await prompt(request, name, min_version or 0)
    work = partial(rendering.render, found.template, msgspec.json.encode(data.data))
    text = await request.parts.renderers.run(request.user.tenant_id, work)
    return Rendered(text=text, version=found.version)


def _changed(name: str, outcome: Outcome) -> Response[ChangedPrompt]:
    return Response(
        ChangedPrompt(prompt=name, version=outcome.version, position=outcome.position),
        headers={"Idempotent-Replayed": "true"} if outcome.replayed else None,
    )


router = Router("/prompts", route_handlers=[page, show, change, remove, render], tags=["prompts"])
