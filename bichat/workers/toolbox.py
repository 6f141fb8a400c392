"""The functions of a worker: which ones a tenant's models are offered, and what a call of one comes to."""

from __future__ import annotations

import asyncio
import logging
import pkgutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.application import LRUCache
from msgspec import Struct

from bichat import tracing
from bichat.errors.functions import (
    FunctionBroken,
    FunctionError,
    NoSuchFunction,
    OutOfRoom,
    TookTooLong,
)
from bichat.workers import functions
from bichat.workers.function import Context, Function, Reach
from bichat.workers.refusing import Refusing

LONGEST = 15.0
"""Seconds of one call; a query has less, so that it can still say what it was at."""

DESCRIBED = 10_000
"""Forms of which it is known; of the others the log is told again."""

UNKNOWN = "unknown_function"
"""Under this name the log has what a model made up: names are not sealed, and that might be anything."""

log = logging.getLogger(__name__)


class Returned(Struct, frozen=True):
    """What a call came to: JSON, and whether it went wrong."""

    result: str
    failed: bool = False


class Toolbox:
    """Functions by name, and what they may reach."""

    def __init__(
        self, found: Iterable[Function[Any]], reach: Reach | None = None, *, longest: float = LONGEST
    ) -> None:
        """`longest`: seconds of one call."""
        self._functions = {function.name: function for function in found}
        self._reach, self._longest = reach or Reach(), longest
        self.described: LRUCache[tuple[UUID, str], bool] = LRUCache(DESCRIBED)
        """The forms, by digest, of which the log has for a tenant what they are."""
        self.refusing = Refusing()

    def offered(self, tenant_id: UUID) -> tuple[Function[Any], ...]:
        """Those for which everything is there, in an order that stays."""
        reach = self._reach
        there = {"": True, "search": reach.search is not None, "analytics": False}
        there["analytics"] = reach.analytics is not None and reach.analytics.usable(tenant_id)
        return tuple(function for function in self._functions.values() if there[function.needs])

    def undescribed(self, tenant_id: UUID, functions: Iterable[Function[Any]]) -> list[Function[Any]]:
        """Those of which the log may not have yet what they are, for this tenant."""
        return [one for one in functions if (tenant_id, one.digest) not in self.described.cache]

    def context(self, tenant_id: UUID, user_id: str, dialogue_id: UUID, room: int) -> Context:
        """For calls on behalf of somebody, each of whose results may have `room` bytes."""
        return Context(
            tenant_id=tenant_id, user_id=user_id, dialogue_id=dialogue_id, clock=lambda: datetime.now(UTC),
            room=room, reach=self._reach,
        )  # fmt: skip

    async def call(self, name: str, arguments: str, context: Context, offered: Sequence[str]) -> Returned:
        """What comes of it, whatever that is; only being cancelled ends it otherwise."""
        with tracing.span(f"execute_tool {name}") as span:
            returned = await self._call(name, arguments, context, offered)
            if span:
                span.set_attributes({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name})
                span.set_attribute("bichat.failed", returned.failed)
            return returned

    async def _call(self, name: str, arguments: str, context: Context, offered: Sequence[str]) -> Returned:
        try:
            if name not in offered:
                raise NoSuchFunction(names=", ".join(offered))
            async with asyncio.timeout(self._longest):
                result = await self._functions[name](context, arguments)
            if len(result) > context.room:
                raise OutOfRoom(size=len(result), room=context.room)
            return Returned(result.decode())
        except FunctionError as error:
            return failure(error)
        except TimeoutError:
            return failure(TookTooLong(seconds=f"{self._longest:g}"))
        except Exception as error:  # its message may be what somebody wrote: not for the log
            log.error("the function %s failed: %s", name, type(error).__name__)  # noqa: TRY400
            return failure(FunctionBroken())


def failure(error: FunctionError) -> Returned:
    """An error as the model is shown it."""
    more = {name: error.facts[name] for name in ("hint", "position") if name in error.facts}
    return Returned(msgspec.json.encode({"error": str(error)} | more).decode(), failed=True)


def found() -> list[Function[Any]]:
    """Every function in the modules of `functions`, by name."""
    known: dict[str, Function[Any]] = {}
    for module in pkgutil.iter_modules(functions.__path__):
        for value in vars(import_module(f"{functions.__name__}.{module.name}")).values():
            if isinstance(value, Function):
                known[value.name] = value
    return [known[name] for name in sorted(known)]
