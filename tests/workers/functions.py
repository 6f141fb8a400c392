"""A worker's functions as tests need them: those that there are, and some that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llmock.scenarios import Reply, ToolCall
from msgspec import Struct

from bichat.analytics import Analytics
from bichat.events.dialogue import FunctionCalled, FunctionReturned
from bichat.events.envelope import Fact
from bichat.workers.function import Context, Reach, function
from bichat.workers.toolbox import Toolbox, found


class Nothing(Struct, frozen=True):
    """No arguments."""


ENDED = asyncio.Event()
"""A call of `slow` was cancelled."""


@function()
async def slow(context: Context, asked: Nothing) -> str:
    """Takes a minute."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        ENDED.set()
        raise
    return "done"


@function()
async def broken(context: Context, asked: Nothing) -> str:
    """Does not work."""
    raise RuntimeError("the secret is Xylophon")


@function()
async def endless(context: Context, asked: Nothing) -> str:
    """Says more than anybody wants to know."""
    return "x" * (context.room + 1)


def toolbox(sales_url: str | None = None, *, longest: float = 15, seconds: float = 5) -> Toolbox:
    """Everything, and three that misbehave."""
    analytics = Analytics(sales_url, seconds=seconds) if sales_url else None
    return Toolbox([*found(), slow, broken, endless], Reach(analytics=analytics), longest=longest)


def calls(*wanted: tuple[str, dict[str, object]], text: str | None = None, times: int | None = 1) -> Reply:
    """What a model says that wants functions to be called."""
    return Reply(text=text, tool_calls=tuple(ToolCall(*one) for one in wanted), times=times)


def query(sql: str) -> tuple[str, dict[str, object]]:
    """A call of `query`."""
    return "query", {"sql": sql}


def of_calls(facts: Sequence[Fact]) -> list[FunctionCalled | FunctionReturned]:
    """The facts about functions."""
    return [fact for fact in facts if isinstance(fact, FunctionCalled | FunctionReturned)]


def results(facts: Sequence[Fact]) -> list[FunctionReturned]:
    """What functions returned."""
    return [fact for fact in facts if isinstance(fact, FunctionReturned)]
