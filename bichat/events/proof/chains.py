"""Checks streams event by event: each against the one before it, and against the seals over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct
from psycopg import Connection
from psycopg.rows import tuple_row

from bichat.events.codec import decoded
from bichat.events.envelope import Actor
from bichat.events.proof.diagnosis import AHEAD, LONGEST, Diagnosis, Evidence, Link, diagnose
from bichat.events.proof.seals import Leaf, leaf
from bichat.events.seal import GENESIS
from bichat.events.slices import Slice
from bichat.terminal import line

_FETCHED, _BYTES = 512, 16_000_000
"""Rows read at once, and about how long they may be together."""
_WITHIN = (
    " {id} >= %(first)s and (%(end)s::uuid is null or {id} < %(end)s)"
    " and (cardinality(%(only)s::uuid[]) = 0 or {id} = any(%(only)s))"
    " and (%(tenant)s::uuid is null or tenant_id = %(tenant)s)"
)
_LINKS = f"""
select originator_id, originator_version, topic, state, tenant_id, command_id, hash, notification_id, actor
from bichat.stored_events where {_WITHIN.format(id="originator_id")}
order by originator_id, originator_version
"""  # noqa: S608 - columns of ours
_LEAVES = f"""
select stream_id, tenant_id, version, seal, leaf
from bichat.seal_leaves where {_WITHIN.format(id="stream_id")} order by stream_id, version, seal
"""  # noqa: S608 - columns of ours


class Checked(Struct, frozen=True):
    """What a check found of one stream; `sealed` is the version up to which seals cover it."""

    stream_id: UUID
    tenant_id: UUID
    events: int
    sealed: int
    seal: int
    """The newest one over it; 0: none."""
    head: bytes
    """The stored hash of its last event."""
    wrong: Diagnosis | None


class Coverage(Struct, frozen=True):
    """How far the log is sealed; something is wrong with the seals that are `broken`."""

    fence: int
    """Up to this position everything should be."""
    broken: frozenset[int] = frozenset()


def check(
    connection: Connection[Any], slice_: Slice, sealed: Coverage, tenant: UUID | None = None
) -> Iterator[Checked]:
    """Each stream of a slice, in order. Within the caller's transaction, in bounded memory."""
    values = {**slice_.range, "tenant": tenant}
    links = groupby(map(Link._make, _rows(connection, "links", _LINKS, values)), lambda one: one.stream_id)
    leaves = groupby(map(Leaf._make, _rows(connection, "leaves", _LEAVES, values)), lambda one: one.stream_id)
    for stream_id, events, over in _merged(links, leaves):
        yield _Stream(stream_id, over, sealed).check(events)


