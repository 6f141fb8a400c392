"""The read model `usage`: tokens spent, for each tenant, user, model and day."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row

from bichat.events.dialogue import (
    DialogueLabelled,
    DialogueStarted,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyFailed,
    ReplyStarted,
    Usage,
)
from bichat.events.envelope import Event, Fact
from bichat.projections import sql
from bichat.projections.read_model import Build, Piece, ReadModel, Row, Table, known_before


class Owned(Struct, frozen=True):
    """Whose a dialogue is, and the model last called in it."""

    dialogue_id: UUID
    tenant_id: UUID
    user_id: str
    model: str = ""


class Spent(Struct, frozen=True):
    """What calls to the model took."""

    calls: int
    usage: Usage


Owners = dict[UUID, Owned]
Key = tuple[UUID, str, date, str]


# --- from the log into the tables ------------------------------------------------------------------


def apply(build: Build, connection: Connection[Any], events: Sequence[Event]) -> None:
    """Adds what the calls in `events` took."""
    held = _held(build, connection, events)
    now, spent = fold(held, events)
    changed = (owned for i, owned in now.items() if owned is not held.get(i))
    sql.write(connection, build.sql("write_dialogues"), map(_row, changed))
    sql.write(connection, build.sql("write"), _sums(spent))


def fold(held: Owners, events: Iterable[Event]) -> tuple[Owners, dict[Key, Spent]]:
    """Whose the touched dialogues are, and what was spent by user, day and model."""
    now, spent = dict(held), dict[Key, Spent]()
    for event in events:
        fact = event.fact
        if isinstance(fact, DialogueStarted):
            now[event.stream_id] = Owned(event.stream_id, event.tenant_id, fact.user_id)
        owned = now[event.stream_id]
        if isinstance(fact, ReplyStarted) and fact.model != owned.model:
            now[event.stream_id] = replace(owned, model=fact.model)
        call = _call(fact, owned.model)
        if call:
            model, usage = call
            key = (owned.tenant_id, owned.user_id, event.at.date(), model)
            sofar = spent.get(key) or Spent(0, Usage())
            spent[key] = Spent(sofar.calls + 1, sofar.usage + usage)
    return now, spent


def _call(fact: Fact, model: str) -> tuple[str, Usage] | None:
    match fact:
        case MessageAdded(answers=answers) if answers:
            return answers.model, answers.usage
        case ReplyFailed() if fact.attempt:
            return model, fact.usage
        case ReplyCancelled() if fact.attempt and fact.usage != Usage():
            return model, fact.usage
        case ReplyAccounted():
            return model, fact.usage
        case DialogueLabelled():
            return fact.model, fact.usage
    return None


def _held(build: Build, connection: Connection[Any], events: Sequence[Event]) -> Owners:
    found = sql.find(connection, build.sql("held"), known_before(events))
    return {row[0]: Owned(*row) for row in found}


def _row(owned: Owned) -> dict[str, Any]:
    return {name: getattr(owned, name) for name in Owned.__struct_fields__}


def _sums(spent: dict[Key, Spent]) -> Iterator[dict[str, Any]]:
    for (tenant_id, user_id, day, model), sum_ in spent.items():
        yield {
            "tenant_id": tenant_id, "user_id": user_id, "day": day, "model": model, "calls": sum_.calls,
            "prompt_tokens": sum_.usage.prompt_tokens, "completion_tokens": sum_.usage.completion_tokens,
            "total_tokens": sum_.usage.total_tokens,
        }  # fmt: skip


def rows(piece: Piece) -> Iterator[Row]:
    """What the calls took, and at the end whose the dialogue is."""
    now, spent = fold(piece.carried.get("usage", {}), piece.events)
    piece.carried["usage"] = now
    for sum_ in _sums(spent):
        yield Row(0, sum_)
    if piece.last:
        for owned in now.values():
            yield Row(1, _row(owned))


MODEL = ReadModel(
    name="usage",
    shape=1,
    fold=2,  # labels made by a model are calls too
    tables=(
        Table("usage", ("tenant_id", "user_id", "day", "model"), None),
        Table("usage_dialogues", ("dialogue_id",), "dialogue_id"),
    ),
    apply=apply,
    rows=rows,
    pace=0.05,
)


# --- from the tables to who asks -------------------------------------------------------------------


Split = Literal["tenant", "day", "model", "user"]


class Used(Struct, frozen=True, kw_only=True):
    """Tokens of some calls; what it was not asked to be split by is None."""

    tenant_id: UUID | None = None
    day: date | None
    model: str | None
    user_id: str | None
    calls: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    def __add__(self, other: Used) -> Used:
        """Both together, of the same day, model and user."""
        return replace(
            self,
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
        )


async def usage(
    connection: AsyncConnection[Any], tenant_id: UUID, user_id: str | None, *, since: date, until: date,
    by: Collection[Split] = (),
) -> list[Used]:  # fmt: skip
    """What was spent on days in [since, until) UTC, by the user or (None) the whole tenant."""
    values = {"tenant_id": tenant_id, "user_id": user_id, "since": since, "until": until, "by": list(by)}
    async with connection.cursor(row_factory=class_row(Used)) as found:
        await found.execute(MODEL.sql("usage"), values)
        return await found.fetchall()


def everywhere(
    connection: Connection[Any], tenant_id: UUID | None, *, since: date, until: date,
    by: Collection[Split] = (),
) -> list[Used]:  # fmt: skip
    """What one tenant or all of them spent, for the installation's operator."""
    values = {"tenant_id": tenant_id, "since": since, "until": until, "by": list(by)}
    with connection.cursor(row_factory=class_row(Used)) as found:
        return found.execute(MODEL.sql("everywhere"), values).fetchall()
