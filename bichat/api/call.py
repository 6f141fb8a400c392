"""One request: who asks, what serves it, and its body read strictly."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from anyio import CapacityLimiter
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import ClientException, InternalServerException
from msgspec import Struct, field
from uuid_utils.compat import uuid7

from bichat import logs
from bichat.api.allowance import Allowance
from bichat.api.auth import Caller
from bichat.api.problems import refused
from bichat.api.renderers import Renderers
from bichat.commands.command import Command
from bichat.commands.dialogue import AddMessage, RetryFailedReply, RetryReply, StartDialogue
from bichat.commands.execute import Executor
from bichat.commands.job import Once, Outcome
from bichat.config import Config
from bichat.deltas import Deltas
from bichat.errors import Invalid, RateLimited
from bichat.events.envelope import Actor, Metadata
from bichat.projections.finding import Search
from bichat.projections.reads import Reads

log = logging.getLogger(__name__)


ASKS = (StartDialogue, AddMessage, RetryReply, RetryFailedReply)
"""Commands after which the model is called."""


class Parts(Struct, frozen=True):
    """What answers requests."""

    config: Config
    executor: Executor
    reads: Reads
    deltas: Deltas
    search: Search
    checks: CapacityLimiter = field(default_factory=partial(CapacityLimiter, 2))
    """Dialogues that are verified at once: each takes a connection of its own, and a core."""
    exports: CapacityLimiter = field(default_factory=partial(CapacityLimiter, 2))
    """Pages of exports that are made at once, whoever reads them how slowly."""
    renderers: Renderers = field(default_factory=Renderers)


class Call(Request[Caller, str, State]):
    """A request to bichat."""

    @property
    def parts(self) -> Parts:
        """What answers it."""
        parts: Parts = self.app.state["parts"]
        return parts

    async def body(self) -> bytes:
        """The body; a client that leaves in the middle of it is no mistake of ours."""
        try:
            return await super().body()
        except InternalServerException as error:
            log.debug("%s %r: %s", self.method, self.scope["path"][:200], error.detail)
            raise ClientException(error.detail) from None

    async def json(self) -> Any:
        """The body as the handler's `data` struct.

        litestar would read it leniently ("5" for 5) and then convert it; this is strict and once.
        """
        kind = self.headers.get("content-type", "application/json").partition(";")[0]
        if kind.strip().lower() != "application/json":
            raise Invalid(field="Content-Type", reason="must be application/json")
        declared = self.route_handler.parsed_data_field
        try:
            return msgspec.json.decode(await self.body(), type=declared.annotation if declared else Any)
        except msgspec.ValidationError as error:
            raise refused(error) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Invalid(field="body", reason=f"is not JSON: {error}") from None

    async def execute(self, command: Command, body: Struct | None = None) -> Outcome:
        """Runs a command as this caller, with the request's Idempotency-Key and If-Match."""
        by = Metadata(tenant_id=self.user.tenant_id, actor=Actor("user", self.user.id), command_id=uuid7())
        logs.note(dialogue_id=command.stream_id, command_id=by.command_id)
        once, unless = self.once(body), await self._not_now(command)
        if unless and not once:
            raise unless
        # What was done before is told again, also to those who may ask for nothing more.
        outcome = await self.parts.executor.execute(
            command, by, once=once, if_match=self.if_match(), unless=unless
        )
        logs.note(dialogue_id=outcome.dialogue_id)  # a repeat is told of the first one's
        return outcome

    async def _not_now(self, command: Command) -> RateLimited | None:
        """Why this cannot be asked of the model now, if it asks something of it."""
        return await self.spent() if isinstance(command, ASKS) else None

    async def spent(self) -> RateLimited | None:
        """Why nothing that costs something can be had now, if the tenant's tokens or budget are spent."""
        allowance: Allowance = self.app.state["allowance"]
        return await allowance.asking(self.user.tenant_id)

    def _header(self, name: str) -> str | None:
        given = self.headers.getall(name, [])
        if len(given) > 1:
            raise Invalid(field=name, reason="must be given once")
        return given[0] if given else None

    def once(self, body: Struct | None) -> Once | None:
        """The request's Idempotency-Key with what it stands for, if it has one."""
        key = self._header("Idempotency-Key")
        if key is None:
            return None
        if not 1 <= len(key) <= 255 or not (key.isascii() and key.isprintable()):
            raise Invalid(field="Idempotency-Key", reason="must be 1 to 255 printable ASCII characters")
        # An id can be written in capitals, and is the same.
        ids = (text if name == "name" else UUID(text).hex for name, text in self.path_params.items())
        route = " ".join((self.method, self.scope["path_template"], *ids))
        said = msgspec.json.encode(body, order="deterministic") if body else b""
        return Once(key, f"{route}\n".encode() + said)

    def if_match(self) -> int | None:
        """The version in If-Match, if there is one."""
        tag = self._header("If-Match")
        if tag is None:
            return None
        found = re.fullmatch(r'"(\d{1,18})"', tag)
        if not found:
            raise Invalid(field="If-Match", reason='must be a version in quotes, as in "7"')
        return int(found[1])


def mint() -> UUID:
    """A new id; they sort by time."""
    return uuid7()
