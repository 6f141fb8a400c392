"""The log as the rest of bichat sees it: load what decides, append what was decided, read what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.persistence import (
    InfrastructureFactory,
    InterfaceError,
    OperationalError,
    PersistenceError,
)
from eventsourcing.utils import Environment, EnvType
from msgspec import Struct

from bichat.errors import LogRejected, LogUnavailable
from bichat.events.codec import EventMapper, StoredRow, key_ids
from bichat.events.dialogue_state import NOTHING, DialogueState
from bichat.events.envelope import Event
from bichat.events.keys.store import KeyStore
from bichat.events.recorder import Found, Group, Head, LogFactory, LogRecorder, Receipt
from bichat.events.state import State

T = TypeVar("T")
S = TypeVar("S", bound=State)

SNAPSHOT_EVERY = 100
"""Events between two snapshots of a stream; more while many questions are open, so that it stays cheap."""


class Stream(Struct, Generic[S], frozen=True):
    """A stream as far as deciding needs it; without events, what it will be is said by its state."""

    state: S
    head: Head = Head()
    snapshot: int = 0
    """The version of its newest snapshot known here."""

    def after(self, event: Event) -> Stream[S]:
        """This stream with one more event."""
        head = Head(event.version, event.hash, event.position, event.at)
        return Stream(self.state.after(event), head, self.snapshot)

    def snapshotted(self) -> Stream[S]:
        """This stream once its snapshot is written."""
        return Stream(self.state, self.head, self.head.version)

    @property
    def snapshot_due(self) -> bool:
        """Whether a snapshot saves the next reader enough work."""
        return self.head.version - self.snapshot >= SNAPSHOT_EVERY + self.state.weight // 10


class Known(Struct, frozen=True):
    """What a refresh found."""

    streams: dict[UUID, Stream[Any]]
    unreadable: dict[UUID, Exception]
    receipts: dict[tuple[UUID, str, str], Receipt]


class Ledger(Application[UUID]):
    """The event-sourced application of the library, with a mapper and a recorder of ours.

    Methods block, are safe to use from several threads, and raise `LogUnavailable` when the database
    cannot be reached or does not answer in time, `LogRejected` when it will not take a row.
    """

    name = "bichat"

    def __init__(self, database_url: str, keys: KeyStore) -> None:
        self.keys = keys
        super().__init__({"DATABASE_URL": database_url})

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """Only what is given: the library would mix in the process's environment."""
        return Environment(name, env)

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """A factory on our URL."""
        return LogFactory(env)

    def construct_mapper(self) -> EventMapper:
        """Our mapper: JSON with sealed fields, named by the bare class name."""
        return EventMapper(self.keys.by_id)

    @property
    def _rows(self) -> LogRecorder:
        assert isinstance(self.recorder, LogRecorder)  # noqa: S101 - for the type checker
        return self.recorder

    def encode(self, draft: object) -> StoredRow:
        """The row of a `Draft`."""
        assert isinstance(self.mapper, EventMapper)  # noqa: S101 - for the type checker
        return self.mapper.to_stored_event(draft)  # type: ignore[arg-type]

    def decode(self, row: StoredRow, *, blind: bool = False) -> Event:
        """The event of a row; `blind` leaves private fields shut (`None`)."""
        assert isinstance(self.mapper, EventMapper)  # noqa: S101 - for the type checker
        return self.mapper.to_domain_event(row, blind=blind)

    def refresh(self, held: dict[UUID, Stream[Any]], keys: Sequence[tuple[UUID, str, str]]) -> Known:
        """Brings streams up to date (version 0: not held) and finds receipts, in one round trip.

        `keys` are (tenant, user, key). A stream that cannot be read is in `unreadable`, and harms no other.
        """
        ids = list(held)
        asked = [(i, stream.head.version or -1, stream.state.fold_version) for i, stream in held.items()]
        known = Known(dict(held), {}, {})
        for one in self._patiently(lambda: self._rows.refresh(asked, keys)):
            if one.receipt:
                known.receipts[keys[one.asked]] = one.receipt
            elif ids[one.asked] not in known.unreadable:
                self._advance(known, ids[one.asked], one)
        return known

    def _advance(self, known: Known, stream_id: UUID, found: Found) -> None:
        try:
            if found.snapshot:
                head, state = found.snapshot
                thawed = type(known.streams[stream_id].state).thawed(state)
                known.streams[stream_id] = Stream(thawed, head, head.version)
            elif found.row:
                event = self.decode(found.row, blind=True)
                known.streams[stream_id] = known.streams[stream_id].after(event)
        except Exception as error:
            known.unreadable[stream_id] = error
            del known.streams[stream_id]

    def load(self, dialogue_id: UUID) -> Stream[DialogueState]:
        """A dialogue as it stands in the log now; an empty one when there is none.

        Raises what kept it from being read: `EventTooNew`, `EventUnreadable`, or what the fold met.
        """
        return self.stream(dialogue_id, NOTHING)

    def stream(self, stream_id: UUID, nothing: S) -> Stream[S]:
        """The same for a stream of any kind: `nothing` is its state before the first event."""
        known = self.refresh({stream_id: Stream(nothing)}, ())
        if stream_id in known.unreadable:
            raise known.unreadable[stream_id]
        return known.streams[stream_id]

    def append(self, groups: Sequence[Group]) -> dict[int, list[int]]:
        """Appends groups, each whole or not at all: the winners' indexes with their rows' positions."""
        with _available():
            return self._rows.append(groups)

    def keep_snapshots(self, streams: dict[UUID, Stream[Any]]) -> None:
        """Writes the deciding states of these streams, so that nobody folds them from the start again."""
        rows = [
            (i, s.state.tenant_id, s.state.fold_version, s.head.version, s.head.position, s.head.at,
             s.head.hash, s.state.frozen())
            for i, s in streams.items()
        ]  # fmt: skip
        with _available():
            self._rows.keep(rows)

    def read(
        self, stream_id: UUID, *, after: int = 0, upto: int | None = None, limit: int | None = None,
        desc: bool = False, kinds: Sequence[str] = (),
    ) -> list[Event]:  # fmt: skip
        """The events of one stream with versions in (after, upto], text opened; newest first if `desc`."""
        rows = self._patiently(
            lambda: self._rows.select_events(
                stream_id, gt=after, lte=upto, desc=desc, limit=limit, topics=kinds
            )
        )
        self.keys.prepare_ids(key_id for row in rows for key_id in key_ids(row))
        return [self.decode(row) for row in rows]

    def void(self, key_ids: Sequence[UUID]) -> None:
        """From now on nothing is appended that these keys have sealed; what was, is in the log."""
        with _available():
            self._rows.void(key_ids)

    def mentioning(
        self, tenant_id: UUID, kinds: Sequence[str], text: str, actor: str | None = None
    ) -> list[StoredRow]:
        """The rows of these kinds in a tenant's streams that say `text` unsealed, or that `actor` caused.

        Without `text`, all of them.
        """
        stored = msgspec.json.encode(text) if text else b""
        with _available():
            return self._rows.mentioning(tenant_id, kinds, stored, actor)

    def count(self, tenant_id: UUID, kind: str, command_id: UUID, after: int) -> int:
        """How many events of a kind a command has caused after a position."""
        with _available():
            return self._rows.count(tenant_id, kind, command_id, after)

    def _patiently(self, read: Callable[[], T]) -> T:
        """Reads, and once more on fresh connections: after a restart of the server all held ones are dead."""
        try:
            with _available():
                return read()
        except LogUnavailable:
            self._rows.datastore.pool.check()
        with _available():
            return read()


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise LogUnavailable(reason=_first_line(error)) from error
    except PersistenceError as error:
        raise LogRejected(reason=_first_line(error)) from error


def _first_line(error: PersistenceError) -> str:
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
