"""The table of events: our recorder under the eventsourcing library, with append in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import IntegrityError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore, PostgresFactory
from eventsourcing.utils import Environment
from msgspec import Struct
from psycopg.rows import DictRow, dict_row, tuple_row
from psycopg_pool import ConnectionPool

from bichat.events.arrays import bigints, byteas, ints, teach, texts, uuids
from bichat.events.codec import StoredRow
from bichat.events.seal import GENESIS


class Head(Struct, frozen=True):
    """Where a stream ends; version 0 is before its first event."""

    version: int = 0
    hash: bytes = GENESIS
    position: int = 0
    at: datetime | None = None


class Receipt(Struct, frozen=True):
    """What a command with an Idempotency-Key leaves behind, in the transaction of its events."""

    tenant_id: UUID
    user_id: str
    key: str
    fingerprint: bytes
    command_id: UUID
    answer: str
    """JSON of what was answered, without the position."""
    position: int = 0


class Group(Struct, frozen=True):
    """What one batch appends to one stream; it wins whole or loses whole."""

    stream_id: UUID
    head: Head
    """What was decided on."""
    rows: tuple[StoredRow, ...] = ()
    receipts: tuple[tuple[int, Receipt], ...] = ()
    """Each with the number of rows that stand before it; 0: it wrote nothing, and has its position."""


class Found(Struct, frozen=True):
    """One row of what a refresh brought: exactly one of the three for the asked stream or key."""

    asked: int
    snapshot: tuple[Head, bytes] | None = None
    row: StoredRow | None = None
    receipt: Receipt | None = None


class Datastore(PostgresDatastore):
    """The library's datastore on a URL of ours, so that every libpq option works."""

    def __init__(self, url: str, *, connections: int = 8) -> None:
        super().__init__("", "", "", "", "", schema="bichat")
        self.pool.close()
        self.pool = ConnectionPool(  # type: ignore[assignment]
            url, min_size=1, max_size=connections, open=False, timeout=5, configure=self.after_connect_func(),
            check=None, reconnect_timeout=5,
            kwargs={"row_factory": dict_row, "application_name": "bichat log", "connect_timeout": 5},
        )  # fmt: skip

    def after_connect_func(self) -> Callable[[psycopg.Connection[Any]], None]:
        """Each statement stands alone and none can hang for ever."""

        def configure(connection: psycopg.Connection[DictRow]) -> None:
            connection.autocommit = True
            teach(connection)
            connection.execute("set statement_timeout = '15s'")
            # All is looked up by key, here and in the append, whatever statistics say, or said when a plan
            # was made that the session keeps.
            connection.execute("set enable_seqscan = off; set plan_cache_mode = force_generic_plan")

        return configure


class LogFactory(PostgresFactory):
    """Builds the recorder on the given URL, and nothing from the process's environment."""

    def __init__(self, env: Environment) -> None:
        super(PostgresFactory, self).__init__({"POSTGRES_DBNAME": "", **_UNUSED})
        self.datastore = Datastore(env["DATABASE_URL"])

    def application_recorder(self) -> LogRecorder:
        """The recorder of `bichat.stored_events`; tables come from migrations."""
        return LogRecorder(self.datastore, events_table_name="stored_events")


_UNUSED = {"POSTGRES_HOST": "", "POSTGRES_USER": "", "POSTGRES_PASSWORD": "", "CREATE_TABLE": "n"}

_NO_END = 2**63 - 1
COLUMNS = (
    "originator_id, originator_version, topic, state, tenant_id, command_id, hash,"
    " notification_id, recorded_at"
)
_FIELDS = (
    "originator_id", "originator_version", "topic", "state", "tenant_id", "command_id", "hash",
    "position", "recorded_at",
)  # fmt: skip
"""What they are in a `StoredRow`."""

_APPEND = (
    "select winner, positions from bichat.append("
    "%b::uuid[], %b::bigint[], %b::bytea[],"
    "%b::int[], %b::bigint[], %b::text[], %b::bytea[], %b::uuid[], %b::uuid[], %b::bytea[],"
    "%b::int[], %b::uuid[], %b::text[], %b::text[], %b::bytea[], %b::uuid[], %b::text[], %b::bigint[],"
    "%b::text[], %b::uuid[])"
)

