"""The prompt that the model is shown first: a tenant's newest, or the one that replies were recorded with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from bichat import rendering, tokens
from bichat.errors import EventUnreadable, Invalid
from bichat.events.envelope import Event
from bichat.events.prompt import SYSTEM, PromptChanged, stream_of

PROMPTS = {
    ("built-in", 1): (
        "You are the assistant of a team that works with its company's data. Answer in the language of the"
        " question, plainly and briefly. Say so when you do not know; never make up figures."
    ),
}
"""By name and version; a version is never edited, for the log says which one the model was shown."""

PROMPT = ("built-in", 1)
"""What tenants without a system prompt of their own have."""


NAME = r"^[a-z0-9_-]{1,64}(?!\n)$"
LONGEST = 100_000
"""Characters of a prompt."""
SHARE = 2
"""The system prompt may take this part of what the model is shown, a half: history has to fit as well."""


class Log(Protocol):
    """The part of the ledger that is needed to rebuild what the model was shown."""

    def read(  # noqa: D102 - the ledger's
        self, stream_id: UUID, *, after: int = 0, upto: int | None = None, limit: int | None = None,
        desc: bool = False, kinds: Sequence[str] = (),
    ) -> list[Event]: ...  # fmt: skip


class Prompt(Struct, frozen=True):
    """What the model is shown first; name and version are recorded with each reply."""

    name: str
    version: int
    text: str


BUILT_IN = Prompt(*PROMPT, PROMPTS[PROMPT])


def newest(log: Log, tenant_id: UUID) -> Prompt:
    """The tenant's system prompt as it is now, or the built-in one; as it is, for it is no template."""
    for event in log.read(stream_of(tenant_id, SYSTEM), desc=True, limit=1):
        if isinstance(event.fact, PromptChanged):
            return Prompt(SYSTEM, event.version, event.fact.template)
    return BUILT_IN


def text_of(log: Log, tenant_id: UUID, name: str, version: int) -> str:
    """A prompt in one of its versions, whatever became of it since.

    Raises `EventUnreadable` when there never was one, and what the log raises.
    """
    if (name, version) in PROMPTS:
        return PROMPTS[name, version]
    stream_id = stream_of(tenant_id, name)
    for event in log.read(stream_id, after=version - 1, upto=version, limit=1):
        if isinstance(event.fact, PromptChanged):
            return event.fact.template
    raise EventUnreadable(kind="PromptChanged", version=version, stream=stream_id, reason="it is not there")


def check(name: str, template: str, budget: int) -> None:
    """Raises `Invalid` when models cannot be shown this, `budget` tokens in all, or it is no template.

    Blocks, for a second at the longest.
    """
    if name != SYSTEM:
        rendering.check(template)
    elif (size := tokens.count(template)) * SHARE > budget:
        reason = f"takes {size:,} tokens: the system prompt may take {budget // SHARE:,} here"
        raise Invalid(field="template", reason=reason)
