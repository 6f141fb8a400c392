"""What a read model is: a name, a shape in the code, builds in the database, and a fold into tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, cached_property, reduce
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg import Connection

from bichat.events.dialogue import (
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
    TextErased,
)
from bichat.events.dialogue_state import NOTHING, DialogueState, evolve
from bichat.events.envelope import Event, Fact, Subject, lacks_text
from bichat.events.transcript import Dialogue, blanked, transcribed
from bichat.projections import sql

PAGE = 50
"""Messages in one page of a transcript; the SQL knows it too."""


class Table(Struct, frozen=True):
    """One table of a read model; `key` is its primary key."""

    name: str
    key: tuple[str, ...]
    stream: str | None
    """The column with the stream's id (of a dialogue, a prompt); None: its rows are sums over streams."""


class Row(NamedTuple):
    """A row for the table with this number among the model's tables."""

    table: int
    values: dict[str, Any]


class Erasure(NamedTuple):
    """The TextErased of a dialogue; zeros where there is none."""

    version: int = 0
    position: int = 0


NEVER = Erasure()


class Piece:
    """Events of one stream, mostly a dialogue, that follow each other, folded once for all read models.

    A dialogue is one piece, or, when it has many events, several, each with what the earlier ones left.
    """

    def __init__(
        self, dialogue_id: UUID, events: Sequence[Event], before: Piece | None = None, *, last: bool = True,
        erased: Erasure = NEVER, subject: Subject = "dialogue",
    ) -> None:  # fmt: skip
        """`last`: the dialogue's history ends here. `erased`: its last erasure, if known, wherever it is."""
        self.dialogue_id, self.events, self.before, self.last = dialogue_id, events, before, last
        self.subject = subject
        self.version: int = events[-1].version if events else before.version if before else 0
        """Of its last event."""
        self.erased = erased
        self.ahead = erased.version if erased.version > self.version else 0
        """The version of an erasure that comes after this piece: the text in it is gone already."""
        self._unopened: int = before._unopened if before else 0
        """The version of the last event with text that could not be opened, and is not known as erased."""
        for event in events:
            if isinstance(event.fact, TextErased):
                self._unopened = 0
            elif lacks_text(event.fact):
                self._unopened = event.version
        self.carried: dict[str, Any] = {}
        """What a read model (by name) wants to know again in the next piece."""
        if before:
            self.carried |= before.carried
            before._let_go()

    @cached_property
    def dialogue(self) -> Dialogue:
        """The transcript after this piece: with the messages of this piece and of the page they go on.

        Raises what the fold raises.
        """
        dialogue = self.before.dialogue if self.before else None
        if dialogue:  # the open page's messages, and the newest in any case
            kept = dialogue.messages[-max(1, dialogue.message_count % PAGE) :]
            dialogue = replace(dialogue, messages=kept)
        dialogue = transcribed(dialogue, self.events)
        assert dialogue is not None  # noqa: S101 - a piece has events, or comes after one that has
        return blanked(dialogue, self.ahead) if self.ahead else dialogue

    @cached_property
    def state(self) -> DialogueState:
        """The deciding state after this piece. Raises what the fold raises."""
        return reduce(evolve, self.events, self.before.state if self.before else NOTHING)

    @property
    def unsettled(self) -> bool:
        """Whether text is gone, and no erasure in or after this piece says so: it is still on its way."""
        return bool(self.last and self._unopened and not self.ahead)

    @property
    def pages_before(self) -> int:
        """How many pages of messages were full before this piece."""
        return self.before.dialogue.message_count // PAGE if self.before else 0

    def _let_go(self) -> None:
        """Folds what comes next from, so that what came before need not be kept."""
        for fold in ("dialogue", "state"):
            with suppress(Exception):  # who asks for it will hear of it
                getattr(self, fold)
        self.before = None


class ReadModel(Struct, frozen=True, kw_only=True):
    """One read model as this code knows it; `name` is also that of its module, `.sql` file and checkpoint.

    In its SQL, `_vN` is the shape and `_gN` the build: `NAME_vN_gN` is a table, `NAME_vN` the view on
    the table of the build that serves. Every table has a `tenant_id`.
    """

    name: str
    subject: Subject = "dialogue"
    """What the streams are about that it is made of; it is given no others."""
    shape: int
    fold: int = 1
    """Raised when `apply` comes to write something else into tables of the same shape: older code then keeps
    away from the builds of newer code."""
    tables: tuple[Table, ...]
    apply: Callable[[Build, Connection[Any], Sequence[Event]], None]
    """Folds events, which follow those already applied, into the tables of a build; within the caller's
    transaction, for any subset of streams."""
    rows: Callable[[Piece], Iterator[Row]]
    """What a stream's whole history makes of the tables: loaded by a rebuild, expected by a check."""
    pace: float = 0.0
    """Seconds that a batch waits for more: what somebody waits for goes first, the rest in bigger batches."""

    @property
    def views(self) -> tuple[str, ...]:
        """What is read instead of the tables, in their order."""
        return tuple(f"bichat.{table.name}_v{self.shape}" for table in self.tables)

    def sql(self, block: str) -> bytes:
        """A statement that reads the views."""
        return _resolved(self.name, block, self.shape, None, "bichat")

    def has(self, block: str) -> bool:
        """Whether there is such a statement."""
        return block in sql.blocks(self.name)


class Build(Struct, frozen=True):
    """One set of tables of a read model."""

    model: ReadModel
    number: int
    schema: str = "bichat"
    """`pg_temp` for tables that are only there to be compared with."""

    @property
    def id(self) -> str:
        """As in `dialogues_v1_g1`: what locks and log lines call it."""
        return f"{self.model.name}_v{self.model.shape}_g{self.number}"

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables of this build."""
        return tuple(
            f"{self.schema}.{table.name}_v{self.model.shape}_g{self.number}" for table in self.model.tables
        )

    @property
    def key(self) -> tuple[str, int, int]:
        """What its checkpoint is found by."""
        return self.model.name, self.model.shape, self.number

    @property
    def names(self) -> dict[str, Any]:
        """The same for statements with named values."""
        return {"name": self.model.name, "shape": self.model.shape, "build": self.number}

    def sql(self, block: str) -> bytes:
        """A statement on the tables of this build."""
        return _resolved(self.model.name, block, self.model.shape, self.number, self.schema)


@cache
def _resolved(name: str, block: str, shape: int, build: int | None, schema: str) -> bytes:
    text = sql.blocks(name)[block].replace("_vN", f"_v{shape}")
    if build is not None:
        text = text.replace("_gN", f"_g{build}")
    if schema != "bichat":
        text = text.replace("bichat.", f"{schema}.")
    return text.encode()


def question_of(fact: Fact) -> UUID | None:
    """The question whose reply `fact` is about."""
    match fact:
        case MessageAdded(answers=answers):
            return answers.message_id if answers else None
        case ReplyStarted() | ReplyFailed() | ReplyCancelRequested() | ReplyCancelled() | ReplyRequeued():
            return fact.message_id
        case ReplyAccounted() | FunctionCalled() | FunctionReturned():
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
