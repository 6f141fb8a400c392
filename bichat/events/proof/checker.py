"""Checks seals: each against the one before it, its signature, its leaves, and the anchor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from uuid import UUID

from msgspec import Struct

from bichat.events.proof import merkle
from bichat.events.proof.diagnosis import What
from bichat.events.proof.seals import FIRST, Stored
from bichat.events.proof.signing import Remembered, SetBack, written


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is wrong: with a stream, from a version on, or with a seal."""

    what: What
    reason: str
    stream_id: UUID | None = None
    tenant_id: UUID | None = None
    version: int | None = None
    seal: int | None = None

    def __str__(self) -> str:
        if self.stream_id is None:
            return f"seal {self.seal}: {self.what}: {self.reason}"
        return f"{self.stream_id} version {self.version}: {self.what}: {self.reason}"


class Checker:
    """Told every seal in order; `newest` is the last one that it was told."""

    def __init__(
        self, remembered: Remembered, trusted: frozenset[bytes] | None = None, first: int = 1
    ) -> None:
        """`trusted`: the public keys whose signatures count; else those that the keys store has.

        `first`: the seal from which on it is told all of them; of those before, only some. Then signatures
        are checked only of seals that come with their leaves.
        """
        self._first = first
        self._anchor, self._set_backs = remembered.anchor, remembered.set_backs
        self._trusted = remembered.public_keys if trusted is None else trusted
        self._previous: bytes | None = FIRST
        self._position = 0
        self.newest: Stored | None = None
        self.count = 0

    def check(self, stored: Iterable[Stored]) -> Iterator[Finding]:
        """What is wrong with these seals, the first thing of each, and what is missing."""
        for one in stored:
            number = one.seal.number
            if missing := self._missing(number):
                yield missing
            wrong = self._wrong(one)
            if wrong:
                yield Finding(what=wrong[0], seal=number, reason=wrong[1])
            self._previous = None if wrong else one.hash
            self._position = self._position if wrong else one.seal.position
            self.newest, self.count = one, self.count + 1
        if cut := self._cut():
            yield cut

    def _missing(self, number: int) -> Finding | None:
        """Seals between the last one and `number`, unless they went with a restore."""
        last = self.newest.seal.number if self.newest else 0
        if number == last + 1:
            return None
        if last + 1 < self._first:
            self._previous, last = None, self._first - 1
            if number <= self._first:
                return None
        gone = next((one for one in self._set_backs if (one.kept, one.lost) == (last, number - 1)), None)
        if gone:
            self._previous = gone.hash
            return None
        self._previous = None
        which = f"seals {last + 1} to {number - 1} are" if number > last + 2 else f"seal {last + 1} is"
        return Finding(what="seal removed", seal=last + 1, reason=f"{which} missing, seal {number} follows")

    def _wrong(self, one: Stored) -> tuple[What, str] | None:
        seal = one.seal
        if seal.hash != one.hash:
            return "seal changed", "what it says is not what was hashed"
        if self._previous is not None and seal.previous != self._previous:
            return "seal forged", "it does not name the seal before it"
        if (self._first == 1 or one.leaves is not None) and not seal.is_signed(self._trusted):
            known = seal.public_key in self._trusted
            by = f"it is signed by {written(seal.public_key)}, which is not trusted here"
            return "seal forged", "its signature is wrong" if known else by
        if seal.position <= self._position:
            return "seal forged", "it ends before the seal before it"
        if self._anchor and self._anchor.number == seal.number and self._anchor.hash != seal.hash:
            return "seal forged", "it is not the one that the keys store remembers"
        return self._leaves(one)

    def _leaves(self, one: Stored) -> tuple[What, str] | None:
        if one.leaves is None:
            return None
        if len(one.leaves) != one.seal.streams:
            return "seal changed", f"it has {len(one.leaves)} leaves, and {one.seal.streams} were sealed"
        if merkle.root(one.leaves) != one.seal.root:
            return "seal changed", "its leaves are not those that were sealed"
        return None

    def _cut(self) -> Finding | None:
        last = self.newest.seal.number if self.newest else 0
        if self._anchor is None or self._anchor.number <= last:
            return None
        if SetBack(last, self._anchor.number, self._anchor.hash) in self._set_backs:
            return None
        newest = self._anchor.number
        which = f"seals {last + 1} to {newest} are" if newest > last + 1 else f"seal {newest} is"
        reason = f"{which} gone, which the keys store remembers: the log was cut off, or is an older one"
        return Finding(what="log cut off", seal=last + 1, reason=reason)
