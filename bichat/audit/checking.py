"""Checks the log itself, side by side and at one moment: every stream event by event, every seal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg import Connection

from bichat.events import slices
from bichat.events.proof import chains, seals
from bichat.events.proof.chains import Coverage
from bichat.events.proof.checker import Checker, Finding
from bichat.events.proof.seals import Seal
from bichat.events.proof.signing import Remembered, Signer
from bichat.events.slices import Slice
from bichat.projections.processes import Database, Desk, Pool, desk
from bichat.projections.sql import statement
from bichat.projections.verify import Progress, snapshot

SHOWN = 20
"""Findings that are told of each kind of thing: streams, seals."""
RECENT = 10_000
"""Seals, about a week of them, that are followed to the newest one for a swift check."""
_END = 2**63 - 1


class Verdict(Struct, frozen=True, kw_only=True):
    """What a check of the log has found; without findings it is valid."""

    events: int
    streams: int
    unsealed: int
    """Events at the ends of streams that no seal covers yet: only chained."""
    seals: int
    seal: Seal | None
    """The newest one."""
    bad_streams: int
    findings: list[Finding]
    """The first of them: of seals, then of streams."""
    seconds: float

    @property
    def valid(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


class Single(Struct, frozen=True, kw_only=True):
    """What a check of one stream has found."""

    stream_id: UUID
    tenant_id: UUID
    events: int
    head: bytes
    sealed: int
    seal: Seal | None
    """The newest one over it."""
    findings: list[Finding]
    """Of the stream, then of seals."""
    checked: int = 1
    """The seal from which on the chain of seals was followed to the newest one."""


class _Part(Struct, frozen=True):
    events: int
    streams: int
    unsealed: int
    bad: int
    findings: list[Finding]


class CheckSlice(Struct, frozen=True):
    """The task of checking the streams of one slice."""

    snapshot: str
    slice: Slice
    sealed: Coverage
    tenant_id: UUID | None

    def __call__(self, here: Desk) -> _Part:
        """Reads in the order of the streams, with no key."""
        events = streams = unsealed = bad = 0
        findings: list[Finding] = []
        with snapshot(here.connection, self.snapshot):
            for one in chains.check(here.connection, self.slice, self.sealed, self.tenant_id):
                events, streams = events + one.events, streams + 1
                unsealed += max(0, one.events - one.sealed)
                if found := _finding(one):
                    bad += 1
                    findings = [*findings, found][:SHOWN]
        return _Part(events, streams, unsealed, bad, findings)


def verify(
    database: Database, pool: Pool, progress: Progress, *,
    tenant_id: UUID | None = None, trusted: frozenset[bytes] | None = None,
) -> Verdict:  # fmt: skip
    """Checks every stream, or a tenant's, and every seal. `trusted`: whose signatures count."""
    began = time.perf_counter()
    with desk(database) as here:
        remembered = Signer(here.keys).remembered()  # before the log is looked at: its seals are newer
        with snapshot(here.connection):
            checker = Checker(remembered, trusted)
            of_seals = list(_of_seals(here.connection, checker, progress))
            sealed = _sealed(checker, of_seals)
            parts = list(_parts(here.connection, pool, progress, sealed, tenant_id))
    found = sorted((f for part in parts for f in part.findings), key=lambda f: str(f.stream_id))
    return Verdict(
        events=sum(part.events for part in parts), streams=sum(part.streams for part in parts),
        unsealed=sum(part.unsealed for part in parts), seals=checker.count,
        seal=checker.newest.seal if checker.newest else None, bad_streams=sum(part.bad for part in parts),
        findings=of_seals[:SHOWN] + found[:SHOWN], seconds=round(time.perf_counter() - began, 3),
    )  # fmt: skip


def bind(connection: Connection[Any], tenant_id: UUID) -> None:
    """From now on the connection sees this tenant's rows and nothing else, changes nothing, and takes no
    longer than 30 s for a statement."""
    connection.execute(_sql("reader"), prepare=False)
    connection.execute(statement("reads", "bind"), (str(tenant_id),))


