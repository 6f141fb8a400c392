"""What a read model is: a name, a shape in the code, builds in the database, and a fold into tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg import Connection

from bichat.events.dialogue import (
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
)
from bichat.events.envelope import Event, Fact
from bichat.projections import sql


class ReadModel(Struct, frozen=True, kw_only=True):
    """One read model as this code knows it; `name` is also that of its module, `.sql` file and checkpoint.

    In its SQL, `_vN` is the shape and `_gN` the build: `NAME_vN_gN` is a table, `NAME_vN` the view on
    the table of the build that serves. Every table has a `tenant_id`.
    """

    name: str
    shape: int
    tables: tuple[str, ...]
    apply: Callable[[Build, Connection[Any], Sequence[Event]], None]
    """Folds events, which follow those already applied, into the tables of a build; within the caller's
    transaction, for any subset of dialogues."""
    pace: float = 0.0
    """Seconds from one batch to the next, at least: what nobody waits for can come in bigger batches."""

    @property
    def views(self) -> tuple[str, ...]:
        """What is read instead of the tables, in their order."""
        return tuple(f"bichat.{table}_v{self.shape}" for table in self.tables)

    def sql(self, block: str) -> bytes:
        """A statement that reads the views."""
        return _resolved(self.name, block, self.shape, None)


class Build(Struct, frozen=True):
    """One set of tables of a read model."""

    model: ReadModel
    number: int

    @property
    def id(self) -> str:
        """As in `dialogues_v1_g1`: what locks and log lines call it."""
        return f"{self.model.name}_v{self.model.shape}_g{self.number}"

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables of this build."""
        return tuple(f"{view}_g{self.number}" for view in self.model.views)

    def sql(self, block: str) -> bytes:
        """A statement on the tables of this build."""
        return _resolved(self.model.name, block, self.model.shape, self.number)


@cache
def _resolved(name: str, block: str, shape: int, build: int | None) -> bytes:
    text = sql.blocks(name)[block].replace("_vN", f"_v{shape}")
    if build is not None:
        text = text.replace("_gN", f"_g{build}")
    return text.encode()


def question_of(fact: Fact) -> UUID | None:
    """The question whose reply `fact` is about."""
    match fact:
        case MessageAdded(answers=answers):
            return answers.message_id if answers else None
        case ReplyStarted() | ReplyFailed() | ReplyCancelRequested() | ReplyCancelled() | ReplyRequeued():
            return fact.message_id
        case ReplyAccounted():
            return fact.message_id
    return None


def known_before(events: Iterable[Event]) -> list[UUID]:
    """The dialogues of `events` that did not start among them."""
    first: dict[UUID, int] = {}
    for event in events:
        first.setdefault(event.stream_id, event.version)
    return [dialogue_id for dialogue_id, version in first.items() if version > 1]


def asked_before(events: Iterable[Event]) -> set[tuple[UUID, UUID]]:
    """(dialogue, question) of the replies that `events` are about, but for questions asked among them."""
    asked: set[UUID] = set()
    before: set[tuple[UUID, UUID]] = set()
    for event in events:
        question = question_of(event.fact)
        if question and question not in asked:
            before.add((event.stream_id, question))
        if isinstance(event.fact, MessageAdded) and event.fact.asks:
            asked.add(event.fact.message_id)
    return before
