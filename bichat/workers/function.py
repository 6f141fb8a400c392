"""A chat function: typed Python that a model may call, and the form in which the model is shown it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from typing import Any, Generic, Literal, TypeVar, get_type_hints
from uuid import UUID

import msgspec
from msgspec import Struct

from bichat.analytics import Analytics
from bichat.errors.functions import BadArguments, FunctionBroken
from bichat.projections.finding import Search

Need = Literal["", "analytics", "search"]


class Reach(Struct, frozen=True, kw_only=True):
    """What the functions of a process may reach; what is not there is not offered."""

    analytics: Analytics | None = None
    search: Search | None = None


class Context(Struct, frozen=True, kw_only=True):
    """For whom a function is called, and what it may use."""

    tenant_id: UUID
    user_id: str
    dialogue_id: UUID
    clock: Callable[[], datetime]
    room: int
    """Bytes that its result may have."""
    reach: Reach = Reach()

    @property
    def analytics(self) -> Analytics:
        """The business database, for functions that need it."""
        return _there(self.reach.analytics)

    @property
    def search(self) -> Search:
        """The search in what a person has said, likewise."""
        return _there(self.reach.search)


T = TypeVar("T")


def _there(part: T | None) -> T:
    if part is None:
        raise FunctionBroken()
    return part


A = TypeVar("A", bound=Struct)


class Function(Generic[A]):
    """One that may be called, under the name and with the description that it has in Python."""

    def __init__(self, call: Callable[[Context, A], Awaitable[object]], needs: Need) -> None:
        self.name, self.needs, self._call = call.__name__, needs, call
        self._takes: type[A] = get_type_hints(call)["asked"]
        description = " ".join(inspect.cleandoc(call.__doc__ or "").split())
        shown = {"name": self.name, "description": description, "parameters": _parameters(self._takes)}
        self.schema = msgspec.json.encode({"type": "function", "function": shown}).decode()
        """JSON, as the model is shown it."""
        self.digest = sha256(self.schema.encode()).hexdigest()

    async def __call__(self, context: Context, arguments: str) -> bytes:
        """Its result as JSON; raises `BadArguments`, and whatever it raises itself."""
        try:
            asked = msgspec.json.decode(arguments or "{}", type=self._takes)
        except msgspec.ValidationError as error:
            raise BadArguments(reason=str(error)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise BadArguments(reason=f"they are not JSON ({error})") from None
        return msgspec.json.encode(await self._call(context, asked))


def function(needs: Need = "") -> Callable[[Callable[[Context, A], Awaitable[object]]], Function[A]]:
    """Makes `async def name(context: Context, asked: SomeStruct)` a function that is offered to models.

    Its docstring tells them what it does, its struct's fields what it takes; what it returns, anything that
    msgspec can encode, is shown to them as JSON. A `FunctionError` that it raises is shown to them too.
    """
    return lambda call: Function(call, needs)


def _parameters(takes: type[Struct]) -> dict[str, Any]:
    """The JSON schema of the arguments, without the indirection and the titles that are Python's."""
    schema = msgspec.json.schema(takes)
    parts = schema.pop("$defs")
    own: dict[str, Any] = parts.pop(schema.pop("$ref").rpartition("/")[2])
    for part in (own, *parts.values()):
        part.pop("title", None)
    own.pop("description", None)
    return own | ({"$defs": parts} if parts else {})
