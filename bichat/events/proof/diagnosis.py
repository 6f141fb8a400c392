"""Says what was done to a stream at its first bad event, by trying what would make the hashes fit again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

from bichat.events import envelope
from bichat.events.proof.seals import Leaf, leaf
from bichat.events.seal import GENESIS, Place, chain
from bichat.terminal import line

AHEAD = 200
"""Events after the bad one that are looked at for an explanation."""
LONGEST = 100
"""Characters of a column that are told."""

What = Literal[
    "changed", "removed", "inserted", "reordered", "truncated", "rewritten", "dialogue removed",
    "dialogue inserted", "seal changed", "seal removed", "seal forged", "log cut off",
]  # fmt: skip


class Link(NamedTuple):
    """An event as stored, of the columns of which a check has to know."""

    stream_id: UUID
    version: int
    topic: str
    state: bytes
    tenant_id: UUID
    command_id: UUID
    hash: bytes
    position: int
    actor: str | None

    def hashed(self, previous: bytes, **changed: Any) -> bytes:
        """What its hash should be after `previous`, or would be if some of its columns were others."""
        one = self._replace(**changed) if changed else self
        place = Place(one.tenant_id, one.stream_id, one.version, one.topic)
        return chain(previous, place, one.command_id, one.state)

    def fits(self, previous: bytes, **changed: Any) -> bool:
        """Whether its stored hash is that."""
        return self.hashed(previous, **changed) == self.hash


class Diagnosis(Struct, frozen=True):
    """The first bad version, and what is wrong there as far as hashes tell."""

    version: int
    what: What
    reason: str


class Evidence(NamedTuple):
    """What is known around the first bad event of a stream."""

    before: Link | None
    """The last good one."""
    bad: Link
    after: Sequence[Link]
    leaves: Mapping[int, Sequence[Leaf]]
    """By version."""

    @property
    def version(self) -> int:
        """The one that should be here."""
        return self.before.version + 1 if self.before else 1

    @property
    def previous(self) -> bytes:
        """The hash that should be chained to."""
        return self.before.hash if self.before else GENESIS

    def sealed(self, version: int, hash_: bytes) -> bool:
        """Whether a seal says that the event at `version` has this hash."""
        return any(
            leaf(one.tenant_id, one.stream_id, version, hash_) == one.leaf
            for one in self.leaves.get(version, ())
        )


def diagnose(evidence: Evidence) -> Diagnosis:
    """The best explanation; what several explanations fit is said to be so."""
    explanations = (_no_version, _moved, _gap, _column, _stored_hash, _shifted, _content)
    found = (explain(evidence) for explain in explanations)
    return next(one for one in found if one)


def _no_version(e: Evidence) -> Diagnosis | None:
    if e.bad.version >= e.version:
        return None
    return Diagnosis(e.bad.version, "inserted", "there is no such version: they count from 1")


def _moved(e: Evidence) -> Diagnosis | None:
    """Another event stands where the one that belongs here should."""
    rest = (e.bad, *e.after)
    place = next((n for n, one in enumerate(rest) if one.fits(e.previous, version=e.version)), None)
    if place is None or (place == 0 and e.bad.version == e.version):
        return None
    here = rest[place]
    following = rest[place + 1] if place + 1 < len(rest) else None
    shifted = following is None or following.fits(here.hash, version=e.version + 1)
    if place and shifted and not e.bad.fits(here.hash, version=e.version + 1):
        many = "it was" if place == 1 else f"it and the next {place - 1} were"
        return Diagnosis(
            e.version, "inserted", f"{many} put in: version {here.version} is chained to version "
            f"{e.version - 1}" if e.before else f"{many} put in: version {here.version} is the stream's first"
        )  # fmt: skip
    return Diagnosis(
        e.version, "reordered", f"the event that belongs here now stands as version {here.version}"
    )


def _gap(e: Evidence) -> Diagnosis | None:
    if e.bad.version == e.version:
        return None
    last = e.bad.version - 1
    which = f"version {last} is" if last == e.version else f"versions {e.version} to {last} are"
    return Diagnosis(e.version, "removed", f"{which} missing, version {e.bad.version} follows")


def _column(e: Evidence) -> Diagnosis | None:
    """Its hash is right if one column is what it may have been."""
    for name, values in _guesses(e):
        for value in values:
            if value != getattr(e.bad, name) and e.bad.fits(e.previous, **{name: value}):
                was, now = (line(str(one), LONGEST) for one in (value, getattr(e.bad, name)))
                return Diagnosis(e.version, "changed", f"its column {name} was {was}, and is {now}")
    return None


def _guesses(e: Evidence) -> Iterator[tuple[str, set[Any]]]:
    beside = [one for one in (e.before, *e.after[:1]) if one]
    tenants = {one.tenant_id for one in beside}
    yield "topic", {name for name, _ in envelope.kinds()}
    yield "tenant_id", tenants | {one.tenant_id for leaves in e.leaves.values() for one in leaves}
    yield "command_id", {one.command_id for one in beside}


def _stored_hash(e: Evidence) -> Diagnosis | None:
    """What it says is what the next one, or a seal, is built on: only the column `hash` is wrong."""
    own = e.bad.hashed(e.previous)
    if (e.after and e.after[0].fits(own)) or e.sealed(e.version, own):
        return Diagnosis(e.version, "changed", "its stored hash was changed; what it says is as it was")
    return None


def _shifted(e: Evidence) -> Diagnosis | None:
    """Events were removed, and those after them given their numbers."""
    for gone in range(1, AHEAD):
        genuine = e.version + gone
        follows = e.after and e.after[0].fits(e.bad.hash, version=genuine + 1)
        if follows or e.sealed(genuine, e.bad.hash):
            many = "an event is" if gone == 1 else f"{gone} events are"
            return Diagnosis(
                e.version, "removed", f"{many} missing, and what stands here was version {genuine}"
            )
    return None


def _content(e: Evidence) -> Diagnosis:
    if e.after and e.after[0].fits(e.bad.hash):
        return Diagnosis(
            e.version, "changed", "what it says is not what was hashed; the events after it fit its hash"
        )
    if e.sealed(e.version, e.bad.hash):
        return Diagnosis(e.version, "changed", "what it says is not what was hashed and sealed")
    if not e.after:
        return Diagnosis(
            e.version, "changed", "it does not fit the event before it: it was changed, replaced or put in"
        )
    return Diagnosis(
        e.version, "changed", "neither it nor what follows fits the event before it: it was changed or "
        "replaced, or others were removed, put in or moved and hashed anew"
    )  # fmt: skip