# Everything that a batch has to know before it decides, in one snapshot: for a stream that is not held
# (version -1) its newest snapshot, the events after that or after the held version, and receipts.
_REFRESH = f"""
with asked as (
    select * from unnest(%b::uuid[], %b::bigint[], %b::int[]) with ordinality as a(stream, held, fold, nr)
), base as (
    select a.nr, a.stream, s.state, s.hash, s.position, s.at,
           case when a.held >= 0 then a.held else coalesce(s.version, 0) end as version
    from asked a
    left join lateral (
        select * from bichat.snapshots
        where a.held < 0 and stream_id = a.stream and fold_version = a.fold limit 1
    ) s on true
)
select 0, nr, stream, version, null::text, state, null::uuid, null::uuid, hash, position, at
from base where state is not null
union all
select 1, b.nr, e.* from base b cross join lateral (
    select {COLUMNS} from bichat.stored_events
    where originator_id = b.stream and originator_version > b.version order by originator_version
) e
union all
select 2, k.nr, null, null, null, convert_to(r.answer::text, 'UTF8'), r.tenant_id, r.command_id,
       r.fingerprint, r.position, null
from unnest(%b::uuid[], %b::text[], %b::text[]) with ordinality as k(tenant_id, user_id, key, nr)
cross join lateral (
    select * from bichat.receipts r
    where r.tenant_id = k.tenant_id and r.user_id = k.user_id and r.key = k.key limit 1
) r
order by 1, 2, 4
"""  # noqa: S608 - columns of ours

_SNAPSHOT = """
insert into bichat.snapshots (stream_id, tenant_id, fold_version, version, position, at, hash, state)
select * from unnest(%b::uuid[], %b::uuid[], %b::int[], %b::bigint[], %b::bigint[], %b::timestamptz[],
                     %b::bytea[], %b::bytea[])
on conflict (stream_id, fold_version) do update set
    version = excluded.version, position = excluded.position,
    at = excluded.at, hash = excluded.hash, state = excluded.state
where snapshots.version < excluded.version
"""