def _rows(connection: Connection[Any], name: str, query: str, values: dict[str, Any]) -> Iterator[Any]:
    with connection.cursor(name, binary=True, row_factory=tuple_row) as cursor:
        cursor.execute(query.encode(), values)
        few = _FETCHED
        while rows := cursor.fetchmany(few):
            longest = max(len(row[3]) for row in rows) if name == "links" else 1
            few = min(_FETCHED, 1 + _BYTES // longest)
            yield from rows


def _merged(
    links: Iterator[tuple[UUID, Iterator[Link]]], leaves: Iterator[tuple[UUID, Iterator[Leaf]]]
) -> Iterator[tuple[UUID, Iterator[Link], list[Leaf]]]:
    """Two sorted sequences as one: of a stream that is gone there are leaves only."""
    events, sealed = next(links, None), next(leaves, None)
    while events or sealed:
        if sealed is None or (events and events[0] < sealed[0]):
            assert events is not None  # noqa: S101 - one of the two is there
            yield *events, []
            events = next(links, None)
        elif events is None or sealed[0] < events[0]:
            yield sealed[0], iter(()), list(sealed[1])
            sealed = next(leaves, None)
        else:
            yield *events, list(sealed[1])
            events, sealed = next(links, None), next(leaves, None)


class _Doer(Struct):
    by: Actor


_doer = msgspec.json.Decoder(_Doer)


class _Stream:
    """One stream, checked from its first event on until something is wrong."""

    def __init__(self, stream_id: UUID, leaves: Sequence[Leaf], sealed: Coverage) -> None:
        self._id, self._newest, self._log = stream_id, leaves[-1] if leaves else None, sealed
        self._leaves: dict[int, list[Leaf]] = {}
        for one in leaves:
            self._leaves.setdefault(one.version, []).append(one)
        self._sealed = self._newest.version if self._newest else 0
        self._agreed = 0
        """The newest version at which a seal agrees."""

    def check(self, links: Iterator[Link]) -> Checked:
        last: Link | None = None
        wrong: Diagnosis | None = None
        beside: Diagnosis | None = None  # what a seal says counts for more
        events = 0
        for link in links:
            events += 1
            before, last = last, link
            if wrong is None and not _fits(before, link):
                after = list(islice(links, AHEAD))
                wrong = diagnose(Evidence(before, link, after, self._leaves))
                events, last = events + len(after), after[-1] if after else link
            elif wrong is None:
                wrong = self._against_seals(link)
                beside = beside or self._beside(before, link)
        wrong = wrong or self._end(last) or beside
        tenant = last or self._newest
        assert tenant is not None  # noqa: S101 - a stream has events, or leaves are left of it
        return Checked(
            self._id, tenant.tenant_id, events, self._sealed, self._newest.seal if self._newest else 0,
            last.hash if last else GENESIS, wrong,
        )  # fmt: skip

    def _beside(self, before: Link | None, link: Link) -> Diagnosis | None:
        """The columns that are in no hash, as far as something tells what they should be."""
        try:
            by = decoded(_doer, link.state).by
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Diagnosis(link.version, "changed", "what it says is nothing that bichat writes")
        actor = by.id if by.kind == "user" else None
        if actor != link.actor:
            reason = f"its column actor is {_cut(link.actor)}, though {_cut(actor) or 'no person'} caused it"
            return Diagnosis(link.version, "changed", reason)
        if before and link.position <= before.position:
            reason = "its position is not after that of the version before: positions were changed"
            return Diagnosis(link.version, "changed", reason)
        return None

    def _against_seals(self, link: Link) -> Diagnosis | None:
        if link.version > self._sealed:
            return self._unsealed(link)
        for one in self._leaves.get(link.version, ()):
            if leaf(link.tenant_id, link.stream_id, link.version, link.hash) != one.leaf:
                first = self._agreed + 1
                which = f"versions {first} to {link.version}" if first < link.version else f"version {first}"
                reason = f"{which} fit each other, but not seal {one.seal}: hashed anew after that"
                whole = "the whole stream was hashed anew" if first == 1 else "the stream was hashed anew"
                doubt = (
                    ", or its leaf was changed: that seal is broken" if one.seal in self._log.broken else ""
                )
                return Diagnosis(first, "rewritten", f"{whole}: {reason}{doubt}")
            self._agreed = link.version
        return None

    def _unsealed(self, link: Link) -> Diagnosis | None:
        if link.position > self._log.fence:
            return None
        doubt = ", or its leaf was taken from a seal that is broken" if self._log.broken else ""
        why = f"put in later, or its position was changed{doubt}"
        reason = f"stands within what is sealed, under no seal: {why}"
        if not self._sealed:
            return Diagnosis(1, "dialogue inserted", f"the whole stream {reason}")
        return Diagnosis(link.version, "inserted", f"it {reason}")

    def _end(self, last: Link | None) -> Diagnosis | None:
        if last is None:
            newest = self._newest.seal if self._newest else 0
            reason = f"the whole stream is gone, of which seal {newest} has {self._sealed} versions"
            return Diagnosis(1, "dialogue removed", reason)
        if stray := [one.seal for version, leaves in self._leaves.items() if version < 1 for one in leaves]:
            # A leaf that is not compared proves nothing, whatever the root over it says.
            reason = (
                f"its leaf in seal {stray[0]} was changed, which is of no version: what it sealed is gone"
            )
            return Diagnosis(self._agreed + 1, "rewritten", reason)
        if last.version >= self._sealed:
            return None
        first = last.version + 1
        which = f"versions {first} to {self._sealed} are" if first < self._sealed else f"version {first} is"
        reason = f"{which} missing at the end, sealed by seal {self._seal(first)}"
        if self._agreed < last.version:
            left = f"versions {self._agreed + 1} to {last.version}"
            reason += f"; whether {left} are as they were, no seal tells any more"
        return Diagnosis(first, "truncated", reason)

    def _seal(self, version: int) -> int:
        """The first seal over a version."""
        return min(one.seal for v, leaves in self._leaves.items() if v >= version for one in leaves)


def _fits(before: Link | None, link: Link) -> bool:
    if before is None:
        return link.version == 1 and link.fits(GENESIS)
    return link.version == before.version + 1 and link.fits(before.hash)


def _cut(actor: str | None) -> str | None:
    return actor and line(actor, LONGEST)