def single(
    connection: Connection[Any], remembered: Remembered, stream_id: UUID,
    trusted: frozenset[bytes] | None = None,
) -> Single | None:  # fmt: skip
    """Checks one stream, the seals over it, and that no seal is missing; None: there is no such stream.

    At one moment, which has to be later than that at which `remembered` was read.
    """
    with snapshot(connection):
        over = [n for (n,) in connection.execute(_sql("seals_over"), (stream_id,))]
        checker = Checker(remembered, trusted)
        of_seals = list(checker.check(seals.read(connection, over)))
        found = _single(connection, stream_id, checker, of_seals)
        if found and not found.findings:
            number = found.seal.number if found.seal else 0
            found = replace(found, findings=list(_unfit(connection, number))[:SHOWN])
    return found


def _single(
    connection: Connection[Any], stream_id: UUID, checker: Checker, of_seals: list[Finding]
) -> Single | None:
    only = Slice(0, stream_id, None, only=(stream_id,))
    one = next(chains.check(connection, only, _sealed(checker, of_seals)), None)
    if one is None:
        return None
    found, newest = _finding(one), seals.numbered(connection, one.seal)
    return Single(
        stream_id=one.stream_id, tenant_id=one.tenant_id, events=one.events, head=one.head,
        sealed=one.sealed, seal=newest.seal if newest else None,
        findings=([found] if found else []) + of_seals[:SHOWN],
    )  # fmt: skip


def swift(connection: Connection[Any], remembered: Remembered, stream_id: UUID) -> Single | None:
    """Checks one stream and the seals over it, with their leaves; of the newest `RECENT` seals the hashes.

    What it costs does not grow with what was sealed since: whether a later leaf was said to be another's is
    for `single`.
    """
    with snapshot(connection):
        over = [n for (n,) in connection.execute(_sql("seals_over"), (stream_id,))]
        last = seals.newest(connection)
        first = max(1, last.seal.number - RECENT + 1) if last else 1
        checker = Checker(remembered, first=first)
        of_seals = list(checker.check(seals.recent(connection, over, first)))
        found = _single(connection, stream_id, checker, of_seals)
    return found and replace(found, checked=first)


def _unfit(connection: Connection[Any], after: int) -> Iterator[Finding]:
    """A later seal may be over the stream, and its leaf be said to be another's."""
    reason = (
        "a leaf of it does not fit the log: another stream was touched, or a leaf of this one"
        " is said to be another's; a check of everything tells"
    )
    for (number,) in connection.execute("select bichat.unfit_seals(%s)", (after,)):
        yield Finding(what="seal changed", seal=number, reason=reason)


def _sealed(checker: Checker, found: list[Finding]) -> Coverage:
    fence = checker.newest.seal.position if checker.newest else 0
    return Coverage(fence, frozenset(one.seal for one in found if one.seal))


def _of_seals(connection: Connection[Any], checker: Checker, progress: Progress) -> Iterator[Finding]:
    row = connection.execute(_sql("count_seals")).fetchone()
    total = row[0] if row else 0

    def told() -> Iterator[seals.Stored]:
        for number, one in enumerate(seals.read(connection, owner=True), 1):
            yield one
            progress("seals", number, total)

    return checker.check(told())


def _parts(
    connection: Connection[Any], pool: Pool, progress: Progress, sealed: Coverage, tenant_id: UUID | None
) -> Iterator[_Part]:
    row = connection.execute(_sql("count"), {"tenant": tenant_id}).fetchone()
    total = row[0] if row else 0
    shared = connection.execute(statement("verify", "export")).fetchone()
    assert shared  # noqa: S101 - a function has a value
    cuts = slices.between(slices.cut(total, connection, _END))
    done = 0
    progress("chains", 0, total)
    for part in pool.each([CheckSlice(shared[0], cut, sealed, tenant_id) for cut in cuts]):
        done += part.events
        progress("chains", min(done, total), total)
        yield part


def _finding(one: chains.Checked) -> Finding | None:
    if one.wrong is None:
        return None
    return Finding(
        what=one.wrong.what, reason=one.wrong.reason, stream_id=one.stream_id, tenant_id=one.tenant_id,
        version=one.wrong.version,
    )  # fmt: skip


def _sql(block: str) -> bytes:
    return statement("checking", block, "bichat.audit")