class LogRecorder(PostgresApplicationRecorder):
    """Appends and selects whole rows, with the columns that are ours."""

    def append(self, groups: Sequence[Group]) -> dict[int, list[int]]:
        """Appends in one round trip: the winners' indexes with the positions of their rows.

        Whoever is not in the answer lost to a rival writer and wrote nothing. Raises the library's
        `PersistenceError` when the outcome is unknown or the database cannot be reached.
        """
        rows = [(nr, row) for nr, group in enumerate(groups, 1) for row in group.rows]
        receipts = [
            (nr, r, ahead if ahead else -r.position)
            for nr, group in enumerate(groups, 1)
            for ahead, r in group.receipts
        ]
        parameters = (
            uuids(g.stream_id for g in groups), bigints(g.head.version for g in groups),
            byteas(g.head.hash for g in groups),
            ints(nr for nr, _ in rows), bigints(r.originator_version for _, r in rows),
            texts(r.topic for _, r in rows), byteas(r.state for _, r in rows),
            uuids(r.tenant_id for _, r in rows), uuids(r.command_id for _, r in rows),
            byteas(r.hash for _, r in rows),
            ints(nr for nr, _, _ in receipts), uuids(r.tenant_id for _, r, _ in receipts),
            texts(r.user_id for _, r, _ in receipts), texts(r.key for _, r, _ in receipts),
            byteas(r.fingerprint for _, r, _ in receipts), uuids(r.command_id for _, r, _ in receipts),
            texts(r.answer for _, r, _ in receipts), bigints(n for _, _, n in receipts),
            texts(row.actor for _, row in rows), uuids(row.key_id for _, row in rows),
        )  # fmt: skip
        return {winner - 1: positions for winner, positions in self._rows(_APPEND, parameters)}

    def refresh(
        self, held: Sequence[tuple[UUID, int, int]], keys: Sequence[tuple[UUID, str, str]]
    ) -> list[Found]:
        """What the log knows of streams beyond the held versions (-1: not held), and receipts for `keys`.

        With each stream goes the version of its fold.
        """
        parameters = (
            uuids(stream for stream, _, _ in held), bigints(version for _, version, _ in held),
            ints(fold for _, _, fold in held),
            uuids(tenant for tenant, _, _ in keys), texts(user for _, user, _ in keys),
            texts(key for _, _, key in keys),
        )  # fmt: skip
        return [
            _found(what, asked - 1, columns) for what, asked, *columns in self._rows(_REFRESH, parameters)
        ]

    def keep(self, snapshots: Sequence[tuple[Any, ...]]) -> None:
        """Writes snapshots (stream, tenant, fold version, version, position, at, hash, state)."""
        with self.datastore.get_connection() as connection:
            connection.execute(_SNAPSHOT, tuple(map(list, zip(*snapshots, strict=True))))

    def void(self, key_ids: Sequence[UUID]) -> None:
        """From now on nothing is appended that these keys have sealed; what was, is in the log."""
        with self.datastore.get_connection() as connection:
            connection.execute("select bichat.void(%s)", (list(key_ids),))

    def mentioning(
        self, tenant_id: UUID, topics: Sequence[str], text: bytes, actor: str | None = None
    ) -> list[StoredRow]:
        """The rows of these topics in a tenant's streams in which `text` occurs, or that `actor` caused."""
        query = (
            f"select {COLUMNS} from bichat.stored_events"  # noqa: S608
            " where tenant_id = %b and topic = any(%b)"
            " and (position(%b::bytea in state) > 0 or actor = %b::text) order by notification_id"
        )
        parameters = (tenant_id, list(topics), text, actor)
        return [stored_row(columns) for columns in self._rows(query, parameters)]

    def count(self, tenant_id: UUID, topic: str, command_id: UUID, after: int) -> int:
        """How many events of a topic a command has caused after a position."""
        query = (
            "select count(*) from bichat.stored_events"
            " where tenant_id = %b and topic = %b and command_id = %b and notification_id > %b"
        )
        return int(self._rows(query, (tenant_id, topic, command_id, after))[0][0])

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int]:
        """The library's way in, for one stream; raises `IntegrityError` when it has moved on."""
        rows = tuple(row for row in stored_events if isinstance(row, StoredRow))
        if not rows:
            return []
        head = Head(rows[0].originator_version - 1, rows[0].prev_hash)
        stream_id = UUID(str(rows[0].originator_id))
        won = self.append([Group(stream_id, head, rows)])
        if 0 not in won:
            raise IntegrityError(f"{stream_id} is not at version {head.version} any more")
        return won[0]

    def select_events(
        self, originator_id: UUID | str, *, gt: int | None = None, lte: int | None = None, desc: bool = False,
        limit: int | None = None, topics: Sequence[str] = (),
    ) -> list[StoredRow]:  # fmt: skip
        """The rows of one stream with versions in (gt, lte]."""
        order = "desc" if desc else "asc"
        query = (
            f"select {COLUMNS} from bichat.stored_events where originator_id = %b"  # noqa: S608
            " and originator_version > coalesce(%b::bigint, 0)"  # bounds of the index, in any plan
            f" and originator_version <= coalesce(%b::bigint, {_NO_END})"
            " and (cardinality(%b::text[]) = 0 or topic = any(%b))"
            f" order by originator_version {order} limit %b::bigint"
        )
        wanted = list(topics)
        parameters = (originator_id, gt, lte, wanted, wanted, limit)
        return [stored_row(columns) for columns in self._rows(query, parameters)]

    def _rows(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        with (
            self.datastore.get_connection() as connection,
            connection.cursor(binary=True, row_factory=tuple_row) as cursor,
        ):
            return cursor.execute(query.encode(), parameters, prepare=True).fetchall()


def stored_row(columns: Iterable[Any]) -> StoredRow:
    """A row as selected by `COLUMNS`."""
    row = StoredRow.__new__(StoredRow)
    vars(row).update(zip(_FIELDS, columns, strict=True))  # the constructor of a frozen dataclass is slow
    return row


def _found(what: int, asked: int, columns: list[Any]) -> Found:
    if what == 1:
        return Found(asked, row=stored_row(columns))
    _, version, _, state, _, command_id, hash_, position, at = columns
    if what == 0:
        return Found(asked, snapshot=(Head(version, hash_, position, at), state))
    receipt = Receipt(columns[4], "", "", hash_, command_id, state.decode(), position)
    return Found(asked, receipt=receipt)
